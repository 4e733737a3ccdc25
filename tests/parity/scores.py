"""Scores written again in float64: views from `show augment`, features from PyTorch, columns from the paper's formulas."""

import json

import numpy as np
import pyarrow.parquet
import timm
import torch

from common import MIXED, Missing, channels_last, check, double, fill, normalized, pictures, relative, stored, tapped
from pixels import pillow, planes
from real import TRAINED, cifar10_test
from resnet import ResNet, load

COLUMNS = ["align_f", "align_g", "delta", "score", "relative", "calibrated"]


def column(path, name):
    return pyarrow.parquet.read_table(path)[name].to_numpy(zero_copy_only=False).astype(np.float64)


def distances(features, pairs):
    """l2 distances of unit vectors for pairs of views; features [samples, views, width] to [samples, pairs]."""
    unit = features / np.linalg.norm(features, axis=2, keepdims=True)
    views = features.shape[1]
    which = [(0, b) for b in range(1, views)] if pairs == "original" else [(a, b) for a in range(views) for b in range(a + 1, views)]
    return np.stack([np.linalg.norm(unit[:, a] - unit[:, b], axis=1) for a, b in which], 1)


def columns(f, g, subsets):
    """The paper's Eq. 1 and 2 and what sslmem adds, from distances [samples, pairs] of f and of g."""
    align_f, align_g = f.mean(1), g.mean(1)
    delta = align_g - align_f
    candidates, external = delta[subsets == "S_C"], delta[subsets == "S_E"]
    return {
        "align_f": align_f,
        "align_g": align_g,
        "delta": delta,
        "score": delta / (candidates.max() - candidates.min()),
        "relative": delta / (align_g + align_f),
        "calibrated": delta - external.mean(),
    }


def split(bench, data, count):
    """A file that deals the samples out: a sixth to S_S, half or more to S_C, a sixth to S_I and to S_E."""
    path = bench.folder / "split.json"
    part = count // 6
    candidates = count - 3 * part
    sizes = ["--shared", part, "--candidate", candidates, "--independent", part, "--external", part]
    bench.sslmem("split", "--data", data, "--out", path, "--order", "ordered", *sizes)
    return path


def compare(bench, data, images, f, g, files, layers, size, side, views, bounds):
    """Both kinds of pairs, all layers: largest difference of each column. `layers` maps sslmem's names to functions of a model and views."""
    samples = len(images)
    _, drawn = bench.views("score", data, samples, views + 1, size, "imagenet")
    augmented = torch.from_numpy(drawn["views"]).double().permute(0, 1, 4, 2, 3)
    plain = torch.stack([normalized(planes(pillow(image, side, size)), "imagenet") for image in images])
    # View number v is drawn from the numbers (sample, v): where the image itself is view 0, the augmented ones begin with 1.
    all_views = torch.cat([plain[:, None], augmented], 1).flatten(0, 1)
    by_layer = {}
    for name, of in layers.items():
        of_model = lambda model: double(lambda: torch.cat([of(model, x) for x in all_views.split(16)])).reshape(samples, views + 2, -1)
        by_layer[name] = of_model(f.double()), of_model(g.double())
    chosen = split(bench, data, samples)
    flags = ["--split", chosen, "--views", views, "--layers", ",".join(layers), "--size", size, "--normalize", "imagenet", "--batch", 6]
    worst = dict.fromkeys([*COLUMNS, "stderr, original"], 0.0)
    for pairs in ("all", "original"):
        bench.score(*files, data, bench.folder / f"{pairs}.parquet", *flags, "--pairs", pairs)
        for name, both in by_layer.items():
            path = bench.folder / f"{pairs}.parquet" if len(layers) == 1 else bench.folder / f"{pairs}.{name}.parquet"
            subsets = np.array(pyarrow.parquet.read_table(path)["subset"].to_pylist())
            which = [0, *range(2, views + 2)] if pairs == "original" else range(1, views + 1)
            right_f, right_g = (distances(x[:, which], pairs) for x in both)
            candidates = (right_g - right_f).mean(1)[subsets == "S_C"]
            for what, values in columns(right_f, right_g, subsets).items():
                # `score` is delta over the candidates' range, which differs with images and weights: its error counts in the unit of delta.
                unit = candidates.max() - candidates.min() if what == "score" else 1
                worst[what] = max(worst[what], float(np.abs(column(path, what) - values).max() * unit))
            if pairs == "original":
                # The image is fixed, so the distances are independent: the plain standard error of a mean. For all pairs the formula of sslmem
                # is one of several, so that tests/score/mod.rs holds it and not this.
                error = (right_g - right_f).std(1, ddof=1) / views**0.5
                worst["stderr, original"] = max(worst["stderr, original"], float(np.abs(column(path, "stderr") - error).max()))
            else:
                order = lambda values: np.argsort(np.argsort(values[subsets == "S_C"]))
                same = (order(column(path, "score")) == order((right_g - right_f).mean(1))).all()
                yield f"{name}: candidates in another order", float(not same), 0
    for what, error in worst.items():
        # Of a score the range's two ends are off as well.
        bound = 3 * bounds["delta"] if what == "score" else bounds["align" if what.startswith("align") else what]
        yield what, error, bound


