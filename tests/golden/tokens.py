"""Makes tokens.safetensors: the pieces of a vision transformer and of MAE's masking from PyTorch, in f64.

    python tests/golden/tokens.py [OUT]

Every case stores its inputs beside its results; `r` is the factor of the loss sum(y * r) behind the gradients. The inputs are
`2u - 1` of formula.py with the numbers below.

    layer_norm.*     rows of 40 with weight and bias, eps 1e-6
    gelu.*           exact GELU at 257 points from -8 to 8
    embed.*          Conv2d patch embedding: images [n, h, w, c], weight [d, c, p, p]; y [n, patches, d] row by row of the grid
    unit.*           normalize(dim=1); the last row is shorter than 1e-12
    weight_norm.*    x W^T with W = v / |v| by rows
    mae.*            masking and unmasking as MAE does it, with noise from Philox4x32-10: seen, restored, and the gradients of the
                     tokens, the class token, the mask token and both tables of positions; `ids` and `place` as f32
"""

import pathlib
import sys

import formula
import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn import functional as F

MASK_PURPOSE = 8


def tensor(number, *shape):
    return torch.from_numpy(formula.signed(number, shape).astype(np.float64))


def gradients(y, r, wanted):
    """`y` and the gradient of sum(y * r) by name."""
    (y * r).sum().backward()
    yield "y", y
    yield "r", r
    for name, value in wanted.items():
        yield name, value
        yield f"d{name}", value.grad


def leaf(value):
    return value.clone().requires_grad_()


def layer_norm():
    x, w, b = leaf(3 * tensor(4000, 6, 40) + 1), leaf(1 + 0.5 * tensor(4001, 40)), leaf(tensor(4002, 40))
    y = F.layer_norm(x, (40,), w, b, eps=1e-6)
    return gradients(y, tensor(4003, 6, 40), {"x": x, "weight": w, "bias": b})


def gelu():
    x = leaf(torch.linspace(-8, 8, 257, dtype=torch.float64)[:, None])
    return gradients(F.gelu(x), tensor(4010, 257, 1), {"x": x})


def embed():
    images, w, b = tensor(4020, 2, 8, 12, 3), leaf(tensor(4021, 10, 3, 4, 4)), leaf(tensor(4022, 10))
    y = F.conv2d(images.permute(0, 3, 1, 2), w, b, stride=4).flatten(2).transpose(1, 2)
    yield "images", images
    yield from gradients(y, tensor(4023, 2, 6, 10), {"weight": w, "bias": b})


def unit():
    x = tensor(4030, 5, 12)
    x[4] *= 1e-14
    x = leaf(x)
    return gradients(F.normalize(x, dim=1), tensor(4031, 5, 12), {"x": x})


def weight_norm():
    x, v = leaf(tensor(4040, 7, 6)), leaf(2 * tensor(4041, 11, 6))
    y = x @ (v / v.norm(dim=1, keepdim=True)).T
    return gradients(y, tensor(4042, 7, 11), {"x": x, "v": v})


def philox(counter, key):
    """Philox4x32-10."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def noise(seed, epoch, sample, count):
    words = []
    for block in range(-(-count // 4)):
        words += philox([block, sample, epoch, MASK_PURPOSE << 24], [seed, 0])
    return [(w >> 8) / 2**24 for w in words[:count]]


def mae():
    n, patches, keep, d, seed, epoch = 3, 16, 4, 6, 21, 5
    samples = [40, 7, 1_000_003]
    tokens, cls, mask_token = leaf(tensor(4050, n, patches, d)), leaf(tensor(4051, 1, 1, d)), leaf(tensor(4052, 1, 1, d))
    positions, decoder_positions = leaf(tensor(4053, 1, 1 + patches, d)), leaf(tensor(4054, 1, 1 + patches, d))
    order = torch.tensor([noise(seed, epoch, s, patches) for s in samples]).argsort(dim=1)
    place = order.argsort(dim=1)
    ids = order[:, :keep]
    gathered = lambda x, index: torch.gather(x, 1, index[:, :, None].expand(-1, -1, d))
    # As the encoder of MAE: positions first, then the choice, then the class token.
    seen = gathered(tokens + positions[:, 1:], ids)
    seen = torch.cat([(cls + positions[:, :1]).expand(n, -1, -1), seen], dim=1)
    # As its decoder, without the layers between.
    filled = torch.cat([seen[:, 1:], mask_token.expand(n, patches - keep, -1)], dim=1)
    restored = torch.cat([seen[:, :1], gathered(filled, place)], dim=1) + decoder_positions
    yield "samples", torch.tensor(samples)
    yield "ids", ids
    yield "place", place
    yield "seen", seen
    yield "chosen_tokens", gathered(tokens, ids)
    wanted = {"cls_token": cls, "mask_token": mask_token, "pos_embed": positions, "decoder_pos_embed": decoder_positions}
    yield from gradients(restored, tensor(4055, n, 1 + patches, d), wanted)
    yield "dchosen_tokens", gathered(tokens.grad, ids)


def main():
    made = {}
    for case in (layer_norm, gelu, embed, unit, weight_norm, mae):
        for name, value in case():
            made[f"{case.__name__}.{name}"] = value.detach().numpy().astype(np.float32).copy()
    out = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("tokens.safetensors")
    save_file(dict(sorted(made.items())), out)


if __name__ == "__main__":
    main()
