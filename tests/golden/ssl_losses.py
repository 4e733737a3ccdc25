"""Makes ssl_losses.safetensors: the losses of self-supervised methods and the optimizer's special cases, in f64 PyTorch.

    python tests/golden/ssl_losses.py [OUT]

Every case stores its inputs beside its results. The inputs are `2u - 1` of formula.py with the numbers below, some of
them times a factor. Each loss is written here from the formula in its paper.

    cosine.{a,b}, .loss, .da                      mean cosine of paired rows; b is a target
    info_nce.{q,k}, .loss, .dq                    MoCo v3: cross-entropy of q.k / 0.2, the diagonal is the class
    distill.{student,teacher} [3, ...]            DINO over three steps: 5 crops, 2 views, 3 samples; temperatures
        .temperature, .loss, .entropy, .dstudent, .center    of the teacher; the centre after each step, momentum 0.9
    decorrelate.{a,b}, .loss, .da, .db            Barlow Twins: lambda 0.0051, scale 0.1
    variance_covariance.{a,b}, .loss, .da, .db    VICReg: 25, 25, 1
    reconstruct.{pred,images,place}               MAE: patches of 2 pixels, 2 of 6 seen
        .{pixels,normalized}.{loss,dpred}
    cross_entropy.{logits,labels}, .loss, .accuracy, .rows, .dlogits    two views of 4 samples, 7 classes
    distance.{a,b}, .loss, .da, .db               mean distance of unit vectors; the last pair is one vector twice
    update.{matrix,vector,late}, .gradient.{...}  start and gradients [10, ...], lr [10]; clipped per tensor at 1.8;
        .{sgd,adamw,lars}.{...}                   weights after each step. matrix: half the rate; vector: rate 0.1, no
                                                  decay; late: moves from step 3 on
"""

import pathlib
import sys

import formula
import numpy as np
import torch
from losses import Lars
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

CLIP = 1.8


def tensor(number, *shape):
    return torch.from_numpy(formula.signed(number, shape))


def graded(name, inputs, loss, wanted):
    """The inputs, the loss and the gradients of `wanted`."""
    leaves = {n: value.clone().requires_grad_() for n, value in inputs.items()}
    value = loss(**leaves)
    value.backward()
    for n in inputs:
        yield f"{name}.{n}", inputs[n]
    yield f"{name}.loss", value
    for n in wanted:
        yield f"{name}.d{n}", leaves[n].grad


def cosine_cases():
    inputs = {"a": tensor(4000, 6, 5), "b": tensor(4001, 6, 5)}
    yield from graded("cosine", inputs, lambda a, b: F.cosine_similarity(a, b).mean(), "a")


def info_nce(q, k):
    logits = F.normalize(q, dim=1) @ F.normalize(k, dim=1).T / 0.2
    return F.cross_entropy(logits, torch.arange(len(q)))


def info_nce_cases():
    inputs = {"q": tensor(4010, 12, 7), "k": tensor(4011, 12, 7)}
    yield from graded("info_nce", inputs, info_nce, "q")


def distill_cases():
    n, crops, views, k, steps = 3, 5, 2, 11, 3
    students, teachers = tensor(4020, steps, crops * n, k), tensor(4021, steps, views * n, k) + 0.25
    temperatures = torch.tensor([0.25, 0.125, 0.0625], dtype=torch.float64)
    center = torch.zeros(1, k, dtype=torch.float64)
    history = {name: [] for name in ("loss", "entropy", "dstudent", "center")}
    for student, teacher, temperature in zip(students, teachers, temperatures):
        student = student.clone().requires_grad_()
        q = F.softmax((teacher - center) / temperature, dim=1).view(views, n, k)
        log_p = F.log_softmax(student / 0.1, dim=1).view(crops, n, k)
        pairs = [(v, s) for v in range(views) for s in range(crops) if v != s]
        loss = torch.stack([-(q[v] * log_p[s]).sum(1).mean() for v, s in pairs]).mean()
        loss.backward()
        center = 0.9 * center + 0.1 * teacher.mean(0, keepdim=True)
        history["loss"].append(loss.detach())
        history["entropy"].append(-(q * q.log()).sum(2).mean())
        history["dstudent"].append(student.grad)
        history["center"].append(center[0])
    yield "distill.student", students
    yield "distill.teacher", teachers
    yield "distill.temperature", temperatures
    for name, values in history.items():
        yield f"distill.{name}", torch.stack(values)


def decorrelate(a, b):
    n, d = a.shape
    a, b = (F.batch_norm(x, None, None, training=True, eps=1e-5) for x in (a, b))
    c = a.T @ b / n
    on, off = (1 - c.diagonal()).pow(2).sum(), c.pow(2).sum() - c.diagonal().pow(2).sum()
    return 0.1 * (on + 0.0051 * off)


