"""Writes augment.safetensors: views rendered by torchvision's v2 transforms from given parameters.

Run with torch, torchvision, numpy and safetensors installed: python tests/golden/augment.py
Each case has a policy and drawn parameters in the program's own words (metadata "cases"), the number of
an input image, and the expected view [size, size, 3] in float32.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.numpy import save_file
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


def image(rng, height, width):
    """Smooth waves plus noise, clipped at both ends, with a gray and a black patch."""
    y, x = np.mgrid[0:height, 0:width] / 16.0
    waves = [np.sin(rng.uniform(0.3, 2) * x + rng.uniform(0.3, 2) * y + rng.uniform(0, 6)) for _ in range(3)]
    pixels = 128 + 110 * np.stack(waves, -1) + rng.normal(0, 30, (height, width, 3))
    pixels[4:9, 5:12] = rng.integers(0, 256, (5, 7, 1))
    pixels[12:16, 2:8] = 0
    pixels[16:20, 2:8] = [255, 255, 0]
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def kernel(view, sigma):
    return view["blur"].get("kernel") or 2 * math.ceil(3 * sigma) + 1


def expected(view, drawn, pixels):
    x = F.to_dtype(torch.from_numpy(pixels).permute(2, 0, 1), torch.float32, scale=True)
    size = [view["size"]] * 2
    mode = InterpolationMode(view["interpolation"])
    if view["crop"] == "whole":
        x = F.resize(x, size, mode, antialias=True)
    elif "center" in view["crop"]:
        x = F.resize(x, [view["crop"]["center"]["resize"]], mode, antialias=True)
        x = F.center_crop(x, size)
    else:
        box = [drawn[k] for k in ("top", "left", "height", "width")]
        x = F.resized_crop(x, *box, size, mode, antialias=True)
    if drawn["flip"]:
        x = F.horizontal_flip(x)
    if drawn["jitter"]:
        jitter = view["jitter"]
        for which in drawn["order"]:
            name = ("brightness", "contrast", "saturation", "hue")[which]
            if jitter[name] > 0:
                x = getattr(F, f"adjust_{name}")(x, drawn[name])
    if drawn["gray"]:
        x = F.rgb_to_grayscale(x, num_output_channels=3)
    if drawn["sigma"] > 0:
        k = kernel(view, drawn["sigma"])
        x = F.gaussian_blur(x, [k, k], [drawn["sigma"]] * 2)
    if drawn["solarize"]:
        x = F.solarize(x, view["solarize"]["threshold"])
    x = F.normalize(x, view["mean"], view["std"])
    return x.permute(1, 2, 0).contiguous().numpy()


RANDOM = {"random": {"scale": [0.08, 1.0], "ratio": [0.75, 1.3333334]}}
ALL = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.5, "p": 1.0}
BLUR = {"sigma": [0.1, 2.0], "kernel": None, "p": 1.0}
VIEW = {
    "size": 20, "interpolation": "bilinear", "flip": 0.5, "gray": 0.2, "mean": [0.0] * 3, "std": [1.0] * 3,
    "crop": RANDOM, "jitter": ALL, "blur": BLUR, "solarize": {"threshold": 128 / 255, "p": 0.2},
}  # fmt: skip
DRAWN = {
    "flip": False, "jitter": False, "order": [0, 1, 2, 3], "brightness": 1.0, "contrast": 1.0,
    "saturation": 1.0, "hue": 0.0, "gray": False, "sigma": 0.0, "solarize": False,
}  # fmt: skip
SIZES = [(32, 32), (47, 61), (96, 64)]


def case(name, which, box=None, view=None, **drawn):
    """`box` is top, left, height and width; without it the whole image."""
    height, width = SIZES[which]
    box = dict(zip(("top", "left", "height", "width"), box or (0, 0, height, width)))
    return {"name": name, "image": which, "view": VIEW | (view or {}), "drawn": DRAWN | box | drawn}


BICUBIC = {"interpolation": "bicubic"}
WHOLE = {"crop": "whole"}
CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
JITTER = {"jitter": True, "brightness": 1.3, "contrast": 0.6, "saturation": 1.7, "hue": 0.13}
CASES = [
    case("identity", 0, view=WHOLE | {"size": 32}),
    case("identity, bicubic, normalised", 0, view=WHOLE | BICUBIC | CIFAR | {"size": 32}),
    case("whole, smaller", 2, view=WHOLE),
    case("one axis only", 0, (0, 5, 32, 20), view={"size": 32}),
    case("center", 1, view={"crop": {"center": {"resize": 28}}}),
    case("center, tall, bicubic", 2, view=BICUBIC | {"crop": {"center": {"resize": 27}}, "size": 22}),
    case("center, no room", 1, view={"crop": {"center": {"resize": 20}}}),
    case("crop, smaller", 1, (3, 7, 40, 51)),
    case("crop, larger", 0, (20, 11, 9, 12)),
    case("crop, larger and flipped", 0, (20, 11, 9, 12), flip=True),
    case("crop, smaller, bicubic", 2, (1, 2, 90, 60), view=BICUBIC),
    case("crop, larger, bicubic", 0, (5, 3, 10, 8), view=BICUBIC),
    case("crop to 5 pixels, bicubic", 2, (0, 0, 96, 64), view=BICUBIC | {"size": 5, "blur": None}),
    case("one pixel", 0, (31, 31, 1, 1), view={"size": 7}),
    case("brightness", 0, view=WHOLE, jitter=True, brightness=1.6),
    case("contrast", 0, view=WHOLE, jitter=True, contrast=1.7),
    case("saturation to zero", 0, view=WHOLE, jitter=True, saturation=0.0),
    case("hue", 0, view=WHOLE, jitter=True, hue=0.21),
    case("hue, the other way, bicubic", 0, (2, 2, 14, 17), view=BICUBIC, jitter=True, hue=-0.5, order=[3, 0, 1, 2]),
    case("hue alone, bicubic", 0, (2, 2, 14, 17), view=BICUBIC | {"jitter": ALL | {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}}, jitter=True, hue=0.07),
    case("jitter 3 1 0 2", 1, (4, 9, 40, 33), order=[3, 1, 0, 2], **JITTER),
    case("jitter 1 2 3 0", 1, (4, 9, 40, 33), order=[1, 2, 3, 0], flip=True, **JITTER),
    case("jitter 2 0 3 1", 2, (4, 9, 40, 33), view=CIFAR, order=[2, 0, 3, 1], **JITTER),
    case("jitter, some strengths zero", 1, view=BICUBIC | {"jitter": ALL | {"contrast": 0.0, "hue": 0.0}}, order=[3, 1, 0, 2], **JITTER),
    case("gray", 1, (4, 9, 40, 33), gray=True),
    case("gray after jitter", 1, (4, 9, 40, 33), view=CIFAR, gray=True, **JITTER),
    case("blur", 1, (4, 9, 40, 33), sigma=1.3),
    case("narrow blur", 1, (4, 9, 40, 33), sigma=0.1),
    case("wide blur", 1, (4, 9, 40, 33), view={"blur": BLUR | {"kernel": 23}}, sigma=2.0),
    case("blur that reaches the border", 1, (4, 9, 40, 33), view={"size": 7}, sigma=2.0),
    case("solarize, exact threshold", 0, view=WHOLE | {"size": 32}, solarize=True),
    case("everything", 2, (10, 0, 70, 62), view=BICUBIC | CIFAR | {"size": 33, "blur": BLUR | {"kernel": 3}}, flip=True, gray=True, sigma=0.9, solarize=True, order=[2, 1, 3, 0], **JITTER),
    case("everything in colour", 2, (10, 0, 70, 62), view=CIFAR, flip=True, sigma=0.9, solarize=True, order=[0, 3, 2, 1], **JITTER),
]  # fmt: skip


def main():
    torch.set_num_threads(1)
    rng = np.random.default_rng(2)
    images = [image(rng, *size) for size in SIZES]
    tensors = {f"image_{i}": x for i, x in enumerate(images)}
    for i, c in enumerate(CASES):
        tensors[f"case_{i}"] = expected(c["view"], c["drawn"], images[c["image"]])
    path = Path(__file__).with_suffix(".safetensors")
    metadata = {"cases": json.dumps(CASES), "torchvision": torchvision.__version__, "torch": torch.__version__}
    save_file(tensors, path, metadata=metadata)
    print(path.stat().st_size, "bytes,", len(CASES), "cases")


if __name__ == "__main__":
    main()
