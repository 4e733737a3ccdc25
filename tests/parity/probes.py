"""Probes of features against numpy and scikit-learn."""

import json
import re

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from common import check, fill

CLASSES, TRAIN, TEST = 12, 50, 20  # samples of each class


def labelled(bench):
    """Pictures in as many classes, as a folder with train and test: waves whose colours and frequencies depend on the class, in noise."""
    rng = np.random.default_rng(5)
    looks = rng.uniform(size=(CLASSES, 3, 4))
    y, x = np.mgrid[0:32, 0:32] / 32
    for part, count in (("train", TRAIN), ("test", TEST)):
        for label, look in enumerate(looks):
            folder = bench.folder / "images" / part / f"{label:02}"
            folder.mkdir(parents=True)
            for i in range(count):
                shift = rng.uniform(0, 6)
                waves = [0.3 + 0.4 * v[3] + 0.2 * np.sin(4 + 8 * v[0] * x + 8 * v[1] * y + 6 * v[2] + shift) for v in look]
                noisy = np.stack(waves, 2) + rng.normal(0, 0.4, (32, 32, 3)) + rng.normal(0, 0.3, 3)
                Image.fromarray((noisy.clip(0, 1) * 255).astype(np.uint8)).save(folder / f"{i:02}.png")
    return f"folder:{bench.folder / 'images'}"


def probe(bench, protocol):
    """Training features, test features, their labels; and protocol to (top-1, top-5)."""
    data, path, out = labelled(bench), bench.folder / "weights.pth", bench.folder / "probe.json"
    # A ViT, because its features are of both signs, so that similarities differ enough for votes to depend on the temperature.
    encoder = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32, patch_size=8)
    torch.save(fill(encoder).state_dict(), path)
    flags = ["--size", 32, "--normalize", "half"]
    features = bench.embed(path, data, *flags).astype(np.float64)
    bench.sslmem("probe", "--weights", path, "--data", data, "--protocol", protocol, "--out", out, *flags)
    (found,) = json.loads(out.read_text())["encoders"]
    accuracy = {one["protocol"]: (one["top1"], one["top5"]) for one in found["accuracy"]}
    cut = CLASSES * TRAIN
    assert len(features) == cut + CLASSES * TEST
    labels = [np.repeat(np.arange(CLASSES), count) for count in (TRAIN, TEST)]
    return (features[:cut], labels[0]), (features[cut:], labels[1]), accuracy


def shares(scores, labels):
    """Top-1 and top-5 by scores [samples, classes]; among equal scores the lower class comes first. A class needs a score above 0."""
    order = np.argsort(-scores, axis=1, kind="stable")
    place = (order == labels[:, None]).argmax(1)
    voted = scores[np.arange(len(labels)), labels] > 0
    return [float(((place < k) & voted).mean()) for k in (1, 5)]


@check("4.2")
def neighbours(bench):
    """k-NN by cosine in float64, four ways to vote: difference of the shares of right answers, top-1 and top-5."""
    (train, train_labels), (test, test_labels), found = probe(bench, "knn")
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    similar = unit[1] @ unit[0].T
    near = np.argsort(-similar, axis=1, kind="stable")
    assert len(found) == 4
    for name, accuracy in found.items():
        k, t = re.fullmatch(r"k-NN, k (\d+), (?:T (\S+)|unweighted)", name).groups()
        chosen = near[:, : int(k)]
        weights = np.exp(np.take_along_axis(similar, chosen, 1) / float(t)) if t else np.ones(chosen.shape)
        votes = np.stack([(weights * (train_labels[chosen] == c)).sum(1) for c in range(CLASSES)], 1)
        right = shares(votes, test_labels)
        yield name, max(abs(a - b) for a, b in zip(accuracy, right)), 1e-9


@check("4.3")
def logistic(bench):
    """Logistic regression on standardised features at the l2 that sslmem chose, against scikit-learn: difference of the shares of right answers."""
    (train, train_labels), (test, test_labels), found = probe(bench, "lbfgs")
    ((name, accuracy),) = found.items()
    l2 = float(re.search(r"l2 (\S+)", name)[1])
    mean, std = train.mean(0), train.std(0)
    model = LogisticRegression(C=1 / (l2 * len(train)), tol=1e-9, max_iter=10_000).fit((train - mean) / std, train_labels)
    right = shares(model.predict_proba((test - mean) / std), test_labels)
    yield name, max(abs(a - b) for a, b in zip(accuracy, right)), 1e-9
