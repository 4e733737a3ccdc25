"""Trained weights on real images, where they are there (`--data`)."""

import numpy as np

from common import check, double, inputs, relative, stored
from resnet import load

TRAINED = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}


def cifar10_test(bench):
    """Images [10000, 32, 32, 3] and labels."""
    records = np.fromfile(bench.real("cifar10") / "test_batch.bin", np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


@check("1.6")
def trained(bench):
    """He's ResNet-20 and -56 (`.th`) on CIFAR-10's test images: features of the first 200 against float64, and how far the share of all 10,000 that the
    file's own linear layer gets right from sslmem's features is from the published one, in points."""
    images, labels = cifar10_test(bench)
    data = stored(bench, "images", images)
    x = inputs(images[:200], "imagenet")
    for depth, published in [(20, 91.73), (56, 93.39)]:
        path = bench.real("resnet-cifar10") / TRAINED[depth]
        model, weight, bias = load(path, depth)
        found = bench.embed(path, data, "--size", 32, "--normalize", "imagenet")
        yield f"ResNet-{depth}, features", relative(found[:200], double(lambda: model.double()(x))), 9.5e-7
        right = (np.argmax(found @ weight.T + bias, 1) == labels).mean()
        yield f"ResNet-{depth}, right answers", abs(100 * right - published), 0.0051
