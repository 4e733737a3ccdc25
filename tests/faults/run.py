"""Kills `sslmem`, fails its system calls, changes and damages its files, feeds it hostile ones, and cuts the power.

    python tests/faults/run.py [--binary target/release/sslmem] [--only NAME] [--quick] [--seed N]

Prints a row for each test: tried, survived, and in how many trials rows were lost, the process crashed or hung, a message was unclear, or something was left
behind. Exit status 1 if anything but "survived" is above 0. README.md says what the tests are.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import kills, errors, changes, places, hostile, power  # noqa: E401, F401 (each registers its tests, in this order)
from common import TESTS, WRONG, Bench, Missing
from material import Material

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEAD = ["test", "tried", "survived", *WRONG, "seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/sslmem")
    parser.add_argument("--only", metavar="NAME", action="append", help="tests whose name contains this; may be given again")
    parser.add_argument("--quick", action="store_true", help="a quarter of the trials")
    parser.add_argument("--seed", type=int, default=0, help="of what is left to chance: moments, places, bits")
    parser.add_argument("--forget-fsync", action="store_true", help="power loss: as if no fsync were called, to see that the test finds it")
    parser.add_argument("--verbose", action="store_true", help="a line for each trial")
    args = parser.parse_args()
    chosen = [t for t in TESTS if any(name in t[0] for name in args.only or [""])]
    if not chosen:
        parser.error(f"there is no test {' or '.join(args.only)}; there are {', '.join(t[0] for t in TESTS)}")
    table, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="faults") as folder:
        bench = Bench(args.binary.resolve(), pathlib.Path(folder).resolve(), args.seed, args.quick)
        pathlib.Path(folder).chmod(0o755)  # some trials run as nobody
        bench.material, bench.forget = Material(bench), args.forget_fsync
        for name, about, function in chosen:
            print(f"\n{name}: {about}", flush=True)
            start, tried, survived, counts = time.monotonic(), 0, 0, dict.fromkeys(WRONG, 0)
            bench.random.seed(f"{args.seed} {name}")
            try:
                for what, wrong in function(bench):
                    tried += 1
                    survived += not wrong
                    for column in {column for column, _ in wrong}:
                        counts[column] += 1
                    for column, why in wrong:
                        print(f"    {what}: {column}: {why}", flush=True)
                    if args.verbose and not wrong:
                        print(f"    {what}: survived", flush=True)
            except Missing as missing:
                print(f"    skipped: {missing}")
            failed += tried - survived
            row = [name, tried, survived, *counts.values(), f"{time.monotonic() - start:.0f}"]
            table.append(row)
            print("    " + ", ".join(f"{value} {head}" for head, value in zip(HEAD[1:], row[1:])), flush=True)
    print("\n" + "\n".join(f"| {' | '.join(map(str, row))} |" for row in [HEAD, ["---"] * len(HEAD), *table]))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
