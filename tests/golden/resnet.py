"""Makes resnet.safetensors: features, gradients and running statistics of torchvision's ResNets, in f64.

    python tests/golden/resnet.py [OUT]

Weights and images come from formula.py. Every case `{arch}.{stem}` holds

    images                  [5]              number of the images in the formula, then their shape n, h, w, c
    first                   [tensors]        element 0 of each weight in numbered order: is the formula repeated right?
    eval.features           [n, width]       running statistics, pooled
    eval.map                [m, h, w, width] the same before pooling, first two images (resnet18)
    train.features          [n, width]       batch statistics
    train.loss              []               sum(features * r), r = formula number 2000
    train.grad.{name}       [<= 256]         elements 0, s, 2s, ... of dloss/d{name} as PyTorch stores it
                                             ([out, in, kh, kw]), s = max(1, numel / 256 - 1) with integer
                                             division: coprime with 3x3 and the widths, so all taps are seen
    train.grad_norm.{name}  []               l2 norm of the whole gradient
    train.after.{buffer}    [width]          running statistics after that one forward pass
"""

import pathlib
import sys

import formula
import torch
import torchvision
from safetensors.numpy import save_file
from torch import nn

# arch, stem, image size, batch, number of the images (from margins.py where there is a train mode), map, train mode
CASES = [
    ("resnet18", "cifar", 32, 4, 1243, True, True),
    ("resnet18", "imagenet", 64, 2, 1002, True, True),
    ("resnet34", "cifar", 32, 2, 1000, False, False),
    ("resnet50", "cifar", 32, 2, 1284, False, True),
    ("resnet50", "imagenet", 64, 2, 1182, False, True),
    ("wide_resnet50_2", "cifar", 32, 2, 1000, False, False),
]

GRADIENTS = [
    "conv1.weight",
    "bn1.weight",
    "bn1.bias",
    "layer1.0.conv2.weight",
    "layer2.0.downsample.0.weight",
    "layer2.0.downsample.1.bias",
    "layer3.1.bn2.weight",
    "layer4.1.conv2.weight",
]

LAST_NORM = {"resnet18": "layer4.1.bn2", "resnet50": "layer4.2.bn3"}


def build(arch, stem, dtype=torch.float64):
    """The headless model with formula weights, and the weights in numbered order."""
    model = getattr(torchvision.models, arch)(weights=None)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    model = model.to(dtype)
    return model, formula.fill(model)


def images(batch, size, number, dtype=torch.float64):
    """[n, c, h, w], filled in the order [n, h, w, c]."""
    x = torch.from_numpy(formula.signed(number, (batch, size, size, 3)))
    return x.permute(0, 3, 1, 2).contiguous().to(dtype)


def unpooled(model, x):
    """[n, h, w, c]: what the average pool sees."""
    seen = []
    hook = model.avgpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(x)
    hook.remove()
    return seen[0].permute(0, 2, 3, 1)


def sample(gradient):
    flat = gradient.flatten()
    return flat[:: max(1, flat.numel() // 256 - 1)][:256]


def case(arch, stem, size, batch, number, with_map, with_train, dtype=torch.float64):
    model, made = build(arch, stem, dtype)
    x = images(batch, size, number, dtype)
    out = {
        "images": torch.tensor([number, batch, size, size, 3]),
        "first": torch.tensor([value.flat[0] for _, value in made]),
    }

    model.eval()
    with torch.no_grad():
        out["eval.features"] = model(x)
        if with_map:
            out["eval.map"] = unpooled(model, x)[:2]

    if with_train:
        model.train()
        features = model(x)
        r = torch.from_numpy(formula.signed(formula.LOSS_FACTOR, tuple(features.shape))).to(dtype)
        loss = (features * r).sum()
        loss.backward()
        out["train.features"] = features
        out["train.loss"] = loss
        parameters = dict(model.named_parameters())
        for name in GRADIENTS:
            gradient = parameters[name].grad
            out[f"train.grad.{name}"] = sample(gradient)
            out[f"train.grad_norm.{name}"] = gradient.norm()
        buffers = dict(model.named_buffers())
        for norm in ("bn1", LAST_NORM[arch]):
            for statistic in ("running_mean", "running_var"):
                out[f"train.after.{norm}.{statistic}"] = buffers[f"{norm}.{statistic}"]
    return {f"{arch}.{stem}.{key}": value.detach() for key, value in out.items()}


def main():
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "resnet.safetensors"
    tensors = {}
    for arguments in CASES:
        tensors.update(case(*arguments))
    save_file({key: value.contiguous().float().numpy() for key, value in sorted(tensors.items())}, path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
