"""Files from people who mean harm, and files that a disk has harmed."""

import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import zlib

import numpy as np
from PIL import Image

import material as make
from common import CRASH, ROWS, WORDS, test

MEMORY = 2 << 30  # what a process may have
SECONDS = 60


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, colour=2, depth=8, data=b"", more=b"", interlaced=0):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(size):
    """A stream that inflates to so many zeros."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.compress(bytes(size & ((1 << 20) - 1))), packer.flush()])


def saved(size, form, mode="RGB", **how):
    data = io.BytesIO()
    Image.new(mode, size).save(data, form, **how)
    return data.getvalue()


def gif(width, height, frames=1, data=b"\x02\x02D\x01\x00"):
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + data
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b";"


def tiff(width, height, samples=3, bits=8, compression=1, offset=8, count=64):
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 2), (273, 4, 1, offset),
            (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, count)]
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + body


def bmp(width, height, bits=24, compression=0, offset=54):
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, offset) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0) + bytes(30)


def jpeg(width, height, scans=1):
    good = saved((16, 16), "jpeg", progressive=scans > 1)
    at = good.index(b"\xff\xc2" if scans > 1 else b"\xff\xc0")
    data = good[: at + 5] + struct.pack(">HH", height, width) + good[at + 9 :]
    if scans > 1:
        last = data.rindex(b"\xff\xda")
        data = data[:last] + data[last:-2] * scans + b"\xff\xd9"
    return data


def images():
    """name -> bytes of an image that is none."""
    many = {}
    huge = [(65535, 65535), (0x7FFFFFFF, 0x7FFFFFFF), (0xFFFFFFFF, 1), (1, 0xFFFFFFFF), (0, 0), (40000, 40000), (13300, 13300)]
    for w, h in huge:
        many[f"claim{w}x{h}.png"] = png(w, h, data=zlib.compress(bytes(10)))
        many[f"claim{w}x{h}.tif"] = tiff(w, h)
        many[f"claim{w}x{h}.bmp"] = bmp(min(w, 0x7FFFFFFF), min(h, 0x7FFFFFFF))
        many[f"claim{w}x{h}.ppm"] = f"P6 {w} {h} 255\n".encode() + bytes(10)
        if w <= 65535 and h <= 65535:
            many[f"claim{w}x{h}.jpg"] = jpeg(w, h)
            many[f"claim{w}x{h}.jpeg"] = jpeg(w, h, 500)
            many[f"gif{w}x{h}.webp"] = gif(w, h)  # by its content
    many |= {
        "bomb.png": png(20000, 20000, 0, 1, zeros(20000 * 2501)),
        "bomb16.png": png(30000, 30000, 6, 16, zeros(64 << 20)),
        "interlaced.png": png(20000, 20000, 2, 8, zeros(64 << 20), interlaced=1),
        "iccp.png": png(8, 8, data=zlib.compress(bytes(200)), more=chunk(b"iCCP", b"x\0\0" + zeros(512 << 20))),
        "ztxt.png": png(8, 8, data=zlib.compress(bytes(200)), more=chunk(b"zTXt", b"x\0\0" + zeros(512 << 20))),
        "chunk.png": b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffIHDR" + bytes(20),
        "frames.webp": gif(4000, 4000, 1000),
        "lossless.webp": saved((13300, 13300), "webp", lossless=True, method=0),
        "lossless2.webp": saved((16383, 16383), "webp", lossless=True, method=0),
        "riff.webp": b"RIFF\xff\xff\xff\xffWEBPVP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + b"\xff" * 6,
        "vp8.webp": b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8 \xff\xff\xff\x7f" + bytes(80),
        "bilevel.tif": saved((20000, 8000), "tiff", "1", compression="group4"),
        "lzw.tif": saved((13000, 13000), "tiff", "L", compression="tiff_lzw"),
        "self.tif": b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
        "strips.tif": tiff(100, 100, count=0xFFFFFFFF),
        "offset.tif": tiff(100, 100, offset=0xFFFFFFF0),
        "samples.tif": tiff(1000, 1000, samples=65535),
        "text.ppm": b"P3 100000 100000 255\n" + b"1 " * 1000,
        "digits.ppm": b"P6 " + b"9" * 100000 + b" 1 255\n",
        "comment.pgm": b"P5\n" + b"#\n" * 1000000,
        "rle.bmp": bmp(30000, 30000, 8, 1),
        "negative.bmp": bmp(-5, -5),
        "empty.png": b"",
        "zeros.jpg": bytes(100000),
        "text.jpg": b"GET / HTTP/1.1",
        "marker.jpg": b"\xff\xd8" + b"\xff" * 1000000,
        "exif.jpg": b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0\x08\0\0\0" + b"\xff" * 200,
    }
    for form in ("png", "jpeg", "webp", "tiff", "bmp", "ppm"):
        good = saved((64, 64), form)
        ending = {"jpeg": "jpg", "tiff": "tif"}.get(form, form)
        for share in (0.3, 0.6):
            many[f"cut{share}.{ending}"] = good[: int(len(good) * share)]
    return many


def judged(bench, ended, good, hostile, seconds=SECONDS, out="o.csv"):
    """All good rows are there, each bad image is named or has a row, once."""
    wrong = ended.crash()
    if wrong:
        return wrong
    if ended.seconds > seconds:
        return [(CRASH, f"{ended.seconds:.0f} s")]
    if ended.status and not (bench.work / out).exists():
        # Where nothing is good there is nothing to write.
        return ended.refused() if not good else [(ROWS, f"no table: {ended.err[:300]}")]
    rows = [line.split(",")[1].strip('"') for line in (bench.work / out).read_text().splitlines()[1:]]
    skipped = [entry[0] for entry in json.loads((bench.work / "o.json").read_text())["data"]["skipped"]]
    if len(set(rows)) != len(rows) or set(rows) & set(skipped):
        wrong.append((ROWS, "a sample twice"))
    missing = [name for name in good if name not in rows]
    if missing:
        wrong.append((ROWS, f"{len(missing)} good ones have no row, first {missing[0]}"))
    lost = [name for name in hostile if name not in rows and name not in skipped]
    if lost:
        wrong.append((WORDS, f"not named: {lost[:5]}"))
    return wrong + (ended.clear() if ended.status else [])


@test("hostile images, each alone")
def alone(bench):
    """Headers that claim huge sizes, bombs, cuts, zeros in PNG, GIF, WebP, TIFF, BMP, PNM and JPEG, each beside two good images, with 2 GiB of addresses: the good ones have
    rows, the bad one is named, within 60 s."""
    good = {f"good{i}.png": data for i, data in enumerate(make.images()[:2])}
    for name, data in bench.some(images().items(), 200):
        bench.fresh()
        (bench.work / "d").mkdir()
        for file, content in {**good, name: data}.items():
            (bench.work / "d" / file).write_bytes(content)
        args = bench.material.score("folder:d", "o.csv", "--max-bad", 1)
        yield name, judged(bench, bench.run(args, AS=MEMORY, timeout=SECONDS * 2), good, [name])


@test("hostile images together")
def together(bench):
    """All of them, and 32 of the worst, in one folder, one tar file, one Parquet file, one pack, with 2 GiB of addresses and 2 or 16 threads."""
    good = {f"good{i}.png": data for i, data in enumerate(make.images()[:300])}
    every = images()
    worst = {f"{i:02}{name}": every[name] for i in range(8) for name in ("lossless.webp", "lossless2.webp", "bilevel.tif", "bomb.png")}
    for what, bad in (("all", every), ("32 of the worst", worst)):
        for kind in ("folder", "tar", "parquet", "pack"):
            for threads in (2, 16) if kind == "folder" else (2,):
                bench.fresh()
                files = dict(sorted({**good, **bad}.items()))
                (bench.work / "d").mkdir()
                ids = {name: name for name in files}
                if kind == "tar":
                    with tarfile.open(bench.work / "s.tar", "w") as out:
                        for i, (name, data) in enumerate(files.items()):
                            member = tarfile.TarInfo(f"{i:05}.{name.rsplit('.', 1)[1]}")
                            member.size = len(data)
                            out.addfile(member, io.BytesIO(data))
                            ids[name] = f"s/{i:05}"
                    source = "webdataset:s.tar"
                elif kind == "parquet":
                    make.parquet(bench.work / "s.parquet", list(files.values()))
                    ids = {name: f"s/{i:06}" for i, name in enumerate(files)}
                    source = "parquet:s.parquet"
                else:
                    for name, data in files.items():
                        (bench.work / "d" / name).write_bytes(data)
                    source = "folder:d"
                if kind == "pack":
                    packed = bench.run(["pack", "--data", source, "--original", "--on-bad-image", "skip", "--max-bad", 1, "--out", "p.pack", "--threads", threads],
                                       AS=MEMORY, timeout=SECONDS * 3)
                    yield f"{what}, {kind}, {threads} threads", packed.done()
                    continue
                args = bench.material.score(source, "o.csv", "--max-bad", 1, "--threads", threads)
                ended = bench.run(args, AS=MEMORY, timeout=SECONDS * 3)
                yield f"{what}, {kind}, {threads} threads", judged(bench, ended, [ids[n] for n in good], [ids[n] for n in bad], SECONDS * 3)


def cifar(at):
    """CIFAR-10 in the official form would be 180 MB; MNIST, smaller, stands for what has files of fixed names."""
    at.mkdir()
    rng = np.random.default_rng(1)
    for stem, count in (("train", 60), ("t10k", 10)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (at / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes())
        (at / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">II", 2049, count) + bytes(i % 10 for i in range(count))))


def svhn(at):
    import scipy.io

    at.mkdir()
    rng = np.random.default_rng(1)
    for part, count in (("train", 40), ("test", 10)):
        values = {"X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), "y": np.arange(count, dtype=np.uint8)[:, None] % 10 + 1}
        scipy.io.savemat(at / f"{part}_32x32.mat", values, do_compression=True)


def harmed(chance, data):
    """A file with flipped bits, a cut, a hole, a piece twice, or a number that lies."""
    data, kind = bytearray(data), chance.choice(["flip", "flip", "flips", "cut", "zeros", "twice", "lie", "lie"])
    at = chance.randrange(len(data)) if chance.random() < 0.5 else chance.choice([chance.randrange(min(600, len(data))), len(data) - 1 - chance.randrange(min(600, len(data)))])
    if kind.startswith("flip"):
        for _ in range(1 if kind == "flip" else 20):
            data[at] ^= 1 << chance.randrange(8)
            at = chance.randrange(len(data))
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        data[at : at + 64] = bytes(min(64, len(data) - at))
    elif kind == "twice":
        data[at:at] = data[at : at + 512]
    else:
        lie = chance.choice([b"\xff" * 4, b"\xff" * 8, struct.pack("<Q", 1 << 40), struct.pack(">I", 0x7FFFFFFF), b"99999999999", b"-1"])
        data[at : at + len(lie)] = lie
    return kind, bytes(data)


@test("hostile containers and checkpoints")
def containers(bench):
    """Tar, Parquet, packs, IDX, .mat, lists, safetensors, torch.save's files, score tables (CSV, NPY, Parquet) with flipped bits, cuts, holes, pieces twice and lying numbers, 2
    GiB of addresses: one sentence that names the file, or rows and a list. No crash, no hang."""
    m, chance, few = bench.material, bench.random, make.images()[:100]
    place = bench.folder / "intact"
    place.mkdir()
    make.tar(place / "s.tar", few)
    make.parquet(place / "snappy.parquet", few)
    make.parquet(place / "zstd.parquet", few, compression="zstd")
    make.folder(place / "d", few)
    bench.fresh()
    bench.made(["pack", "--data", f"folder:{place}/d", "--original", "--out", place / "files.pack"])
    bench.made(["pack", "--data", f"folder:{place}/d", "--size", 8, "--out", place / "pixels.pack"])
    cifar(place / "mnist")
    try:
        svhn(place / "svhn")
    except ImportError:
        print("    left out: .mat, for there is no scipy")
    for name in ("t.csv", "t.npy", "t.parquet"):
        bench.made(m.score(f"folder:{place}/d", place / name))
        os.remove(place / "t.json")
    (place / "l.txt").write_text("".join(f"d/{'ab'[i % 2]}/{i:05}.png\t{i}\n" for i in range(100)))
    shutil.copy(m.f, place / "f.safetensors")
    kinds = {
        "s.tar": ("webdataset:s.tar", None),
        "snappy.parquet": ("parquet:snappy.parquet", None),
        "zstd.parquet": ("parquet:zstd.parquet", None),
        "files.pack": ("packed:files.pack", None),
        "pixels.pack": ("packed:pixels.pack", None),
        "mnist/train-images-idx3-ubyte": ("mnist:mnist", None),
        "mnist/train-labels-idx1-ubyte.gz": ("mnist:mnist", None),
        "svhn/train_32x32.mat": ("svhn:svhn", None),
        "l.txt": ("list:l.txt", None),
        "f.safetensors": (None, ["convert", "f.safetensors", "--out", "c.safetensors"]),
        "f.pt": (None, ["convert", "f.pt", "--out", "c.safetensors"]),
        "f.legacy": (None, ["convert", "f.legacy", "--out", "c.safetensors"]),
        "t.csv": (None, ["top", "--scores", "t.csv", "--data", f"folder:{place}/d", "--out", "top.html"]),
        "t.npy": (None, ["top", "--scores", "t.npy", "--data", f"folder:{place}/d", "--out", "top.html"]),
        "t.parquet": (None, ["report", "t.parquet", "--out", "page.html"]),
    }
    try:
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(place / "f.safetensors"), place / "f.pt")
        torch.save(load_file(place / "f.safetensors"), place / "f.legacy", _use_new_zipfile_serialization=False)
    except ImportError:
        print("    left out: files of torch.save, for there is no torch")
    for name, (source, verb) in kinds.items():
        if not (place / name).exists():
            continue
        data = (place / name).read_bytes()
        args = verb or m.score(source, "o.csv", "--max-bad", 1)
        for _ in range(bench.count(14)):
            bench.fresh()
            shutil.copytree(place, bench.work, dirs_exist_ok=True, symlinks=True)
            kind, bad = harmed(chance, data)
            (bench.work / name).write_bytes(bad)
            ended = bench.run(args, AS=MEMORY, timeout=30)
            wrong = ended.crash()
            if not wrong and ended.status:
                wrong = ended.clear(name.rsplit("/", 1)[-1], name.rsplit(".", 1)[0], "o.csv", "mnist", "svhn", *(["sample"] if name[0] == "t" else []))
            elif not wrong and source:
                manifest = json.loads((bench.work / "o.json").read_text())
                rows = (bench.work / "o.csv").read_text().splitlines()[1:]
                places = [line.split(",", 1)[0] for line in rows]
                if manifest["rows"] != len(rows) or len(set(places)) != len(places) or len(rows) + len(manifest["data"]["skipped"]) != manifest["data"]["samples"]:
                    wrong = [(ROWS, f"{len(rows)} rows, {len(manifest['data']['skipped'])} skipped")]
            yield f"{name}: {kind}", wrong
    # Tar files as nobody's tar would write them.
    for what, data in tars():
        bench.fresh()
        (bench.work / "s.tar").write_bytes(data)
        ended = bench.run(m.score("webdataset:s.tar", "o.csv", "--max-bad", 1), AS=MEMORY, timeout=30)
        yield f"tar: {what}", ended.crash() or (ended.clear("s.tar", "o.csv") if ended.status else [])
    for what, data in safetensors():
        bench.fresh()
        (bench.work / "f.safetensors").write_bytes(data)
        ended = bench.run(["convert", "f.safetensors"], AS=MEMORY, timeout=30)
        yield f"safetensors: {what}", ended.refused("f.safetensors")
    for what, data in pickles():
        bench.fresh()
        (bench.work / "f.pt").write_bytes(data)
        ended = bench.run(["convert", "f.pt"], AS=MEMORY, timeout=30)
        wrong = ended.refused("f.pt")
        yield f"pickle: {what}", wrong + ([(CRASH, "it was executed")] if (bench.work / "owned").exists() else [])


def tars():
    """(what, bytes)"""

    def head(name=b"a.png", size=b"00000000010\0", kind=b"0", prefix=b""):
        block = bytearray(512)
        block[: len(name)] = name
        block[100:124] = b"0000644\0" + b"0000000\0" + b"0000000\0"
        block[124:136] = size
        block[136:148] = b"00000000000\0"
        block[156:157] = kind
        block[257:265] = b"ustar\x0000"
        block[345 : 345 + len(prefix)] = prefix
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    end, one = bytes(1024), bytes(512)
    yield "size of 8 GiB", head(size=b"77777777777\0") + one + end
    yield "negative size", head(size=b"\xff" * 12) + one + end
    yield "size in base 256 beyond 2^63", head(size=b"\x80" + b"\xff" * 11) + one + end
    yield "traversal", head(name=b"../../../../tmp/x.png") + one + end
    yield "link", head(kind=b"2") + end
    yield "device", head(kind=b"3") + end
    yield "long name of 4 GiB", head(kind=b"L", size=b"40000000000\0") + one + end
    yield "pax size", head(kind=b"x", size=b"00000000033\0") + b"27 size=18446744073709551615\n".ljust(512, b"\0") + head() + one + end
    yield "pax length 0", head(kind=b"x", size=b"00000000003\0") + b"0 a".ljust(512, b"\0") + head() + one + end
    yield "no end", head()
    yield "bad sum", head()[:148] + b"0000000\0" + head()[156:] + one + end
    yield "10,000 empty names", head(name=b"", size=b"00000000000\0") * 10000 + end
    yield "zeros", bytes(1 << 20)


def safetensors():
    def of(head):
        return make.safetensors({}, head)

    yield "no head", b""
    yield "head of 2^63 bytes", struct.pack("<Q", 1 << 63) + b"{}"
    yield "head of 98 MB", of(b'{"a":[' + b"1," * (49 << 20) + b"1]}")
    yield "deep head", of(b"[" * 1_000_000)
    yield "huge shape", of(b'{"a":{"dtype":"F32","shape":[4294967295,4294967295,4294967295],"data_offsets":[0,4]}}') + bytes(4)
    yield "offsets beyond", of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}') + bytes(4)
    yield "overlap", of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}') + bytes(6)
    yield "a name twice", of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}') + bytes(8)
    yield "commands in names", of(b'{"\\u001b]0;PWN\\u0007":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}') + bytes(4)


def pickles():
    shout = b"cos\nsystem\n(S'touch owned'\ntR."
    yield "os.system", shout
    yield "os.system, protocol 2", b"\x80\x02" + shout
    yield "depth", b"\x80\x02" + b"(" * 5_000_000 + b"."
    yield "lists in lists", b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."
    yield "length of 2^31", b"\x80\x02X\xff\xff\xff\x7fabc."
    yield "memo", b"\x80\x02" + b"]q\0" + b"h\0" * 1_000_000 + b"."
    yield "doubling", b"\x80\x04" + b"]\x94" + b"".join(b"(h%ch%ct\x94" % (i, i) for i in range(60)) + b"."
    archive = io.BytesIO()
    import zipfile

    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("archive/data.pkl", shout)
        out.writestr("../../evil", "x")
    yield "os.system in a zip, with a way out", archive.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", bytes(256 << 20))
    yield "zip bomb", archive.getvalue()
