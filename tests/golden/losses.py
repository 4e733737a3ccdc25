"""Makes losses.safetensors: loss, optimizers, batch norm, pooling and alignment from PyTorch and numpy, in f64.

    python tests/golden/losses.py [OUT]

Every case stores its inputs beside its results. The inputs are `2u - 1` of formula.py with the numbers below.

    ntxent.{rows}x{width}.z, .t{T}.loss, .t{T}.dz     NT-Xent over unnormalised embeddings z [2N, D], mean over the 2N
                                                      rows, cosine similarity / T, self excluded, positives i <-> i + N
    optim.{matrix,vector,zero}, .gradient.{...}       start [7, 5], [6], [3, 4] and gradients [10, ...], lr [10]
    optim.{sgd,adam,adamw,lars,lars_classic,lars_clipped}.{...}  weights after each of ten steps [10, ...]; `zero` starts at 0
    optim.{...}.settings                              [momentum, weight_decay, trust] or [beta1, beta2, eps, decay]
    batch_norm.*                                      training, rows x columns, eps 1e-5, momentum 0.1
    max_pool.*                                        3x3, stride 2, padding 1, NHWC, inputs in steps of 1/4: many ties,
                                                      of which the first in row-major order gets the gradient
    average_pool.*                                    global, NHWC -> [n, c]
    alignment.*                                       features [n, K, D] -> mean l2 distance of the unit vectors, over
                                                      all K (K - 1) / 2 pairs, and of view 0 against the others
"""

import itertools
import pathlib
import sys

import formula
import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

STEPS = 10


def tensor(number, *shape):
    return torch.from_numpy(formula.signed(number, shape))


def ntxent(z, temperature):
    """The mean over rows of cross-entropy with the other view as the class."""
    rows = len(z)
    unit = F.normalize(z, dim=1)
    logits = unit @ unit.T / temperature
    logits = logits.masked_fill(torch.eye(rows, dtype=torch.bool), float("-inf"))
    positive = (torch.arange(rows) + rows // 2) % rows
    return F.cross_entropy(logits, positive)


def ntxent_cases():
    for number, (rows, width) in enumerate([(8, 4), (64, 32)], start=3000):
        name = f"ntxent.{rows}x{width}"
        start = tensor(number, rows, width)
        yield f"{name}.z", start
        for temperature in (0.5, 0.1):
            z = start.clone().requires_grad_()
            loss = ntxent(z, temperature)
            loss.backward()
            yield f"{name}.t{temperature}.loss", loss
            yield f"{name}.t{temperature}.dz", z.grad


class Lars(torch.optim.Optimizer):
    """LARS with decay and trust only where there is more than one dimension. dialect: "plain" is that of MoCo-v3 and MAE; "classic", of
    SimCLR, has the rate inside the momentum; "clipped", of solo-learn, is as its `clip_lr` has it."""

    def __init__(self, params, lr, momentum, weight_decay, trust, dialect="plain"):
        super().__init__(
            params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust, dialect=dialect)
        )

    @staticmethod
    def adapted(p, group):
        decay, trust, rate = group["weight_decay"], group["trust"], group["lr"]
        update = p.grad.add(p, alpha=decay)
        w, g, u = p.norm(), p.grad.norm(), update.norm()
        if group["dialect"] == "clipped":
            if w == 0 or g == 0:
                return p.grad
            return update * min(trust * w / (g + decay * w + 1e-8) / rate, 1)
        return update * (trust * w / u) if w > 0 and u > 0 else update

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = self.adapted(p, group) if p.ndim > 1 else p.grad
                inside, outside = (group["lr"], 1) if group["dialect"] == "classic" else (1, group["lr"])
                state = self.state[p]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(p)
                state["mu"].mul_(group["momentum"]).add_(update, alpha=inside)
                p.add_(state["mu"], alpha=-outside)


OPTIMIZERS = {
    "sgd": (
        lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9, weight_decay=5e-4),
        [0.9, 5e-4, 0.0],
    ),
    "adam": (
        lambda p: torch.optim.Adam(p, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=5e-2),
        [0.9, 0.999, 1e-8, 5e-2],
    ),
    "adamw": (
        lambda p: torch.optim.AdamW(p, lr=0.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=5e-2),
        [0.9, 0.999, 1e-8, 5e-2],
    ),
    "lars": (
        lambda p: Lars(p, lr=0.0, momentum=0.9, weight_decay=5e-2, trust=1e-3),
        [0.9, 5e-2, 1e-3],
    ),
    "lars_classic": (
        lambda p: Lars(p, lr=0.0, momentum=0.9, weight_decay=5e-2, trust=1e-3, dialect="classic"),
        [0.9, 5e-2, 1e-3],
    ),
    # A trust that is clipped at some of the rates and not at others.
    "lars_clipped": (
        lambda p: Lars(p, lr=0.0, momentum=0.9, weight_decay=5e-2, trust=1e-1, dialect="clipped"),
        [0.9, 5e-2, 1e-1],
    ),
}


