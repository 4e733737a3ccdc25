"""How far a train-mode case of resnet.py stays from the kinks of the network.

    python tests/golden/margins.py resnet18 cifar 32 4 [FIRST COUNT]

A gradient jumps where rounding moves a ReLU's input across zero or changes which element of a window is the largest:
one such flip costs 1e-4 to 1e-2 of a gradient's norm, in PyTorch's f32 as in anybody else's. The margin of a case is
the distance of the nearest kink in units of the error (root mean square) that PyTorch's f32 makes at that place.
The numbers of the images in resnet.py are those with the largest margin among COUNT; this script finds them.
"""

import sys

import resnet
import torch
from torch import nn


def kinks(model, x):
    """One train-mode forward pass: for each ReLU and max-pool in order, what it saw."""
    seen = []
    hooks = [
        module.register_forward_pre_hook(lambda m, inputs: seen.append((m, inputs[0].detach().clone())))
        for module in model.modules()
        if isinstance(module, (nn.ReLU, nn.MaxPool2d))
    ]
    with torch.no_grad():
        model.train()(x)
    for hook in hooks:
        hook.remove()
    return seen


def distance(module, seen):
    if isinstance(module, nn.ReLU):
        return seen.abs().min().item()
    padded = nn.functional.pad(seen, (1, 1, 1, 1))
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2).flatten(4)
    first, second = windows.topk(2).values.unbind(-1)
    gap = (first - second)[first > 0]
    return gap.min().item()


def errors(arch, stem, size, batch, number):
    """Root mean square of the f32 error at each kink."""
    exact = kinks(resnet.build(arch, stem)[0], resnet.images(batch, size, number))
    rounded = kinks(
        resnet.build(arch, stem, torch.float32)[0], resnet.images(batch, size, number, torch.float32)
    )
    return [(a - b).square().mean().sqrt().item() for (_, a), (_, b) in zip(exact, rounded)]


def main():
    arch, stem, size, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    first, count = (int(sys.argv[5]), int(sys.argv[6])) if len(sys.argv) > 6 else (1000, 1)
    scale = errors(arch, stem, size, batch, first)
    best = 0.0
    model, _ = resnet.build(arch, stem)
    for number in range(first, first + count):
        seen = kinks(model, resnet.images(batch, size, number))
        margin = min(distance(module, a) / e for (module, a), e in zip(seen, scale))
        if margin > best:
            best = margin
            print(f"{arch} {stem}: images {number}: margin {margin:.2f}", flush=True)


if __name__ == "__main__":
    main()
