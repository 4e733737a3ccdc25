"""What all checks share: the program under test, pictures, weights, measures."""

import dataclasses
import pathlib
import subprocess

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

NORMALIZE = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5] * 3, [0.5] * 3),
    "unit": ([0.0] * 3, [1.0] * 3),
}

CHECKS = []  # (name, what it compares, function), in the order of the modules


def check(name):
    """A check: a function of a Bench that yields (what, error, bound). An error must not exceed its bound. The docstring says what it compares."""

    def register(function):
        CHECKS.append((name, " ".join(function.__doc__.split()), function))
        return function

    return register


class Missing(Exception):
    """Data that a check needs is not there."""


@dataclasses.dataclass
class Bench:
    """Where a check works: the binary, a folder of its own, real data if there are any."""

    binary: pathlib.Path
    folder: pathlib.Path
    data: pathlib.Path

    def real(self, name):
        path = self.data / name
        if not path.exists():
            raise Missing(f"no {path}")
        return path

    def sslmem(self, *arguments):
        """Runs the program; gives what it printed."""
        command = [str(self.binary), *map(str, arguments), "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()}")
        return done.stdout

    def embed(self, encoder, data, *flags):
        """Features [samples, width] of un-augmented images."""
        out = self.folder / "features.safetensors"
        self.sslmem("embed", "--encoder", encoder, "--data", data, "--out", out, "--force", *flags)
        return load_file(out)["features"]

    def score(self, f, g, data, out, *flags):
        self.sslmem("score", "--f", f, "--g", g, "--data", data, "--out", out, "--force", *flags)

    def views(self, policy, data, samples, views, size, normalize):
        """What `show augment` writes: views [samples, views, size, size, 3] and the drawn numbers."""
        out = self.folder / "views.safetensors"
        asked = ["--policy", policy, "--samples", samples, "--views", views, "--size", size, "--normalize", normalize]
        self.sslmem("show", "augment", "--data", data, "--out", out, "--force", *asked)
        return out, load_file(out)


def picture(number, width, height):
    """Waves, edges and noise: something for every filter. The same on every machine up to a rare rounding of a byte."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width] / 100.0
    planes = []
    for _ in range(3):
        v = rng.uniform(size=6)
        wave = np.sin(9 * v[0] * x + 7 * v[1] * y) + np.sin(15 * v[2] * x * y + 6 * v[3])
        edge = ((x * (1 + v[4]) + y * (1 + v[5])) * 3 % 1 > 0.5).astype(float)
        planes.append(0.5 + 0.2 * wave + 0.3 * (edge - 0.5) + 0.08 * rng.normal(size=wave.shape))
    return (np.clip(np.stack(planes, 2), 0, 1) * 255).round().astype(np.uint8)


def pictures(bench, name, sizes):
    """A folder of pictures of these (width, height); gives its data source and the pixels in its order."""
    pixels = [picture(i, *size) for i, size in enumerate(sizes)]
    return stored(bench, name, pixels), pixels


def stored(bench, name, pixels):
    """A folder of images; gives its data source."""
    folder = bench.folder / name
    folder.mkdir()
    for i, values in enumerate(pixels):
        Image.fromarray(values).save(folder / f"{i:05}.png", compress_level=1)
    return f"folder:{folder}"


# Sizes (width, height) as photographs have them: wide, high, square, small.
MIXED = [(310, 240), (240, 320), (500, 375), (333, 500), (256, 256), (180, 130), (96, 64), (61, 47)]


def inputs(pixels, normalize):
    """Pictures of one size as PyTorch sees them, [n, 3, size, size] in float64."""
    x = torch.from_numpy(np.stack(pixels)).double().permute(0, 3, 1, 2) / 255
    return normalized(x, normalize)


def normalized(x, normalize):
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in NORMALIZE[normalize])
    return (x - mean) / std


def fill(model, seed=0):
    """Random weights and statistics that leave nothing at its start, where much that may be wrong does not show: norms, biases, positions,
    layer scales. In evaluation mode, float32 (what a file holds)."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda t, std: t.normal_(0, std, generator=g)
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            last = name.rsplit(".", 1)[-1]
            if not t.is_floating_point():
                continue
            elif last == "running_var" or t.ndim == 1 and last not in ("bias", "running_mean"):
                t.uniform_(0.5, 1.5, generator=g)
            elif t.ndim == 1:
                normal(t, 0.1)
            elif "pos" in name or "token" in last:
                normal(t, 0.5)
            else:
                normal(t, ((2 if t.ndim == 4 else 1) / t[0].numel()) ** 0.5)
    return model.eval()


def channels_last(map):
    """A map [n, c, h, w] as sslmem writes it: [n, h * w * c]."""
    return map.permute(0, 2, 3, 1).flatten(1)


def tapped(model, layer, x):
    """The output of a layer inside a model."""
    kept = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _, __, out: kept.append(out))
    model(x)
    hook.remove()
    return kept[0]


def double(function):
    """Calls a function of tensors without gradients, gives float64 numbers."""
    with torch.no_grad():
        return function().double().numpy()


def relative(found, right):
    """Largest difference over the largest right value."""
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    assert found.shape == right.shape, f"{found.shape} instead of {right.shape}"
    return float(np.abs(found - right).max() / np.abs(right).max())


def angle(found, right):
    """1 - the least cosine between rows."""
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    # As half of a squared difference, which does not lose the digits that 1 - cos does.
    return float(((unit(found) - unit(right)) ** 2).sum(1).max() / 2)
