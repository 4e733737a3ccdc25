"""Features of random checkpoints against the libraries that wrote them, in float64."""

import argparse
import collections
import shutil

import timm
import torch
import torchvision
import transformers as hf
from safetensors.torch import save_file
from torch import nn

from common import angle, channels_last, check, double, fill, inputs, pictures, relative, tapped

hf.utils.logging.disable_progress_bar()

# Pictures have the encoders' size, so that nothing is resized: pixels.py checks that by itself.
FLAGS = ["--normalize", "imagenet"]


def at(size):
    # Batches of a few: a batch takes its time even where it is not full.
    return [*FLAGS, "--size", size, "--resize", size, "--batch", 2]


def save(bench, model, name="weights.pth"):
    path = bench.folder / name
    torch.save(model.state_dict(), path)
    return path


def of_timm(name, seed=0, **how):
    return fill(timm.create_model(name, pretrained=False, num_classes=0, **how), seed)


def compare(bench, models, size, bound, cosine):
    """Pooled features of some models."""
    data, pixels = pictures(bench, "pictures", [(size, size)] * 2)
    x = inputs(pixels, "imagenet")
    for name, make in models.items():
        model = make()
        found = bench.embed(save(bench, model), data, *at(size))
        model.double()
        right = double(lambda: model.forward_features(x)[:, 0] if hasattr(model, "blocks") else model(x))
        yield name, relative(found, right), bound
        yield f"{name}, 1 - cosine", angle(found, right), cosine


def torchvision_resnet(name):
    model = getattr(torchvision.models, name)()
    fill(model).fc = nn.Identity()
    return model


@check("1.1")
def resnets(bench):
    """ResNets of timm and torchvision at 224, random weights and statistics of batch norms: pooled features, largest error over largest value."""
    models = {f"timm {name}": lambda name=name: of_timm(name) for name in ("resnet18", "resnet34", "resnet50")}
    models |= {f"torchvision {name}": lambda name=name: torchvision_resnet(name) for name in ("resnet18", "wide_resnet50_2")}
    yield from compare(bench, models, 224, BOUND["resnet"], 1.3e-13)


@check("1.2")
def resnet_maps(bench):
    """The whole map of a ResNet-18 (places first, then channels) and a layer inside."""
    data, pixels = pictures(bench, "pictures", [(224, 224)] * 2)
    model, x = of_timm("resnet18"), inputs(pixels, "imagenet")
    path = save(bench, model)
    model.double()
    found = bench.embed(path, data, *at(224), "--features", "map")
    yield "map", relative(found, double(lambda: channels_last(model.forward_features(x)))), BOUND["map"]
    found = bench.embed(path, data, *at(224), "--layer", "layer3.0")
    yield "layer3.0", relative(found, double(lambda: channels_last(tapped(model, "layer3.0", x)))), BOUND["layer3.0"]


@check("1.3")
def vits(bench):
    """ViTs of timm at 224, random weights, positions and layer scales: the class token after the last norm."""
    names = ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch32_224", "vit_small_patch8_224", "vit_base_patch16_224"]
    models = {name: lambda name=name: of_timm(name) for name in names}
    models["vit_small_patch14_dinov2, layer scale"] = lambda: of_timm("vit_small_patch14_dinov2", img_size=224)
    yield from compare(bench, models, 224, BOUND["vit"], 1.2e-12)


@check("1.4")
def tokens(bench):
    """All tokens of a ViT, their mean, a block inside."""
    data, pixels = pictures(bench, "pictures", [(224, 224)] * 2)
    model, x = of_timm("vit_tiny_patch16_224"), inputs(pixels, "imagenet")
    path = save(bench, model)
    model.double()
    right = double(lambda: model.forward_features(x))
    found = bench.embed(path, data, *at(224), "--features", "map")
    yield "map", relative(found, right.reshape(len(right), -1)), BOUND["tokens"]
    yield "mean", relative(bench.embed(path, data, *at(224), "--features", "mean"), right[:, 1:].mean(1)), BOUND["mean"]
    found = bench.embed(path, data, *at(224), "--layer", "blocks.5")
    yield "blocks.5", relative(found, double(lambda: tapped(model, "blocks.5", x).flatten(1))), BOUND["block"]