def optimizer_cases():
    start = {
        "matrix": tensor(3100, 7, 5),
        "vector": tensor(3101, 6),
        "zero": torch.zeros(3, 4, dtype=torch.float64),
    }
    gradient = {
        name: tensor(3110 + i, STEPS, *value.shape) for i, (name, value) in enumerate(start.items())
    }
    # Exact in f32, so that both sides step with the same rates.
    rates = [0.0625, 0.125, 0.1875, 0.25, 0.25, 0.1875, 0.125, 0.0625, 0.03125, 0.015625]
    for name in start:
        yield f"optim.{name}", start[name]
        yield f"optim.gradient.{name}", gradient[name]
    yield "optim.lr", torch.tensor(rates, dtype=torch.float64)
    for optimizer, (build, settings) in OPTIMIZERS.items():
        weights = {name: nn.Parameter(value.clone()) for name, value in start.items()}
        stepper = build(list(weights.values()))
        history = {name: [] for name in weights}
        for step, rate in enumerate(rates):
            for group in stepper.param_groups:
                group["lr"] = rate
            for name, weight in weights.items():
                weight.grad = gradient[name][step].clone()
            stepper.step()
            for name, weight in weights.items():
                history[name].append(weight.detach().clone())
        yield f"optim.{optimizer}.settings", torch.tensor(settings, dtype=torch.float64)
        for name, steps in history.items():
            yield f"optim.{optimizer}.{name}", torch.stack(steps)


def batch_norm_cases():
    rows, columns = 12, 5
    layer = nn.BatchNorm1d(columns, eps=1e-5, momentum=0.1).double()
    with torch.no_grad():
        layer.weight.copy_(tensor(3200, columns))
        layer.bias.copy_(tensor(3201, columns))
    x = (tensor(3202, rows, columns) * 2.0 + 0.5).requires_grad_()
    dy = tensor(3203, rows, columns)
    yield "batch_norm.x", x
    yield "batch_norm.weight", layer.weight
    yield "batch_norm.bias", layer.bias
    yield "batch_norm.dy", dy
    y = layer(x)
    y.backward(dy)
    yield "batch_norm.y", y
    yield "batch_norm.dx", x.grad
    yield "batch_norm.dweight", layer.weight.grad
    yield "batch_norm.dbias", layer.bias.grad
    yield "batch_norm.running_mean", layer.running_mean
    yield "batch_norm.running_var", layer.running_var
    yield "batch_norm.eval", layer.eval()(x)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def nchw(x):
    return x.permute(0, 3, 1, 2).contiguous()


def pool_cases():
    start = torch.floor(tensor(3300, 2, 7, 6, 3) * 4.0) / 4.0
    x = nchw(start).requires_grad_()
    y = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    dy = tensor(3301, *nhwc(y).shape)
    y.backward(nchw(dy))
    yield "max_pool.x", start
    yield "max_pool.y", nhwc(y)
    yield "max_pool.dy", dy
    yield "max_pool.dx", nhwc(x.grad)

    start = tensor(3302, 2, 5, 3, 4)
    x = nchw(start).requires_grad_()
    y = F.adaptive_avg_pool2d(x, 1).flatten(1)
    dy = tensor(3303, *y.shape)
    y.backward(dy)
    yield "average_pool.x", start
    yield "average_pool.y", y
    yield "average_pool.dy", dy
    yield "average_pool.dx", nhwc(x.grad)


def alignment_cases():
    features = formula.signed(3400, (5, 5, 16))
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    views = range(unit.shape[1])

    def mean_distance(pairs):
        return torch.from_numpy(
            np.mean([np.linalg.norm(unit[:, a] - unit[:, b], axis=-1) for a, b in pairs], axis=0)
        )

    yield "alignment.features", torch.from_numpy(features)
    yield "alignment.all", mean_distance(list(itertools.combinations(views, 2)))
    yield "alignment.original", mean_distance([(0, b) for b in views if b != 0])


def main():
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "losses.safetensors"
    tensors = {}
    for cases in (ntxent_cases, optimizer_cases, batch_norm_cases, pool_cases, alignment_cases):
        for name, value in cases():
            tensors[name] = value.detach().clone().contiguous().float().numpy()
    save_file(dict(sorted(tensors.items())), path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
