"""Makes shards/: small WebDataset and Parquet files and what the `webdataset` library and pyarrow read from them (shards.json).

    python tests/golden/shards.py [OUT]

shards.json: for each kind a list of [shard without its ending, key or row, label or null, MD5 of the image's RGB bytes].
`wds-000000.tar` has what webdataset's own writer makes of it (labels in .cls), `wds-000001.tar` long names in pax headers and labels in
.json, `gnu.tar` long names in GNU's format, `ustar.tar` a long path split into prefix and name. The Parquet files have the columns and the
metadata of Hugging Face's `datasets`: `hf-0` in snappy with row groups of three, `hf-1` without compression and with a null image,
`hf-2` in zstd with row groups of two, `gzip`, `brotli`, `lz4` in these. Needs pyarrow, webdataset, pillow and numpy.
"""

import hashlib
import io
import json
import pathlib
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image


def encoded(number, kind):
    y, x, c = np.ogrid[:9 + number % 5, :11 + number % 3, :3]
    pixels = ((x * 17 + y * 29 + c * 71 + number * 37) % 256).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def md5(data):
    return hashlib.md5(Image.open(io.BytesIO(data)).convert("RGB").tobytes()).hexdigest()


def add(tar, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def tars(out):
    with webdataset.TarWriter(str(out / "wds-000000.tar"), encoder=False) as writer:
        for n in range(4):
            writer.write({"__key__": f"n0{n}/im_{n:04}", "jpg": encoded(n, "JPEG"), "cls": str(n * 3).encode(), "txt": b"words"})
    with tarfile.open(out / "wds-000001.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "__meta__/about.json", b"{}")
        for n in range(4, 7):
            key = "x" * 120 + f"/é{n}"
            add(tar, key + ".PNG", encoded(n, "PNG"))
            add(tar, key + ".seg.png", encoded(n + 1, "PNG"))
            add(tar, key + ".json", json.dumps({"label": n, "text": "a"} if n < 6 else {"text": "b"}).encode())
        add(tar, "alone.txt", b"no image")
        add(tar, "no_ending", b"nothing")
        folder = tarfile.TarInfo("some.folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    for name, style, key in [("gnu", tarfile.GNU_FORMAT, "y" * 150), ("ustar", tarfile.USTAR_FORMAT, "p" * 90 + "/" + "q" * 80)]:
        with tarfile.open(out / f"{name}.tar", "w", format=style) as tar:
            add(tar, key + ".jpeg", encoded(8, "JPEG"))
            add(tar, key + ".cls", b"-1\n")
            add(tar, "second.jpeg", encoded(9, "JPEG"))


def read_tar(path):
    found = []
    images = ("jpg", "jpeg", "png")
    for sample in webdataset.WebDataset(str(path), shardshuffle=False):
        image = next((sample[kind] for kind in images if kind in sample), None)
        if image is None:
            continue
        label = int(sample["cls"]) if "cls" in sample else json.loads(sample.get("json", b"{}")).get("label")
        found.append([path.stem, sample["__key__"], None if label == -1 else label, md5(image)])
    return found


def parquets(out):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names = [f"class {n}" for n in range(7)]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=metadata)
    for name, numbers, options in [
        ("hf-0", range(10, 18), {"row_group_size": 3, "compression": "snappy"}),
        ("hf-1", range(18, 22), {"compression": "none", "use_dictionary": False}),
        ("hf-2", range(22, 27), {"row_group_size": 2, "compression": "zstd"}),
        ("gzip", range(1), {"compression": "gzip"}),
        ("brotli", range(1), {"compression": "brotli"}),
        ("lz4", range(1), {"compression": "lz4"}),
    ]:
        images = [{"bytes": encoded(n, "PNG" if n % 2 else "JPEG"), "path": f"{n}.jpg"} for n in numbers]
        labels = [n % 7 if n != 12 else -1 for n in numbers]
        if name == "hf-1":
            images[2], labels[3] = None, None
        table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels, pa.int64())}, schema=schema)
        pq.write_table(table, out / f"{name}.parquet", **options)


def read_parquet(path):
    rows = pq.read_table(path).to_pylist()
    label = lambda row: None if row["label"] == -1 else row["label"]
    return [[path.stem, f"{n:06}", label(row), md5(row["image"]["bytes"]) if row["image"] else None] for n, row in enumerate(rows)]


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "shards"
    out.mkdir(parents=True, exist_ok=True)
    tars(out)
    parquets(out)
    wds = [row for name in ("wds-000000", "wds-000001", "gnu", "ustar") for row in read_tar(out / f"{name}.tar")]
    hf = [row for name in ("hf-0", "hf-1", "hf-2") for row in read_parquet(out / f"{name}.parquet")]
    (out / "shards.json").write_text(json.dumps({"webdataset": wds, "parquet": hf}, indent=0, ensure_ascii=False) + "\n")


main()
