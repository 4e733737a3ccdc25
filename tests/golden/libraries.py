"""Makes libraries/: what Hugging Face's transformers and lightly write themselves, and the features that they compute from it.

    pip install torch==2.15.0 torchvision==0.29.2 transformers==5.24.0 lightly==1.6.0 pytorch-lightning==2.6.6
    python tests/golden/libraries.py [OUT]

`NAME/` is a folder of `save_pretrained`: its JSON files as they are, and of each safetensors file the head (`FILE.head`) alone,
because the numbers come from a formula (filled.py). `NAME.pt` and `NAME.ckpt` are whole files of `torch.save` and of Lightning; their
tensors overlap in three short storages, so that the files are small.

`features.safetensors` has what each model gives for images number 4000 of formula.py, [2, 32, 32, 3]: of a ViT the class token after
the last norm, of a ResNet the pooled map.
"""

import math
import pathlib
import sys
import tempfile

import pytorch_lightning
import torch
import torchvision
import transformers as hf
from lightly.models import ResNetGenerator
from lightly.models.modules import MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad
from safetensors.torch import save_file
from torch import nn

import formula
from filled import fill

VIT = dict(hidden_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8)
MLP = dict(intermediate_size=256)
DECODER = dict(decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=1, decoder_intermediate_size=64)
RESNET = dict(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic")


def images():
    return torch.from_numpy(formula.signed(4000, (2, 32, 32, 3))).float().permute(0, 3, 1, 2)


def pretrained(out, model, processor, **how):
    """Saves a model, puts the formula's numbers into its files, keeps all but those, and gives the model that the library reads."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model.save_pretrained(folder, **how)
        processor.save_pretrained(folder)
        fill(folder, out)
        return type(model).from_pretrained(folder).eval()


def overlapping(model):
    """Puts every tensor of a model into a few thousand numbers that they share."""
    small = torch.from_numpy(0.03 * formula.signed(4001, (4200,))).float()
    large = torch.from_numpy(0.3 * formula.signed(4002, (4000,))).float()
    positive = torch.from_numpy(0.5 + formula.uniform(4003, (600,))).float()
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for i, (name, tensor) in enumerate((n, t) for n, t in tensors if t.is_floating_point()):
        fan_in = math.prod(tensor.shape[1:])
        whole = positive if tensor.ndim == 1 and name.endswith(("weight", "running_var")) else large if fan_in < 500 else small
        tensor.data = whole.as_strided(tensor.shape, [5, 3, 2, 1][4 - tensor.ndim :], i % 16)
    return model.eval()


class SimCLR(pytorch_lightning.LightningModule):
    """As in lightly's examples: a torchvision ResNet without its classifier, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
        self.projection_head = SimCLRProjectionHead(512, 64, 32)


class MoCo(pytorch_lightning.LightningModule):
    """As in lightly's benchmark on CIFAR-10: its own ResNet, whose momentum encoder is not the one that is wanted."""

    def __init__(self):
        super().__init__()
        backbone = lambda: nn.Sequential(*list(ResNetGenerator("resnet-18").children())[:-1], nn.AdaptiveAvgPool2d(1))
        self.backbone, self.projection_head = backbone(), MoCoProjectionHead(512, 64, 32)
        self.backbone_momentum, self.projection_head_momentum = backbone(), MoCoProjectionHead(512, 64, 32)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)


def lightning(path, model):
    """A checkpoint as Lightning's trainer writes it."""
    trainer = pytorch_lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "libraries"
    out.mkdir()
    torch.manual_seed(0)
    class_token = lambda model: model(images()).last_hidden_state[:, 0]
    pooled = lambda model: model(images()).pooler_output.flatten(1)
    in_order = torch.arange(16.0).expand(2, 16)
    vit = lambda: hf.ViTModel(hf.ViTConfig(**VIT, **MLP))
    classifier = lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT, **MLP))
    mae = lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**VIT, **MLP, **DECODER, mask_ratio=0.0))
    dinov2 = lambda: hf.Dinov2Model(hf.Dinov2Config(**VIT))
    resnet = lambda: hf.ResNetModel(hf.ResNetConfig(**RESNET))
    labelled = lambda: hf.ResNetForImageClassification(hf.ResNetConfig(**RESNET))
    vits, bits, convs = hf.ViTImageProcessor(), hf.BitImageProcessor(), hf.ConvNextImageProcessor()
    features = {}
    with torch.no_grad():
        save = lambda name, *of, **how: pretrained(out / name, *of, **how)
        features["vit"] = class_token(save("vit", vit(), vits))
        features["vit_labelled"] = class_token(save("vit_labelled", classifier(), vits).vit)
        features["mae"] = save("mae", mae(), vits).vit(images(), noise=in_order).last_hidden_state[:, 0]
        features["dinov2"] = class_token(save("dinov2", dinov2(), bits))
        features["resnet"] = pooled(save("resnet", resnet(), convs))
        features["resnet_labelled"] = pooled(save("resnet_labelled", labelled(), convs).resnet)
        features["resnet_shards"] = pooled(save("resnet_shards", resnet(), convs, max_shard_size="150KB"))
        for name, model, of in [
            ("vit.pt", classifier(), lambda model: class_token(model.vit)),
            ("mae.pt", mae(), lambda model: model.vit(images(), noise=in_order).last_hidden_state[:, 0]),
            ("dinov2.pt", dinov2(), class_token),
            ("resnet.pt", resnet(), pooled),
        ]:
            torch.save(overlapping(model).state_dict(), out / name)
            features[name] = of(model)
        for name, model in [("simclr.ckpt", SimCLR()), ("moco.ckpt", MoCo())]:
            lightning(out / name, overlapping(model))
            features[name] = model.backbone(images()).flatten(1)
    save_file({name: value.contiguous() for name, value in features.items()}, out / "features.safetensors")
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size:8} {path.relative_to(out)}")
    for name, value in features.items():
        print(name, tuple(value.shape), value.std().item())


if __name__ == "__main__":
    main()
