"""Pixels: decoding, resizing, packing and views against Pillow and torchvision. Errors are in levels, 1/255 of the range of a pixel."""

import io
import json
import math
import struct

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from common import MIXED, check, picture, pictures


def planes(pixels, dtype=torch.float64):
    """[h, w, 3] bytes to [3, h, w] in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).to(dtype) / 255


def packed(path):
    """The images of a pack, [h, w, 3] bytes, by their ids. The format is described in src/data/pack.rs."""
    whole = path.read_bytes()
    at, size = struct.unpack_from("<QQ", whole, len(whole) - 64)
    table = io.BytesIO(whole[at : at + size])
    read = lambda form: struct.unpack("<" + form, table.read(struct.calcsize("<" + form)))
    about = json.loads(table.read(*read("I")))
    found = {}
    for _ in range(about["samples"]):
        offset, length, height, width, _label, _check, id = read("QQIIq8sI")
        values = np.frombuffer(whole[offset : offset + length], np.uint8)
        found[table.read(id).decode()] = values.reshape(height, width, 3)
    return found


def files():
    """File name to (image, how it is saved)."""
    rgb = picture(0, 67, 45)
    image, grey = Image.fromarray(rgb), Image.fromarray(rgb[:, :, 0])
    alpha = Image.fromarray(np.dstack([rgb, picture(1, 67, 45)[:, :, 0]]), "RGBA")
    palette = image.quantize(60)
    cmyk = Image.fromarray(np.dstack([rgb, picture(2, 67, 45)[:, :, 0] // 2]), "CMYK")
    turned = Image.Exif()
    turned[0x0112] = 6
    yield "444.jpg", image, dict(subsampling=0, quality=90)
    yield "422.jpg", image, dict(subsampling=1, quality=90)
    yield "420.jpg", image, dict(subsampling=2, quality=90)
    yield "progressive.jpg", image, dict(subsampling=2, quality=60, progressive=True)
    yield "grey.jpg", grey, dict(quality=85)
    yield "cmyk.jpg", cmyk, dict(quality=95)
    yield "exif6.jpg", image, dict(exif=turned, quality=90)
    yield "rgb.png", image, {}
    yield "palette.png", palette, {}
    yield "palette_alpha.png", palette, dict(transparency=bytes(range(0, 180, 3)))
    yield "rgba.png", alpha, {}
    yield "la.png", alpha.convert("LA"), {}
    yield "l.png", grey, {}
    yield "one_bit.png", grey.convert("1"), {}
    yield "trns.png", image, dict(transparency=tuple(int(v) for v in rgb[20, 20]))
    yield "lossless.webp", image, dict(lossless=True)
    yield "lossy.webp", image, dict(quality=70)
    yield "alpha.webp", alpha, dict(lossless=True)
    yield "image.gif", palette, {}
    yield "image.bmp", image, {}
    yield "image.tif", image, {}
    yield "image.ppm", image, {}


def png(depth, colour, rows, chunks=b""):
    """A PNG that Pillow does not write: rows of bytes, without filters."""
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour, 0, 0, 0))
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + head + chunks + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gamma(value):
    import zlib

    data = b"gAMA" + struct.pack(">I", value)
    return struct.pack(">I", 4) + data + struct.pack(">I", zlib.crc32(data))


@check("2.1")
def decoding(bench):
    """Image files of every kind against Pillow's convert("RGB"): the largest difference of any pixel. (Grey PNGs of 16 bits are left out: their upper
    byte is taken, where Pillow clips.)"""
    names = []
    for name, image, how in files():
        image.save(bench.folder / name, **how)
        names.append(name)
    rgb = picture(0, 67, 45)
    (bench.folder / "gama.png").write_bytes(png(8, 2, rgb, gamma(30000)))
    (bench.folder / "deep.png").write_bytes(png(16, 2, (rgb.astype(">u2") * 257 + 13).astype(">u2")))
    names += ["gama.png", "deep.png"]
    # A list, because it says which file is which whatever its kind. The short side is 45 already, so nothing is resized.
    (bench.folder / "list.txt").write_text("\n".join(names) + "\n")
    bench.sslmem("pack", "--data", f"list:{bench.folder / 'list.txt'}", "--size", 45, "--out", bench.folder / "all.pack")
    found = packed(bench.folder / "all.pack")
    for name in names:
        right = np.asarray(Image.open(bench.folder / name).convert("RGB"))
        error = np.abs(found[name].astype(int) - right).max() if found[name].shape == right.shape else math.inf
        yield name, float(error), 0


def resize(x, side, size, **how):
    """Resize(side), CenterCrop(size), antialiased."""
    return F.center_crop(F.resize(x, [side], antialias=True, **how), [size, size])


def levels(found, right):
    """Largest difference, in levels."""
    return float((found - right).abs().max() * 255)


def pillow(pixels, side, size=None):
    """Resize(side) and CenterCrop(size) of 8-bit pixels by Pillow, the width first: before version 13 Pillow itself does so, from 13 on it takes the height of
    some tall images first, which moves values by a level."""
    image = Image.fromarray(pixels)
    short, long = sorted(image.size)
    width, height = (side if length == short else int(side * long / short) for length in image.size)
    image = image.resize((width, image.height), Image.BILINEAR).resize((width, height), Image.BILINEAR)
    return np.asarray(image if size is None else F.center_crop(image, [size, size]))


@check("2.2")
def resizing(bench):
    """Resize and CenterCrop of photographs of mixed sizes, bilinear, against Pillow, which rounds to 8 bits between the axes and after them, in levels; and
    how far that is from torchvision v2 in float64."""
    data, images = pictures(bench, "photos", MIXED)
    worst, means = {"Pillow": 0.0, "v2, float64": 0.0}, []
    for size, side in [(32, 32), (96, 96), (224, 256)]:
        _, tensors = bench.views("original", data, len(images), 1, size, "unit")
        for found, pixels in zip(tensors["views"][:, 0], images):
            found = torch.from_numpy(found).permute(2, 0, 1).double()
            exact = resize(planes(pixels), side, size)
            worst["Pillow"] = max(worst["Pillow"], levels(found, planes(pillow(pixels, side, size))))
            worst["v2, float64"] = max(worst["v2, float64"], levels(found, exact))
            means.append(float((found - exact).abs().mean() * 255))
    bounds = {"Pillow": 1e-4, "v2, float64": 1.2}  # the first is what float32 makes of whole levels
    yield from ((what, error, bounds[what]) for what, error in worst.items())
    yield "v2, float64: mean", float(np.mean(means)), 0.33


@check("2.3")
def packing(bench):
    """`pack --size 128` against Pillow: the largest difference in levels."""
    data, images = pictures(bench, "photos", MIXED)
    bench.sslmem("pack", "--data", data, "--size", 128, "--out", bench.folder / "photos.pack")
    found = packed(bench.folder / "photos.pack")
    yield "levels", float(max(np.abs(found[name].astype(int) - pillow(pixels, 128)).max() for name, pixels in zip(sorted(found), images))), 0


def hue(x, turn):
    """torchvision's adjust_hue in float64 (its own works in float32)."""
    r, g, b = x
    high, low = x.max(0).values, x.min(0).values
    same = high == low
    spread = high - low
    s = spread / torch.where(same, torch.ones_like(high), high)
    divisor = torch.where(same, torch.ones_like(high), spread)
    rc, gc, bc = (high - x) / divisor
    h = torch.where(high == r, bc - gc, torch.where(high == g, 2 + rc - bc, 4 + gc - rc))
    h = ((h / 6 + 1) % 1 + turn) % 1
    sector = torch.floor(h * 6)
    f = h * 6 - sector
    p, q, t = ((high * (1 - s * share)).clamp(0, 1) for share in (1, f, 1 - f))
    i = sector.long() % 6
    pick = lambda *choices: torch.stack(choices).gather(0, i[None])[0]
    return torch.stack([pick(high, q, p, p, t, high), pick(t, high, high, q, p, p), pick(p, p, t, high, high, q)])