def saved(bench, f, g):
    files = [bench.folder / "f.pth", bench.folder / "g.pth"]
    for model, path in zip((f, g), files):
        torch.save(model.state_dict(), path)
    return files


RESNET = {
    "pooled": lambda model, x: model(x),
    "map": lambda model, x: channels_last(model.forward_features(x)),
}


def inner(layer):
    return {layer: lambda model, x: channels_last(tapped(model, layer, x))}


@check("3.1")
def small_scores(bench):
    """ResNet-20 against ResNet-56 with trained weights on CIFAR-10's test images (without the data: -32 and random ones on pictures), K 5: each column
    at three layers."""
    bounds = {"align": 5e-7, "delta": 5.5e-7, "relative": 4.7e-7, "calibrated": 5.6e-7, "stderr, original": 2.6e-7}
    try:
        images = cifar10_test(bench)[0][:60]
        files = [bench.real("resnet-cifar10") / TRAINED[depth] for depth in (20, 56)]
        f, g = (load(path, depth)[0] for path, depth in zip(files, (20, 56)))
        data = stored(bench, "images", images)
    except Missing:
        data, images = pictures(bench, "images", [(32, 32)] * 60)
        f, g = fill(ResNet(20)), fill(ResNet(32), 1)
        files = saved(bench, f, g)
        bounds["relative"] = 1.6e-6  # these align better, and it is divided by that
    yield from compare(bench, data, images, f, g, files, RESNET | inner("layer2.1"), 32, 32, 5, bounds)


def pair(bench, name):
    """Two networks of timm with random weights, and their files."""
    models = [fill(timm.create_model(name, pretrained=False, num_classes=0), seed) for seed in (0, 1)]
    return models, saved(bench, *models)


@check("3.2")
def resnet_scores(bench):
    """A pair of ResNet-18 at 224 on photographs that are not square, K 3: each column at three layers."""
    data, images = pictures(bench, "images", MIXED[:4] + MIXED[5:7])
    (f, g), files = pair(bench, "resnet18")
    bounds = {"align": 5e-7, "delta": 1.9e-7, "relative": 6.4e-7, "calibrated": 5.6e-7, "stderr, original": 2.6e-7}
    yield from compare(bench, data, images, f, g, files, RESNET | inner("layer3.1"), 224, 256, 3, bounds)


@check("3.3")
def vit_scores(bench):
    """A pair of ViT-Tiny/16 at 224, K 3: class token, all tokens, their mean, a block inside."""
    data, images = pictures(bench, "images", MIXED[:4] + MIXED[5:7])
    (f, g), files = pair(bench, "vit_tiny_patch16_224")
    layers = {
        "pooled": lambda model, x: model.forward_features(x)[:, 0],
        "map": lambda model, x: model.forward_features(x).flatten(1),
        "mean": lambda model, x: model.forward_features(x)[:, 1:].mean(1),
        "blocks.5": lambda model, x: tapped(model, "blocks.5", x).flatten(1),
    }
    bounds = {"align": 5e-7, "delta": 3.2e-7, "relative": 4.7e-7, "calibrated": 5.6e-7, "stderr, original": 2.6e-7}
    yield from compare(bench, data, images, f, g, files, layers, 224, 256, 3, bounds)


@check("3.5")
def several_pairs(bench):
    """A run with three pairs of encoders: columns of its table are means over the pairs' tables, `stderr` the standard error of that mean of delta.
    Over the largest value."""
    run = bench.folder / "run"
    changes = {
        "pairs": 3, "data.source": "synthetic:60@1", "encoder.arch": "resnet8", "encoder.size": 16, "train.epochs": 1, "train.batch": 16,
        "split.shared": 30, "split.candidate": 12, "split.independent": 12, "split.external": 12, "score.views": 3,
    }  # fmt: skip
    settings = [part for key, value in changes.items() for part in ("--set", f'{key}={json.dumps(value)}')]
    bench.sslmem("run", "--preset", "reference", *settings, "--out", run)
    tables = [run / f"pair{i}/scores.parquet" for i in (1, 2, 3)]
    for name in ("align_f", "align_g", "delta"):
        right = np.mean([column(path, name) for path in tables], 0)
        yield f"{name}: mean", relative(column(run / "scores.parquet", name), right), 2.3e-16
    right = np.std([column(path, "delta") for path in tables], 0, ddof=1) / 3**0.5
    yield "stderr", relative(column(run / "scores.parquet", "stderr"), right), 4.5e-16


@check("3.6")
def also_embeddings(bench):
    """`score --also embeddings` writes the bytes of `embed` (tensors and all), for f and g: 1 where a file differs."""
    data, _ = pictures(bench, "images", [(64, 48)] * 5)
    _, files = pair(bench, "resnet18")
    flags = ["--size", 64, "--normalize", "half", "--batch", 5]
    bench.score(*files, data, bench.folder / "scores.parquet", *flags, "--views", 2, "--also", "embeddings")
    for role, path in zip("fg", files):
        bench.embed(path, data, *flags)
        both = [(bench.folder / name).read_bytes() for name in (f"scores.{role}.safetensors", "features.safetensors")]
        yield role, float(both[0] != both[1]), 0
