"""Makes memory/: plain pictures of 1200 x 900 in many formats and kinds of pixels, whose decoders' memory is measured. Written by Pillow.

    python tests/golden/memory.py [OUT]

One colour each, so that a file has some kilobytes; what a decoder takes depends on the size and the kind alone.
"""

import pathlib
import sys

from PIL import Image

SIZE = (1200, 900)


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "memory")
    out.mkdir(exist_ok=True)
    rgb, rgba = Image.new("RGB", SIZE, (90, 140, 30)), Image.new("RGBA", SIZE, (90, 140, 30, 77))
    grey, grey_alpha, deep = Image.new("L", SIZE, 99), Image.new("LA", SIZE, (99, 3)), Image.new("I;16", SIZE, 40000)
    palette, cmyk, bits = rgb.quantize(16), rgb.convert("CMYK"), Image.new("1", SIZE)

    jpeg = {"quality": 50, "optimize": True}
    for name, sampling in [("444", 0), ("422", 1), ("420", 2)]:
        rgb.save(out / f"base_{name}.jpg", subsampling=sampling, **jpeg)
    for name, sampling in [("444", 0), ("420", 2)]:
        rgb.save(out / f"progressive_{name}.jpg", subsampling=sampling, progressive=True, **jpeg)
    for name, image in [("grey", grey), ("cmyk", cmyk)]:
        image.save(out / f"{name}.jpg", **jpeg)
        image.save(out / f"{name}_progressive.jpg", progressive=True, **jpeg)
    cmyk.save(out / "cmyk_420.jpg", subsampling=2, **jpeg)

    for name, image in [("", rgb), ("_alpha", rgba)]:
        image.save(out / f"lossy{name}.webp", quality=40)
        image.save(out / f"lossless{name}.webp", lossless=True)
    rgb.save(out / "animated.webp", save_all=True, append_images=[Image.new("RGB", SIZE, (1, 2, 3))], quality=40)
    rgba.save(out / "animated_lossless.webp", save_all=True, append_images=[Image.new("RGBA", SIZE, (1, 2, 3, 9))], lossless=True)

    palette.save(out / "palette.gif")
    palette.save(out / "animated.gif", save_all=True, append_images=[palette.rotate(3)])

    for name, image in [("rgb", rgb), ("alpha", rgba), ("grey", grey), ("grey_alpha", grey_alpha), ("grey16", deep), ("bits", bits)]:
        image.save(out / f"{name}.png")
    palette.save(out / "palette.png", optimize=True)

    # To be turned by a quarter.
    exif = Image.Exif()
    exif[0x112] = 6
    rgb.save(out / "turned.jpg", exif=exif, **jpeg)
    rgb.save(out / "turned.png", exif=exif)
    rgba.save(out / "turned.webp", exif=exif, lossless=True)

    floats = Image.new("F", SIZE, 0.5)
    for name, image in [("rgb", rgb), ("alpha", rgba), ("grey", grey), ("grey16", deep), ("float", floats), ("cmyk", cmyk)]:
        image.save(out / f"{name}.tiff", compression="tiff_adobe_deflate")
    bits.save(out / "bits.tiff", compression="group4")
    small = rgb.resize((640, 480))
    small.save(out / "lzw.tiff", compression="tiff_lzw")
    small.save(out / "rle.tga", compression="tga_rle")


if __name__ == "__main__":
    main()
