"""Makes svhn/{plain,compressed}/{train,test}_32x32.mat: SVHN's files in small, written by scipy.

    python tests/golden/mat.py [OUT]

Four training and two test images. Pixel (row, column, colour) of sample n is (row * 7 + column * 3 + colour * 50 + n * 11)
% 256, its label n % 10 + 1 (10 stands for the digit 0); training samples count from 6, test samples from 0. Labels are
doubles in the compressed files and bytes in the plain ones. A text comes before the arrays in the compressed files.
"""

import pathlib
import sys

import numpy as np
import scipy.io


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "svhn")
    row, column, colour = np.ogrid[:32, :32, :3]
    for compressed, kind in [(False, np.uint8), (True, np.float64)]:
        folder = out / ("compressed" if compressed else "plain")
        folder.mkdir(parents=True, exist_ok=True)
        for part, samples in [("train", range(6, 10)), ("test", range(2))]:
            images = [(row * 7 + column * 3 + colour * 50 + n * 11) % 256 for n in samples]
            labels = np.array([[n % 10 + 1] for n in samples], kind)
            arrays = {"X": np.stack(images, axis=-1).astype(np.uint8), "y": labels}
            if compressed:
                arrays = {"note": "cropped digits", **arrays}
            scipy.io.savemat(folder / f"{part}_32x32.mat", arrays, do_compression=compressed)


main()