def variance_covariance(a, b):
    n, d = a.shape
    loss = 25 * F.mse_loss(a, b)
    for x in (a, b):
        loss = loss + 25 * F.relu(1 - torch.sqrt(x.var(dim=0) + 1e-4)).mean() / 2
        centred = x - x.mean(dim=0)
        covariance = centred.T @ centred / (n - 1)
        loss = loss + (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / d
    return loss


def redundancy_cases():
    # Columns with standard deviations on both sides of one.
    factor = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], dtype=torch.float64)
    inputs = {"a": tensor(4030, 12, 6) * factor, "b": tensor(4031, 12, 6) * factor + 0.5}
    yield from graded("decorrelate", inputs, decorrelate, "ab")
    yield from graded("variance_covariance", inputs, variance_covariance, "ab")


def reconstruct_cases():
    n, patch, height, width, channels, keep = 2, 2, 4, 6, 3, 2
    patches = (height // patch) * (width // patch)
    pred, images = tensor(4040, n, 1 + patches, patch * patch * channels), tensor(4041, n, height, width, channels)
    place = torch.from_numpy(np.argsort(np.argsort(formula.uniform(4042, (n, patches)), axis=1), axis=1))
    target = images.view(n, height // patch, patch, width // patch, patch, channels)
    target = target.permute(0, 1, 3, 2, 4, 5).reshape(n, patches, -1)
    hidden = (place >= keep).double()
    yield "reconstruct.pred", pred
    yield "reconstruct.images", images
    yield "reconstruct.place", place
    for kind in ("pixels", "normalized"):
        wanted = target
        if kind == "normalized":
            wanted = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        leaf = pred.clone().requires_grad_()
        error = (leaf[:, 1:] - wanted).pow(2).mean(-1)
        loss = (error * hidden).sum() / hidden.sum()
        loss.backward()
        yield f"reconstruct.{kind}.loss", loss
        yield f"reconstruct.{kind}.dpred", leaf.grad


def distance(a, b):
    a, b = (F.normalize(x.flatten(1), dim=1) for x in (a, b))
    return torch.linalg.vector_norm(a - b, dim=1).mean()


def distance_cases():
    a, b = tensor(4050, 4, 3, 5), tensor(4051, 4, 3, 5)
    b[3] = a[3]
    yield from graded("distance", {"a": a, "b": b}, distance, "ab")


UPDATES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, betas=(0.9, 0.999), eps=1e-8),
    "lars": lambda p: Lars(p, lr=0.0, momentum=0.9, weight_decay=0.0, trust=1e-3),
}


def cross_entropy_cases():
    logits = 4 * tensor(4090, 8, 7)
    logits.requires_grad_()
    labels = torch.tensor([3, 0, 6, 3])
    twice = labels.repeat(2)
    rows = F.cross_entropy(logits, twice, reduction="none")
    loss = F.cross_entropy(logits, twice)
    loss.backward()
    accuracy = (logits.argmax(1) == twice).double().mean()
    found = {"logits": logits, "labels": labels, "loss": loss, "accuracy": accuracy, "rows": rows, "dlogits": logits.grad}
    yield from ((f"cross_entropy.{name}", value) for name, value in found.items())


def update_cases():
    start = {"matrix": tensor(4060, 7, 5), "vector": tensor(4061, 6), "late": tensor(4062, 3, 4)}
    gradient = {n: tensor(4070 + i, 10, *value.shape) for i, (n, value) in enumerate(start.items())}
    rates = [0.0625, 0.125, 0.1875, 0.25, 0.25, 0.1875, 0.125, 0.0625, 0.03125, 0.015625]
    for name in start:
        yield f"update.{name}", start[name]
        yield f"update.gradient.{name}", gradient[name]
    yield "update.lr", torch.tensor(rates, dtype=torch.float64)
    for rule, build in UPDATES.items():
        weights = {name: nn.Parameter(value.clone()) for name, value in start.items()}
        stepper = build([{"params": [w], "weight_decay": 0.0 if n == "vector" else 0.05} for n, w in weights.items()])
        history = {name: [] for name in weights}
        for step, rate in enumerate(rates):
            for (name, weight), group in zip(weights.items(), stepper.param_groups):
                group["lr"] = {"matrix": 0.5 * rate, "vector": 0.1, "late": rate}[name]
                g = gradient[name][step]
                # A parameter without a gradient is left alone, and its step is not counted.
                weight.grad = None if name == "late" and step < 3 else g * min(1.0, CLIP / (g.norm() + 1e-6))
            stepper.step()
            for name, weight in weights.items():
                history[name].append(weight.detach().clone())
        for name, steps in history.items():
            yield f"update.{rule}.{name}", torch.stack(steps)


def main():
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "ssl_losses.safetensors"
    cases = (
        cosine_cases,
        info_nce_cases,
        distill_cases,
        redundancy_cases,
        reconstruct_cases,
        distance_cases,
        cross_entropy_cases,
        update_cases,
    )
    tensors = {}
    for case in cases:
        for name, value in case():
            tensors[name] = value.detach().clone().contiguous().float().numpy()
    save_file(dict(sorted(tensors.items())), path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