@check("1.4")
def other_sizes(bench):
    """Files of ViTs whose positions are of another size than the pictures: they are interpolated as timm does."""
    data, pixels = pictures(bench, "pictures", [(224, 224)] * 2)
    smaller, pixels_160 = pictures(bench, "smaller", [(160, 160)] * 2)
    for name, size, data, pixels in [
        ("vit_tiny_patch16_224", 160, smaller, pixels_160),
        ("vit_small_patch14_dinov2", 224, data, pixels),
    ]:
        model = of_timm(name, dynamic_img_size=True)
        found = bench.embed(save(bench, model), data, *at(size))
        model.double()
        right = double(lambda: model.forward_features(inputs(pixels, "imagenet"))[:, 0])
        yield f"{name} at {size}", relative(found, right), BOUND["interpolated"]


@check("1.5")
def torchvision_vit(bench):
    """torchvision's vit_b_16: the class token."""
    data, pixels = pictures(bench, "pictures", [(224, 224)] * 2)
    model = fill(torchvision.models.vit_b_16())
    found = bench.embed(save(bench, model), data, *at(224))
    model.heads = nn.Identity()
    yield "vit_b_16", relative(found, double(lambda: model.double()(inputs(pixels, "imagenet")))), BOUND["torchvision vit"]


def below(prefix, state):
    return collections.OrderedDict((prefix + name, t) for name, t in state.items())


def mlp(name, *widths):
    """The tensors of a head."""
    return {f"{name}.{i}.weight": torch.randn(b, a) for i, (a, b) in enumerate(zip(widths, widths[1:]))}


def strided(state):
    """The same numbers as views of larger storages, with other strides."""

    def one(t):
        if t.ndim == 4:
            return t.contiguous(memory_format=torch.channels_last)
        whole = torch.zeros(*t.shape, 2, dtype=t.dtype)
        whole[..., 1] = t
        return whole[..., 1]

    return collections.OrderedDict((name, one(t)) for name, t in state.items())


