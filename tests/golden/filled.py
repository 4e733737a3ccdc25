"""Folders of checkpoints without their numbers: those come from a formula that tests/ops/golden.rs repeats."""

import json

import formula


def number(i, name, shape):
    """Tensor number i."""
    return formula.weight(i, name, shape, bias=0.5).astype("<f4").tobytes()


def fill(folder, out):
    """Puts the formula's numbers into the safetensors files of a folder, and keeps in `out` all but those: JSON files as they are, of
    safetensors files the head (`FILE.head`). A tensor's number is its place among the names of all floating-point tensors of the
    folder, sorted."""
    out.mkdir()
    heads = {}
    for path in folder.glob("*.safetensors"):
        whole = bytearray(path.read_bytes())
        heads[path] = (whole, 8 + int.from_bytes(whole[:8], "little"))
    described = {name: entry for whole, end in heads.values() for name, entry in json.loads(whole[8:end]).items()}
    floats = sorted(name for name, entry in described.items() if entry.get("dtype") == "F32")
    for path, (whole, end) in heads.items():
        for name, entry in json.loads(whole[8:end]).items():
            if name in floats:
                first, last = entry["data_offsets"]
                whole[end + first : end + last] = number(floats.index(name), name, tuple(entry["shape"]))
        path.write_bytes(whole)
        (out / f"{path.name}.head").write_bytes(whole[:end])
    for path in folder.glob("*.json"):
        (out / path.name).write_bytes(path.read_bytes())
