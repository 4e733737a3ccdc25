"""Numbers from a formula: weights and inputs that both sides can make, bit for bit, without a file.

Element `j` of tensor number `i`, all in unsigned 32-bit arithmetic that wraps:

    h = j * 2654435761 + i * 40503 + 12345
    h ^= h >> 16;  h *= 2246822507
    h ^= h >> 13;  h *= 3266489909
    h ^= h >> 16
    u = (h >> 8) * 2^-24                    in [0, 1), 24 bits, exact in f32

u(0, 0) = 0.23545509576797485, u(0, 1) = 0.3032728433609009, u(1000, 12345) = 0.2597067952156067.

`j` counts row-major over the shape as PyTorch stores it (convolutions: [out, in, kh, kw]). `i` counts the model's
`named_parameters()` in torchvision's order (conv1.weight, bn1.weight, bn1.bias, layer1.0.conv1.weight, ...; inside a
block conv1, bn1, conv2, bn2, [conv3, bn3,] downsample.0, downsample.1), then goes on through `named_buffers()`
(bn1.running_mean, bn1.running_var, ...; `num_batches_tracked` is not counted). `fc` is removed, so it has no number.

    convolution, linear weight      (2u - 1) * sqrt(6 / fan_in)      fan_in = in * kh * kw
    batch norm weight               0.5 + u
    ... named bn3 (bottlenecks)     0.25 * (0.5 + u)
    batch norm bias                 u - 0.5
    linear bias                     0.1 * (2u - 1)
    running_mean                    0.2 * (2u - 1)
    running_var                     0.5 + u

The right-hand sides are computed in f64, left to right as written, and rounded once to f32. The last norm of a
bottleneck is small because otherwise rounding grows from block to block, and a ResNet-50's gradient in f32 is known to
one percent only. Inputs are `2u - 1`, which f32 holds exactly: images from 1000 on (each case names its own), element
order [n, h, w, c]; the factor of the loss over features 2000; inputs of `losses.py` from 3000 on.
"""

import math

import numpy as np

LOSS_FACTOR = 2000


def uniform(i, shape):
    """`u` of tensor number `i` as f64, row-major."""
    mask = np.uint64(0xFFFFFFFF)
    h = np.arange(math.prod(shape), dtype=np.uint64)
    h = (h * np.uint64(2654435761) + np.uint64(i * 40503 + 12345)) & mask
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(2246822507)) & mask
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(3266489909)) & mask
    h ^= h >> np.uint64(16)
    return ((h >> np.uint64(8)).astype(np.float64) * 2.0**-24).reshape(shape)


def signed(i, shape):
    """`2u - 1`: inputs, gradients from above, factors of a loss."""
    return 2.0 * uniform(i, shape) - 1.0


def weight(i, name, shape, bias=0.1):
    """Parameter or running statistic number `i`, rounded to f32; biases that belong to no norm are in ±`bias`."""
    u = uniform(i, shape)
    if name.endswith("running_mean"):
        value = 0.2 * (2.0 * u - 1.0)
    elif name.endswith("running_var"):
        value = 0.5 + u
    elif len(shape) > 1:
        value = (2.0 * u - 1.0) * math.sqrt(6.0 / math.prod(shape[1:]))
    elif name.endswith("bn3.weight"):
        value = 0.25 * (0.5 + u)
    elif name.endswith("weight"):
        value = 0.5 + u
    elif "bn" in name or "downsample.1" in name:
        value = u - 0.5
    else:
        value = bias * (2.0 * u - 1.0)
    return value.astype(np.float32)


def fill(model):
    """Overwrites every parameter and running statistic of `model`; returns [(name, f32 array)] in numbered order."""
    named = list(model.named_parameters())
    named += [(n, b) for n, b in model.named_buffers() if not n.endswith("num_batches_tracked")]
    made = []
    for i, (name, tensor) in enumerate(named):
        value = weight(i, name, tuple(tensor.shape))
        tensor.data.copy_(tensor.data.new_tensor(value))
        made.append((name, value))
    return made