def resnet_wrappers(model, other):
    """File name to what is saved. `other` is an encoder that must not be taken."""
    full, decoy = model.state_dict(), other.state_dict()
    bare = collections.OrderedDict((n, t) for n, t in full.items() if not n.startswith("fc."))
    no = collections.OrderedDict((n, t) for n, t in decoy.items() if not n.startswith("fc."))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    numbered = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    sequence = {f"{number}{n[len(ours) :]}": t for number, ours in numbered.items() for n, t in bare.items() if n.startswith(ours + ".")}
    head = mlp("module.projector", 512, 128, 64)
    return {
        "plain.pth": full,
        "strided.pth": strided(full),
        "ddp.pth": {"state_dict": below("module.", full), "optimizer": optimizer.state_dict(), "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        "compiled.pth": below("_orig_mod.", full),
        "ddp_compiled.pth": below("module._orig_mod.", full),
        "ema.pth": {"state_dict": decoy, "state_dict_ema": full},
        "averaged.pth": torch.optim.swa_utils.AveragedModel(model).state_dict(),
        "mocov2.pth.tar": {"state_dict": below("module.encoder_q.", full) | below("module.encoder_k.", decoy) | {"module.queue": torch.randn(8, 16)}},
        "mocov3.pth.tar": {"state_dict": below("module.base_encoder.", full) | below("module.momentum_encoder.", decoy) | mlp("module.predictor", 64, 64)},
        "simsiam.pth.tar": {"state_dict": below("module.encoder.", bare) | mlp("module.encoder.fc", 512, 64) | mlp("module.predictor", 64, 64)},
        "barlow.pth": {"model": below("module.backbone.", bare) | head},
        "vicreg.pth": {"model": below("module.backbone.", bare) | head},
        "dino.pth": {
            "student": below("module.backbone.", no) | mlp("module.head.mlp", 512, 64),
            "teacher": below("backbone.", bare) | mlp("head.mlp", 512, 64),
        },
        "vissl.torch": {"classy_state_dict": {"base_model": {"model": {"trunk": below("_feature_blocks.", bare), "heads": {}}}}},
        "lightning.ckpt": {"pytorch-lightning_version": "2.6", "state_dict": below("model.", full), "epoch": 1, "callbacks": {}},
        "sequence.pth": sequence,
    }


@check("1.7")
def wrappers(bench):
    """Files in the forms and wrappers that people publish, each with the right encoder and where there are two a wrong one."""
    data, pixels = pictures(bench, "pictures", [(64, 64)] * 4)
    x = inputs(pixels, "imagenet")

    def files(model, other, wrapped, right, bound):
        for name, content in wrapped.items():
            torch.save(content, bench.folder / name)
        torch.save(model.state_dict(), bench.folder / "legacy.pth", _use_new_zipfile_serialization=False)
        torch.save(model.state_dict(), bench.folder / "protocol4.pth", pickle_protocol=4)
        torch.save(model, bench.folder / "module.pth")
        torch.save(nn.DataParallel(model), bench.folder / "module_legacy.pth", _use_new_zipfile_serialization=False)
        for name in [*wrapped, "legacy.pth", "protocol4.pth", "module.pth", "module_legacy.pth"]:
            yield name, relative(bench.embed(bench.folder / name, data, *at(64)), right), bound

    model, other = fill(torchvision.models.resnet18()), fill(torchvision.models.resnet18(), 1)
    headless = torchvision.models.resnet18()
    headless.load_state_dict(model.state_dict())
    headless.fc = nn.Identity()
    right = double(lambda: headless.double().eval()(x))
    for name, *rest in files(model, other, resnet_wrappers(model, other), right, BOUND["wrapped resnet"]):
        yield f"ResNet-18, {name}", *rest

    model, other = (of_timm("vit_tiny_patch16_224", seed, img_size=64) for seed in (0, 1))
    state, decoy = model.state_dict(), other.state_dict()
    decoder = {"mask_token": torch.randn(1, 1, 32), "decoder_embed.weight": torch.randn(32, 192), "decoder_pos_embed": torch.randn(1, 17, 32),
               "decoder_blocks.0.norm1.weight": torch.randn(32), "decoder_pred.weight": torch.randn(768, 32)}  # fmt: skip
    wrapped = {
        "mae.pth": {"model": state | decoder, "args": argparse.Namespace(model="mae"), "epoch": 3},
        "dino.pth": {
            "student": below("module.backbone.", decoy) | mlp("module.head.mlp", 192, 64),
            "teacher": below("backbone.", state) | mlp("head.mlp", 192, 64), "dino_loss": {"center": torch.zeros(1, 64)},
        },
        "mocov3.pth.tar": {"state_dict": below("module.base_encoder.", state) | below("module.momentum_encoder.", decoy)},
    }  # fmt: skip
    right = double(lambda: of_timm("vit_tiny_patch16_224", 0, img_size=64).double().forward_features(x)[:, 0])
    for name, *rest in files(model, other, wrapped, right, BOUND["wrapped vit"]):
        yield f"ViT-Tiny, {name}", *rest


@check("1.8")
def dtypes(bench):
    """Weights in half precisions and double, safetensors and torch.save, against the same rounded weights in float64."""
    data, pixels = pictures(bench, "pictures", [(64, 64)] * 4)
    x = inputs(pixels, "imagenet")
    for name, make in [("ResNet-18", lambda: of_timm("resnet18")), ("ViT-Tiny", lambda: of_timm("vit_tiny_patch16_224", img_size=64))]:
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            model = make().to(dtype)
            state = {key: t.contiguous() for key, t in model.state_dict().items()}
            torch.save(state, bench.folder / "weights.pth")
            save_file(state, bench.folder / "weights.safetensors")
            model.double()
            right = double(lambda: model.forward_features(x)[:, 0] if hasattr(model, "blocks") else model(x))
            for path in ("weights.pth", "weights.safetensors"):
                what = f"{name}, {str(dtype).removeprefix('torch.')}, {path.rsplit('.', 1)[1]}"
                yield what, relative(bench.embed(bench.folder / path, data, *at(64)), right), BOUND["dtype"]


@check("1.10")
def hugging_face(bench):
    """What transformers' save_pretrained writes, with its config.json: folders, files, several files, `.bin`, classifiers; epsilons of their own."""
    data, pixels = pictures(bench, "pictures", [(64, 64)] * 4)
    x = inputs(pixels, "imagenet")
    tiny = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, image_size=64, patch_size=16)
    dinov2 = dict(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, image_size=64, patch_size=16)
    basic = dict(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    decoder = dict(decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=128)
    class_token = lambda model: model(x).last_hidden_state[:, 0]
    pooled = lambda model: model(x).pooler_output.flatten(1)
    order = torch.arange(16.0).expand(len(x), 16)  # nothing masked, nothing moved
    models = {
        "ViTModel": (lambda: hf.ViTModel(hf.ViTConfig(**tiny)), class_token),
        "ViTModel, eps .01, 12 heads": (lambda: hf.ViTModel(hf.ViTConfig(**tiny | dict(num_attention_heads=12, layer_norm_eps=0.01))), class_token),
        "ViTForImageClassification": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**tiny)), lambda m: class_token(m.vit)),
        "ViTMAEForPreTraining": (
            lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**tiny, **decoder, mask_ratio=0.0)),
            lambda m: m.vit(x, noise=order).last_hidden_state[:, 0],
        ),
        "ViTMSNModel": (lambda: hf.ViTMSNModel(hf.ViTMSNConfig(**tiny)), class_token),
        "Dinov2Model": (lambda: hf.Dinov2Model(hf.Dinov2Config(**dinov2)), class_token),
        "ResNetModel, basic": (lambda: hf.ResNetModel(hf.ResNetConfig(**basic)), pooled),
        "ResNetModel, bottleneck": (lambda: hf.ResNetModel(hf.ResNetConfig()), pooled),
        "ResNetForImageClassification": (lambda: hf.ResNetForImageClassification(hf.ResNetConfig(**basic)), lambda m: pooled(m.resnet)),
    }
    for i, (name, (make, features)) in enumerate(models.items()):
        folder, model = bench.folder / f"model{i}", fill(make())
        model.save_pretrained(folder)
        whole = [("folder", folder), ("file", folder / "model.safetensors")]
        if i == 0:
            sharded, binary = bench.folder / "sharded", bench.folder / "binary"
            model.save_pretrained(sharded, max_shard_size="5MB")
            assert len(list(sharded.glob("*.safetensors"))) > 1
            binary.mkdir()
            torch.save(model.state_dict(), binary / "pytorch_model.bin")
            shutil.copy(folder / "config.json", binary)
            whole += [("several files", sharded), (".bin", binary / "pytorch_model.bin")]
        model = model.double().eval()
        right = double(lambda: features(model))
        for form, path in whole if i == 0 else whole[:1]:
            yield f"{name}, {form}", relative(bench.embed(path, data, *at(64)), right), BOUND["hugging face"]


# Errors of f32 over the largest value; README.md says where they are from.
BOUND = {
    "resnet": 7.0e-7,
    "map": 2.2e-6,
    "layer3.0": 1.3e-6,
    "vit": 1.6e-6,
    "tokens": 8.6e-7,
    "mean": 4.5e-7,
    "block": 7.3e-7,
    "interpolated": 1.4e-6,
    "torchvision vit": 9.9e-7,
    "wrapped resnet": 9.3e-7,
    "wrapped vit": 8.0e-7,
    "dtype": 9.8e-7,
    "hugging face": 1.5e-6,
}
