#!/usr/bin/env python3
"""Score on a Ray cluster: every shard is a task that runs the binary; what fails is tried again; then they are merged.

    python score.py --shards 64 --cpus 8 --out scores.parquet -- --f f.safetensors --g g.safetensors --data folder:/data/photos

What follows `--` goes to `sslmem score` as it is. Data, weights and output must lie where every node sees them under the same path.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import ray


class Wrong(Exception):
    """The request itself: another try would end the same."""


def score(binary, shard, shards, cpus, out, arguments, folder):
    """One shard. A try that was lost left its blocks, and the next goes on from there."""
    command = [binary, "score", *arguments, "--out", out, "--shard", f"{shard}/{shards}", "--threads", str(cpus), "--quiet"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode == 2:
        raise Wrong(f"shard {shard}/{shards}: {done.stderr.strip()}")
    if done.returncode != 0:
        raise RuntimeError(f"shard {shard}/{shards} ended with {done.returncode}: {done.stderr.strip()}")
    return shard


def run(binary, shards, cpus, out, arguments, retries=5, folder=None):
    """All shards, then their table at `out`."""
    folder = folder or os.getcwd()
    # RuntimeError is what another try may cure, and so is the loss of a worker or a node.
    task = ray.remote(num_cpus=cpus, max_retries=retries, retry_exceptions=[RuntimeError])(score)
    waiting = [task.remote(binary, shard, shards, cpus, out, arguments, folder) for shard in range(1, shards + 1)]
    while waiting:
        ready, waiting = ray.wait(waiting)
        print(f"shard {ray.get(ready[0])}/{shards} is done, {len(waiting)} to go", file=sys.stderr, flush=True)
    path = pathlib.PurePath(out)
    tables = [str(path.with_name(f"{path.stem}.{shard}-of-{shards}{path.suffix}")) for shard in range(1, shards + 1)]
    subprocess.run([binary, "merge", "--force", out, *tables], cwd=folder, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--cpus", type=int, default=1, help="cores, and threads, of a shard")
    parser.add_argument("--out", required=True, help="one table: .parquet or .csv")
    parser.add_argument("--retries", type=int, default=5)
    parser.add_argument("--binary", default="sslmem")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- and what goes to sslmem score")
    args = parser.parse_args()
    ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False)
    arguments = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    run(args.binary, args.shards, args.cpus, args.out, arguments, args.retries)


if __name__ == "__main__":
    main()
