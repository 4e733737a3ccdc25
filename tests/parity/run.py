"""Holds `sslmem` to PyTorch, torchvision, timm, transformers, Pillow, scipy and scikit-learn.

    python tests/parity/run.py [--binary target/release/sslmem] [--data ../shared/data] [--only NAME] [--subsets]

Prints a line for each number: check, what, error, bound, pass or FAIL. Exit status 1 if any fails. README.md says what the checks are.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time
import warnings

# Before the libraries are loaded: one thread, no network.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import features, real, pixels, scores, tables, probes  # noqa: E401, E402, F401 (each registers its checks, in this order)
from common import CHECKS, Bench, Missing  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/sslmem")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "../shared/data", help="real data; what needs them is skipped without them")
    parser.add_argument("--only", metavar="NAME", help="checks whose name begins so, as in 2 or 3.1")
    parser.add_argument("--subsets", action="store_true", help="train a pair of encoders, too (check 6)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries, about their own forms
    chosen = [c for c in CHECKS if c[0].startswith(args.only or "") and (c[0] != "6" or args.subsets or args.only == "6")]
    if not chosen:
        parser.error(f"there is no check {args.only}; there are {', '.join(c[0] for c in CHECKS)}")
    failed = []
    for name, about, function in chosen:
        print(f"\n{name}  {about}")
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(args.binary.resolve(), pathlib.Path(folder), args.data.resolve())
            try:
                for what, error, bound in function(bench):
                    passed = error <= bound  # NaN is no pass
                    print(f"    {what:58} {error:9.3g}  {bound:9.3g}  {'pass' if passed else 'FAIL'}", flush=True)
                    failed += [] if passed else [f"{name} {what}"]
            except Missing as missing:
                print(f"    skipped: {missing}")
            except Exception as error:  # one check must not hide the others
                print(f"    FAIL: {type(error).__name__}: {error}")
                failed.append(f"{name} {type(error).__name__}")
        print(f"    {time.monotonic() - start:.0f} s", flush=True)
    print(f"\n{len(failed)} failed" + "".join(f"\n  {line}" for line in failed))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
