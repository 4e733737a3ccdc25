"""What tests work on: two encoders, small images in every container, runs and shards, each made once."""

import functools
import io
import json
import os
import shutil
import struct
import tarfile

import numpy as np
from PIL import Image

from common import Scenario

IMAGES = 1100  # more than a block, which has 1,024
SIDE = 8
SMALL = ["encoder.size=8", "train.epochs=2", "optim.warmup_epochs=0", "train.batch=8", "method.projector=[8,8]", "score.views=2"]
SUBSETS = ["split.shared=16", "split.candidate=8", "split.independent=8", "split.external=8"]


def png(values):
    data = io.BytesIO()
    Image.fromarray(values).save(data, "png", compress_level=0)  # of one length, whatever is in it
    return data.getvalue()


@functools.cache
def images(seed=0, count=IMAGES):
    rng = np.random.default_rng(seed)
    return [png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)]


def folder(at, files):
    for i, data in enumerate(files):
        path = at / "ab"[i % 2] / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return at


def tar(at, files, names=None):
    with tarfile.open(at, "w", format=tarfile.USTAR_FORMAT) as out:
        for i, data in enumerate(files):
            key = names[i] if names else f"{i:05}"
            for ending, content in ((".png", data), (".cls", f"{i % 10}".encode())):
                member = tarfile.TarInfo(key + ending)
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    return at


def parquet(at, files, **how):
    import pyarrow as pa
    import pyarrow.parquet

    rows = [{"bytes": data, "path": f"{i:05}.png"} for i, data in enumerate(files)]
    table = pa.table({"image": rows, "label": [i % 10 for i in range(len(files))]})
    pa.parquet.write_table(table, at, row_group_size=200, compression=how.pop("compression", "snappy"), **how)
    return at


def safetensors(tensors, head=None):
    """The bytes of a file of float32 arrays; `head` replaces what it says of itself."""
    described, data = {}, b""
    for name, values in tensors.items():
        values = np.asarray(values, np.float32)
        described[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(described).encode() if head is None else head
    return struct.pack("<Q", len(text)) + text + data


class Material:
    def __init__(self, bench):
        self.bench, self.at = bench, bench.folder / "material"
        self.at.mkdir()
        bench.fresh()
        # A pair of small encoders, trained for two epochs, in the folder of a run.
        self.run_args = ["--preset", "smoke", "--data", "synthetic:60", *(w for s in SMALL + SUBSETS for w in ("--set", s))]
        bench.made(["run", *self.run_args, "--out", "run"])
        self.run = shutil.move(bench.work / "run", self.at / "run")
        self.f, self.g = self.run / "pair1/f.safetensors", self.run / "pair1/g.safetensors"
        self.folder = folder(self.at / "folder", images())
        self.tar = tar(self.at / "s.tar", images())
        self.parquet = parquet(self.at / "i.parquet", images())
        self.pack = self.at / "p.pack"
        bench.made(["pack", "--data", f"folder:{self.folder}", "--original", "--out", self.pack])
        self.pixels = self.at / "pixels.pack"
        bench.made(["pack", "--data", f"folder:{self.folder}", "--size", SIDE, "--out", self.pixels])
        self.shards = []
        for i in (1, 2):
            bench.made(self.score(f"folder:{self.folder}", "m.csv", "--also", "embeddings", "--shard", f"{i}/2"))
        self.shards = sorted(path.name for path in bench.work.glob("m.*.csv"))
        shutil.copytree(bench.work, self.at / "shards")
        self.names = [path.name for path in self.at.rglob("*")]

    def score(self, data, out, *more, f=None, g=None):
        return ["score", "--f", f or self.f, "--g", g or self.g, "--data", data, "--views", 2, "--out", out, *more]

    def copy(self, name, to=None):
        """A scenario begins with a copy of some material."""

        def prepare(work):
            shutil.copytree(self.at / name, work / (to or "."), dirs_exist_ok=True)

        return prepare

    @functools.cached_property
    def scenarios(self):
        images = f"folder:{self.folder}"
        all_layers = ["--layers", "pooled,layer2,layer3", "--also", "embeddings"]
        made = [
            Scenario("folder-csv", self.score(images, "o.csv")),
            Scenario("tar-parquet+features", self.score(f"webdataset:{self.tar}", "o.parquet", "--also", "embeddings")),
            Scenario("parquet-npy", self.score(f"parquet:{self.parquet}", "o.npy")),
            Scenario("pack-3 layers+features", self.score(f"packed:{self.pack}", "o.csv", *all_layers)),
            Scenario("merge", ["merge", "m.csv", *self.shards], self.copy("shards")),
            Scenario("embed", ["embed", "--encoder", self.f, "--data", images, "--out", "e.safetensors"]),
            Scenario("pack", ["pack", "--data", images, "--original", "--out", "p.pack"]),
            Scenario("run", ["run", *self.run_args, "--out", "run"]),
            Scenario("train", ["train", *self.run_args, "--out", "run"], again=["train", *self.run_args, "--out", "run", "--resume"]),
            Scenario("probe", ["probe", "--run", "run", "--protocol", "lbfgs"], self.copy("run", "run")),
            Scenario("report", ["report", "run"], self.copy("run", "run")),
            Scenario("split", ["split", "--data", images, "--shared", 400, "--candidate", 100, "--independent", 100, "--external", 100, "--out", "split.json"]),
            Scenario("show augment", ["show", "augment", "--data", images, "--policy", "score", "--out", "v.png"]),
            Scenario("convert", ["convert", self.f, "--out", "c.safetensors"]),
        ]
        return {scenario.name: scenario for scenario in made}


def keep_times(path, write):
    """Changes a file and puts its time back, as `cp -p`, `rsync -t` and reproducible builds do."""
    there = os.stat(path)
    write(path)
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))
