"""Makes probe.safetensors: neighbours, logistic regression and two kinds of descent, from scikit-learn and numpy in f64.

    python tests/golden/probe.py [OUT]

Features [300, 24] and [90, 24] are `2u - 1` of formula.py (numbers 4000 and 4001) plus half of `2u - 1` (4002) of their
class, of which there are 12; labels are their number % 12. Every other feature is scaled by 1 + its number / 4.

    train.x, train.y, test.x, test.y          features, labels as f32
    knn.{k}.{t}                               place of each test sample's class by its votes, from 0 (-1: no vote); t 0:
                                              unweighted. Among equal votes the lower class
    knn.1.sklearn                             predictions of KNeighborsClassifier(1, metric="cosine")
    logistic.{l2}.weight, .bias               LogisticRegression on standardised features, C = 1 / (l2 * 300), converged
    descent.start                             weights [12, 24], then biases [12]
    descent.{lars,adamw}                      the same after 90 epochs, each of one batch of all samples
"""

import pathlib
import sys

import formula
import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

CLASSES, WIDTH, SAMPLES, TESTS = 12, 24, 300, 90


def features(number, samples):
    labels = np.arange(samples) % CLASSES
    x = formula.signed(number, (samples, WIDTH)) + 0.5 * formula.signed(4002, (CLASSES, WIDTH))[labels]
    scale = np.where(np.arange(WIDTH) % 2 == 1, 1 + np.arange(WIDTH) / 4, 1.0)
    return (x * scale).astype(np.float32).astype(np.float64), labels


def places(votes, labels):
    """Where each sample's class stands by its votes."""
    for row, label in zip(votes, labels):
        order = sorted((c for c in range(CLASSES) if row[c] > 0), key=lambda c: (-row[c], c))
        yield order.index(label) if label in order else -1


def knn(train, test):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train[0], test[0])]
    similar = unit[1] @ unit[0].T
    order = np.argsort(-similar, axis=1, kind="stable")
    for k, t in [(10, 0), (20, 0.07), (200, 0.07), (200, 0.1)]:
        votes = np.zeros((len(test[1]), CLASSES))
        for row, near in enumerate(order[:, :k]):
            for i in near:
                votes[row, train[1][i]] += np.exp(similar[row, i] / t) if t else 1.0
        yield f"knn.{k}.{t}", np.array(list(places(votes, test[1])))
    yield "knn.1.sklearn", KNeighborsClassifier(1, metric="cosine").fit(*train).predict(test[0])


def logistic(train):
    x = (train[0] - train[0].mean(0)) / train[0].std(0)
    for l2 in (1e-1, 1e-2, 1e-3):
        model = LogisticRegression(C=1 / (l2 * SAMPLES), tol=1e-12, max_iter=100_000, solver="newton-cg").fit(x, train[1])
        yield f"logistic.{l2}.weight", model.coef_
        # The softmax does not see a number that all biases share.
        yield f"logistic.{l2}.bias", model.intercept_ - model.intercept_.mean()


def gradient(weight, bias, x, labels):
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p.T @ x / len(labels), p.sum(0) / len(labels)


def descent(train, rule):
    start = 0.2 * formula.signed(4003, (CLASSES * (WIDTH + 1),))
    params = [start[: CLASSES * WIDTH].reshape(CLASSES, WIDTH).copy(), start[CLASSES * WIDTH :].copy()]
    first = [np.zeros_like(p) for p in params]
    second = [np.zeros_like(p) for p in params]
    for epoch in range(90):
        if rule == "lars":
            rate = 1.6 * SAMPLES / 4096
            rate *= epoch / 10 if epoch < 10 else 0.5 + 0.5 * np.cos(np.pi * (epoch - 10) / 80)
        else:
            rate = 5e-4 * min((epoch + 1) / 10, 0.5 * (np.cos(epoch / 90 * np.pi) + 1))
        for i, (p, g) in enumerate(zip(params, gradient(*params, *train))):
            if rule == "lars":
                if p.ndim > 1:
                    g = g * 0.001 * np.linalg.norm(p) / np.linalg.norm(g)
                first[i] = 0.9 * first[i] + g
                p -= rate * first[i]
            else:
                p *= 1 - rate * 0.05
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g * g
                step = epoch + 1
                p -= rate * (first[i] / (1 - 0.9**step)) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
    yield f"descent.{rule}", np.concatenate([p.ravel() for p in params])
    if rule == "lars":
        yield "descent.start", start


def main():
    train, test = features(4000, SAMPLES), features(4001, TESTS)
    out = {"train.x": train[0], "train.y": train[1], "test.x": test[0], "test.y": test[1]}
    out.update(knn(train, test))
    out.update(logistic(train))
    out.update(descent(train, "lars"))
    out.update(descent(train, "adamw"))
    path = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_suffix(".safetensors")
    save_file({name: np.ascontiguousarray(value, np.float32) for name, value in sorted(out.items())}, path)


main()
