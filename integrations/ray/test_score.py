#!/usr/bin/env python3
"""score.py on a local cluster: shards that are killed are tried again, and the table is that of one run.

    python test_score.py SSLMEM F.safetensors G.safetensors [more arguments, as --arch resnet8]
"""

import os
import pathlib
import stat
import subprocess
import sys
import tempfile

import ray

import score

# Kills the first try of every shard after a moment, then runs the binary.
UNSTABLE = """#!/bin/bash
out="$PWD/tried.$(echo "$@" | md5sum | cut -c1-16)"
if [ "$1" = score ] && [ ! -e "$out" ]; then
    touch "$out"
    timeout -s KILL 0.3 {binary} "$@"
    exit 1
fi
exec {binary} "$@"
"""


def main():
    binary, f, g = (os.path.abspath(path) for path in sys.argv[1:4])
    arguments = ["--f", f, "--g", g, "--data", "synthetic:1200", "--views", "2", *sys.argv[4:]]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        unstable = folder / "unstable"
        unstable.write_text(UNSTABLE.format(binary=binary))
        unstable.chmod(unstable.stat().st_mode | stat.S_IXUSR)
        score.run(str(unstable), 3, 1, "merged.parquet", arguments, folder=str(folder))
        assert len(list(folder.glob("tried.*"))) == 3, "every shard was killed once"
        subprocess.run([binary, "score", *arguments, "--out", "whole.parquet", "--quiet"], cwd=folder, check=True)
        assert (folder / "merged.parquet").read_bytes() == (folder / "whole.parquet").read_bytes(), "the merged table differs"
        try:
            score.run(binary, 2, 1, "wrong.parquet", [*arguments, "--set", "no.such=1"], folder=str(folder))
        except ray.exceptions.RayTaskError as error:
            assert "no.such" in str(error) or "unknown" in str(error), error
        else:
            raise AssertionError("a wrong request was taken")
    print("3 shards, each killed once: the merged table is that of one run")


if __name__ == "__main__":
    main()
