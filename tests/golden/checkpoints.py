"""Makes checkpoints/: small files of torch.save in the forms that tests/checkpoint/mod.rs reads.

    python tests/golden/checkpoints.py [OUT]

`values*.pt` hold the same numbers in several formats, as names say: state['plain'] is arange(24) / 8 - 1 as [2, 3, 4]; 'turned' is
plain.permute(2, 0, 1); 'part' is plain[:, 1:, ::2]; 'wide' is one number expanded to [2, 5]; 'half', 'bfloat', 'double', 'long' are
plain in other types; 'parameter' is nn.Parameter(plain); 'empty' has no elements. Around it lie an argparse.Namespace, an optimizer,
numpy scalars and what else people save. `module.pt` is a whole nn.Module.

The others have the names of real models in the wrappers of those who publish them, all their tensors views of one zero each, so
that they are small.
"""

import argparse
import collections
import pathlib
import sys
import types

import numpy as np
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def state():
    plain = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8 - 1
    return collections.OrderedDict(
        plain=plain,
        turned=plain.permute(2, 0, 1),
        part=plain[:, 1:, ::2],
        wide=torch.tensor(0.5).expand(2, 5),
        half=plain.half(),
        bfloat=plain.bfloat16(),
        double=plain.double(),
        long=torch.arange(-3, 3),
        parameter=nn.Parameter(plain),
        empty=torch.zeros(0, 3),
    )


class Config:
    def __init__(self):
        self.lr, self.milestones = 0.1, [10, 20]


def around(state):
    net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "best": np.float64(91.5),
        "seen": {1, 2},
        "arch": "none",
        "huge": 1 << 80,
        "args": argparse.Namespace(lr=0.1, names=["a", "b"]),
        "config": Config(),
        "space": types.SimpleNamespace(a=1),
        "array": np.arange(3),
        "optimizer": optimizer.state_dict(),
        "state": state,
    }


def zeros(state):
    zero = {}
    one = lambda t: zero.setdefault(t.dtype, torch.zeros(1, dtype=t.dtype))[0].expand(t.shape)
    return collections.OrderedDict((name, one(t)) for name, t in state.items())


def below(prefix, state):
    return collections.OrderedDict((prefix + name, t) for name, t in state.items())


def without(state, *starts):
    return collections.OrderedDict((n, t) for n, t in state.items() if not n.startswith(starts))


def mlp(name, *widths):
    return zeros({f"{name}.{i}.weight": torch.zeros(b, a) for i, (a, b) in enumerate(zip(widths, widths[1:]))})


def wrapped():
    resnet = zeros(torchvision.models.resnet18().state_dict())
    bare = without(resnet, "fc.")
    cifar = torchvision.models.resnet18()
    cifar.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    cifar = zeros(without(cifar.state_dict(), "fc."))
    vit = VisionTransformer(img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=2, num_classes=10)
    nano = zeros(vit.state_dict())
    trunk = without(nano, "head.")
    small = VisionTransformer(img_size=32, patch_size=16, embed_dim=384, depth=12, num_heads=12, num_classes=0)
    theirs = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=4, num_heads=2, hidden_dim=64, mlp_dim=256
    )
    decoder = zeros({
        "mask_token": torch.zeros(1, 1, 32), "decoder_embed.weight": torch.zeros(32, 64), "decoder_pos_embed": torch.zeros(1, 65, 32),
        "decoder_blocks.0.norm1.weight": torch.zeros(32), "decoder_pred.weight": torch.zeros(48, 32),
    })
    momentum = {"optimizer": {"state": {0: {"momentum_buffer": resnet["conv1.weight"]}}, "param_groups": []}, "epoch": 1}
    moco = lambda one, other: below(f"module.{one}.", resnet) | below(f"module.{other}.", resnet)
    projector = mlp("module.projector", 512, 128)
    return {
        "torchvision.pth": resnet,
        "timm.pth": {"state_dict_ema": below("module.", nano), "state_dict": nano, "epoch": 1},
        "compiled.pth": {"model": below("_orig_mod.", trunk)},
        "mae.pth": {"model": trunk | decoder, "args": argparse.Namespace(model="mae"), **momentum},
        "dino.pth": {
            "student": below("module.backbone.", trunk) | mlp("module.head.mlp", 64, 32), "args": argparse.Namespace(),
            "teacher": below("backbone.", trunk) | mlp("head.mlp", 64, 32), "dino_loss": {"center": torch.zeros(1, 32)},
        },
        "simsiam.pth.tar": {"arch": "resnet18", "state_dict": below("module.encoder.", bare)
                            | mlp("module.encoder.fc", 512, 64) | mlp("module.predictor", 64, 64), **momentum},
        "mocov2.pth.tar": {"state_dict": moco("encoder_q", "encoder_k") | {"module.queue": torch.zeros(2, 3)}, **momentum},
        "mocov3.pth.tar": {"state_dict": moco("base_encoder", "momentum_encoder") | mlp("module.predictor", 64, 64)},
        "barlow.pth": {"model": below("module.backbone.", bare) | projector | zeros({"module.bn.running_mean": torch.zeros(3)})},
        "vicreg.pth": {"model": below("module.backbone.", bare) | projector},
        "sololearn.ckpt": {"pytorch-lightning_version": "2.0", "hyper_parameters": Config(), "optimizer_states": [momentum["optimizer"]],
                           "state_dict": below("backbone.", cifar) | below("momentum_backbone.", cifar) | mlp("classifier", 512, 10)},
        "vissl.torch": {"classy_state_dict": {"base_model": {"model": {"trunk": below("_feature_blocks.", bare), "heads": {}}}}},
        "dejavu.pth": {"model": below("module.net.", bare) | projector},
        "torchvision_vit.pth": zeros(theirs.state_dict()),
        "mocov3_vits.pth.tar": {"state_dict": below("module.base_encoder.", zeros(small.state_dict()))},
        "registers.pth": trunk | zeros({"register_tokens": torch.zeros(1, 4, 64)}),
    }


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "checkpoints"
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    torch.save(around(state()), out / "values.pt")
    torch.save(around(state()), out / "values_protocol4.pt", pickle_protocol=4)
    torch.save(around(state()), out / "values_legacy.pt", _use_new_zipfile_serialization=False)
    net = nn.Sequential(collections.OrderedDict(conv1=nn.Conv2d(3, 2, 1, bias=False), bn1=nn.BatchNorm2d(2)))
    net.conv1.weight.data.copy_(torch.arange(6.0).reshape(2, 3, 1, 1))
    torch.save(net, out / "module.pt")
    for i, (name, content) in enumerate(wrapped().items()):
        torch.save(content, out / name, _use_new_zipfile_serialization=i % 2 == 0)
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size:8} {path.name}")


if __name__ == "__main__":
    main()
