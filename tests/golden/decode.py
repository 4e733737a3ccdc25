"""Makes jpeg/*.jpg, JPEGs of every kind in small, decode.tsv: the MD5 of what Pillow makes of them and of photographs, and resized.bin.

    python tests/golden/decode.py [PHOTOGRAPHS [OUT]]

PHOTOGRAPHS is a folder of JPEGs that are not stored here (250 of ImageNet's training images). Each line of decode.tsv is
folder/name, height, width and the MD5 of the bytes of `Image.open(...).convert("RGB")`, rows first, channels last. Pillow's
wheels bring libjpeg-turbo. resized.bin is jpeg/rgb_444.jpg with its short side at 24 pixels, [24, 35, 3] bytes, then at 60, [60, 89, 3],
each bilinear and then bicubic: torchvision's `resize` of a PIL image. exif/ has every orientation, and exif.tsv the MD5 of what Pillow's
`exif_transpose` makes of each.
"""

import hashlib
import pathlib
import sys

import numpy as np
import torchvision.transforms.v2.functional as F
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).parent


def picture(height, width, channels):
    y, x, c = np.ogrid[:height, :width, :channels]
    wave = 127 + 90 * np.sin(x / (3 + c)) * np.cos(y / (5 - c)) + 37 * ((x * 7 + y * 13 + c * 29) % 5 - 2) / 2
    return wave.clip(0, 255).astype(np.uint8)


def small(out):
    out.mkdir(parents=True, exist_ok=True)
    rgb = Image.fromarray(picture(45, 67, 3))
    for name, sampling in [("444", 0), ("422", 1), ("420", 2)]:
        rgb.save(out / f"rgb_{name}.jpg", subsampling=sampling, quality=90)
        rgb.save(out / f"progressive_{name}.jpg", subsampling=sampling, quality=60, progressive=True)
    for name, sampling in [("440", "4:4:0"), ("411", "4:1:1")]:
        try:
            rgb.save(out / f"rgb_{name}.jpg", subsampling=sampling, quality=80)
        except (TypeError, ValueError):
            print("this Pillow cannot write", sampling)
    rgb.save(out / "restart.jpg", quality=75, restart_marker_blocks=3)
    rgb.save(out / "optimized.jpg", quality=30, optimize=True)
    rgb.save(out / "kept_rgb.jpg", quality=85, keep_rgb=True)
    for side in (1, 7, 8, 9, 16, 17):
        Image.fromarray(picture(side, side + 3, 3)).save(out / f"side_{side}.jpg", quality=92)
    Image.fromarray(picture(31, 50, 1)[:, :, 0]).save(out / "grey.jpg", quality=88)
    cmyk = Image.fromarray(picture(33, 41, 4), "CMYK")
    cmyk.save(out / "cmyk.jpg", quality=95)
    # The same data taken for YCCK: Adobe's marker says which of the two it is.
    data = bytearray((out / "cmyk.jpg").read_bytes())
    data[data.index(b"Adobe") + 11] = 2
    (out / "ycck.jpg").write_bytes(data)
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(out / "turned.jpg", exif=exif, quality=90)


def turned(out):
    out.mkdir(parents=True, exist_ok=True)
    rgb = Image.fromarray(picture(9, 14, 3))
    lines = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("jpg", "png"):
            path = out / f"{orientation}.{kind}"
            rgb.save(path, exif=exif)
            image = ImageOps.exif_transpose(Image.open(path))
            lines.append(f"{path.name}\t{image.height}\t{image.width}\t{hashlib.md5(image.tobytes()).hexdigest()}\n")
    (out.parent / "exif.tsv").write_text("".join(lines))


def main():
    photographs = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else HERE
    small(out / "jpeg")
    turned(out / "exif")
    lines = []
    for folder in [out / "jpeg", photographs]:
        for path in sorted(folder.iterdir()) if folder else []:
            image = Image.open(path).convert("RGB")
            digest = hashlib.md5(image.tobytes()).hexdigest()
            lines.append(f"{folder.name}/{path.name}\t{image.height}\t{image.width}\t{digest}\n")
    (out / "decode.tsv").write_text("".join(lines))
    picture = Image.open(out / "jpeg/rgb_444.jpg").convert("RGB")
    resized = [F.resize(picture, [side], interpolation) for side in (24, 60) for interpolation in (F.InterpolationMode.BILINEAR, F.InterpolationMode.BICUBIC)]
    (out / "resized.bin").write_bytes(b"".join(image.tobytes() for image in resized))


main()
