"""Makes vit.safetensors: features and gradients of timm's ViTs, in f64.

    python tests/golden/vit.py [OUT]

Weights are those of methods.py (the formula's tensor of a name's number), with names as in timm; images are the formula's
tensor 4000, [n, size, size, 3]. Every case `{arch}.{patch}.{positions}.{size}` holds

    class, mean               [n, width]     class token and mean of the patch tokens, after the last norm
    tokens                    [256]          elements 0, s, 2s, ... of all tokens, s = max(1, numel / 256)
    block                     [256]          the same of what the second block puts out
    gradient.{name}           [2]            of sum(class * r), r = formula number 2000: l2 norm, and the sum of its
                                             elements times tensor 5000 of the formula (first case)
"""

import pathlib
import sys

import formula
import torch
from methods import fill, two
from safetensors.numpy import save_file
from timm.models.vision_transformer import VisionTransformer

WIDTHS = {"vit_nano": (64, 4, 2), "vit_tiny": (192, 12, 3), "vit_small": (384, 12, 6), "vit_base": (768, 12, 12)}
# arch, patch, size of the images with positions, size of the images, gradients
CASES = [
    ("vit_tiny", 4, 32, 32, True),
    ("vit_tiny", 2, 32, 32, False),
    ("vit_tiny", 8, 32, 48, False),
    ("vit_tiny", 8, 64, 32, False),
    ("vit_small", 8, 32, 32, False),
    ("vit_base", 16, 64, 64, False),
    ("vit_nano", 14, 28, 28, False),
]


def sample(x):
    flat = x.flatten()
    return flat[:: max(1, flat.numel() // 256)][:256]


def case(arch, patch, positions, size, gradients):
    width, depth, heads = WIDTHS[arch]
    model = VisionTransformer(
        img_size=positions, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, dynamic_img_size=True
    )
    fill(model)
    model = model.double().eval()
    x = torch.from_numpy(formula.signed(4000, (2, size, size, 3))).permute(0, 3, 1, 2).contiguous()
    seen = []
    model.blocks[1].register_forward_hook(lambda _, inputs, output: seen.append(output))
    tokens = model.forward_features(x)
    out = {"class": tokens[:, 0], "mean": tokens[:, 1:].mean(1), "tokens": sample(tokens), "block": sample(seen[0])}
    if gradients:
        r = torch.from_numpy(formula.signed(formula.LOSS_FACTOR, tuple(tokens[:, 0].shape)))
        (tokens[:, 0] * r).sum().backward()
        out |= {f"gradient.{n}": two(p.grad) for n, p in model.named_parameters()}
    return {f"{arch}.{patch}.{positions}.{size}.{key}": value.detach() for key, value in out.items()}


def main():
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "vit.safetensors"
    tensors = {}
    for arguments in CASES:
        tensors |= case(*arguments)
    save_file({key: value.contiguous().float().numpy() for key, value in sorted(tensors.items())}, path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