def render(pixels, policy, drawn, at):
    """A view in float64 from the drawn numbers, [size, size, 3] in [0, 1]."""
    one = lambda name: drawn[name][at]
    top, left, height, width = map(int, one("crop"))
    size = [policy["size"]] * 2
    x = planes(pixels)[:, top : top + height, left : left + width]
    x = F.resize(x, size, InterpolationMode(policy["interpolation"]), antialias=True)
    if one("flip"):
        x = x.flip(2)
    if one("jitter"):
        names = ("brightness", "contrast", "saturation", "hue")
        for which in one("order"):
            factor = float(one("factors")[which])
            if policy["jitter"][names[which]] > 0:
                x = hue(x, factor) if which == 3 else getattr(F, f"adjust_{names[which]}")(x, factor)
    if one("gray"):
        x = F.rgb_to_grayscale(x, num_output_channels=3)
    sigma = float(one("sigma"))
    if sigma > 0:
        kernel = policy["blur"]["kernel"] or 2 * math.ceil(3 * sigma) + 1
        x = F.gaussian_blur(x, [kernel] * 2, [sigma] * 2)
    if one("solarize"):
        threshold = np.float32(policy["solarize"]["threshold"]).item()
        x = torch.where(x >= threshold, 1 - x, x)
    return x.permute(1, 2, 0).numpy()


POLICIES = [
    ("score", 64),
    ("simclr_cifar", 32),
    ("simclr_imagenet", 96),
    ("vicreg", 32),
    ("byol_imagenet_2", 96),
    ("dino_imagenet_local", 48),
    ("mae_imagenet", 96),
]


@check("2.4")
def views(bench):
    """Views of photographs that are not square, rendered again in float64 from the numbers that `show augment` says were drawn: the largest
    difference in levels, and how many values are off by half a level (a value at solarization's threshold may fall to its other side)."""
    data, images = pictures(bench, "photos", [size for size in MIXED if size[0] != size[1]])
    for policy, size in POLICIES:
        path, drawn = bench.views(policy, data, len(images), 12, size, "unit")
        with safe_open(path, "numpy") as file:
            described = json.loads(file.metadata()["policy"])
        found = drawn["views"].astype(np.float64)
        right = np.stack([[render(pixels, described, drawn, (i, v)) for v in range(12)] for i, pixels in enumerate(images)])
        apart = np.abs(found - right) * 255
        assert np.isfinite(found).all() and np.isfinite(right).all()
        far = int((apart > 0.5).sum())
        yield f"{policy} at {size}", float(apart[apart <= 0.5].max()), 0.012
        yield f"{policy} at {size}, values off by half a level", far, 0
