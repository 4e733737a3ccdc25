"""Makes methods.safetensors: ten training steps of every method in PyTorch, f64, with timm's and torchvision's layers.

    python tests/golden/methods.py [OUT]

Views are the numbers `2u - 1` of formula.py, [n, size, size, 3], tensor 4000 + the view's index; no augmentation. A weight
is the formula's tensor number `number(name)`, where a teacher's has the name of its student's; `start` says how it is
scaled. Ten steps of SGD (momentum .9, decay 1e-3 on everything) at rates RATES (times SLOW); teachers follow with momentum MOMENTUM.

    {case}.loss               [10]      before each step
    {case}.entropy            [10]      of DINO's teacher
    {case}.accuracy           [10]      of a supervised method; sample i of 12 has class 5 i mod 7
    {case}.gradient.{name}    [2]       of the first step: l2 norm, and the sum of its elements times tensor 5000 of the formula
    {case}.after.{name}       [2]       of the weight after the last step, alike
    {case}.f32                [10]      losses of the same steps in f32, to see what rounding does
"""

import copy
import math
import pathlib
import sys
from functools import partial

import formula
import numpy as np
import torch
from safetensors.numpy import save_file
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

STEPS = 10
RATES = [0.01 * (i + 1) / 4 if i < 4 else 0.01 for i in range(STEPS)]
MOMENTUM = [0.9 + 0.01 * i for i in range(STEPS)]
TEMPERATURE = [0.04 + 0.003 * i for i in range(STEPS)]
N, SIZE, PATCH = 12, 16, 4


# ---- weights ----------------------------------------------------------------------------------------------------------


def number(name):
    """FNV-1a of the name, 16 bits of it."""
    h = 0x811C9DC5
    for byte in name.removeprefix("teacher.").encode():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return h & 0xFFFF


def start(name, shape):
    u = formula.uniform(number(name), shape)
    if name.endswith(("cls_token", "pos_embed", "mask_token")):
        return 0.1 * (2.0 * u - 1.0)
    if len(shape) > 1:
        return (2.0 * u - 1.0) * math.sqrt(3.0 / math.prod(shape[1:]))
    return 0.5 + u if name.endswith("weight") else 0.1 * (2.0 * u - 1.0)


def fill(model):
    for name, p in model.named_parameters():
        if not name.endswith("decoder_pos_embed"):
            p.data.copy_(torch.from_numpy(start(name, tuple(p.shape)).astype(np.float32)))


# ---- networks ---------------------------------------------------------------------------------------------------------


class ResNet8(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 32, 64]
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            down = nn.Sequential(nn.Conv2d(before, width, 1, 2, bias=False), nn.BatchNorm2d(width)) if i else None
            setattr(self, f"layer{i + 1}", nn.Sequential(BasicBlock(before, width, 2 if i else 1, down)))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


def vit():
    return VisionTransformer(img_size=SIZE, patch_size=PATCH, embed_dim=64, depth=4, num_heads=2, num_classes=0, dynamic_img_size=True)


class Head(nn.Module):
    """Linear layers, relu between them; names as the tool has them. The last ends `linear`, in a `norm` without weights, or in one with
    a `scale` and an offset that does not move."""

    def __init__(self, inputs, widths, norm, last="linear", bias=True):
        super().__init__()
        self.depth, self.norm, self.last = len(widths), norm, last
        for i, width in enumerate(widths, start=1):
            final = i == len(widths)
            setattr(self, f"fc{i}", nn.Linear(inputs, width, bias=bias and last == "linear" if final else not norm))
            if (norm and not final) or (final and last != "linear"):
                setattr(self, f"bn{i}", nn.BatchNorm1d(width, affine=not final or last == "scale"))
            if final and last == "scale":
                getattr(self, f"bn{i}").bias.requires_grad_(False)
            inputs = width

    def forward(self, x):
        for i in range(1, self.depth + 1):
            x = getattr(self, f"fc{i}")(x)
            if hasattr(self, f"bn{i}"):
                x = getattr(self, f"bn{i}")(x)
            if i < self.depth:
                x = F.relu(x)
        return x


def averaged(student, teacher, momentum):
    with torch.no_grad():
        for s, t in zip(student.parameters(), teacher.parameters()):
            t.mul_(momentum).add_(s, alpha=1 - momentum)


class Method(nn.Module):
    def __init__(self, encoder, **heads):
        super().__init__()
        self.encoder = encoder
        for name, head in heads.items():
            setattr(self, name, head)

    def with_teacher(self, *names):
        """A teacher whose parts are copies; its names begin with `teacher.`."""
        self.teacher = nn.Module()
        for name in names:
            setattr(self.teacher, name, copy.deepcopy(getattr(self, name)))
        for p in self.teacher.parameters():
            p.requires_grad_(False)
        return self

    def after(self, step):
        if hasattr(self, "teacher"):
            for name, part in self.teacher.named_children():
                averaged(getattr(self, name), part, MOMENTUM[step])

    # The name of what is measured beside the loss.
    metric = ""


class SimClr(Method):
    def forward(self, views, step):
        z = F.normalize(self.projector(self.encoder(torch.cat(views))), dim=1)
        logits = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
        return F.cross_entropy(logits, (torch.arange(len(z)) + len(z) // 2) % len(z))


class SimClrTwice(SimClr):
    def forward(self, views, step):
        return 2 * super().forward(views, step)


class SimSiam(Method):
    def forward(self, views, step):
        z = [self.projector(self.encoder(v)) for v in views]
        p = [self.predictor(z) for z in z]
        return -0.5 * sum(F.cosine_similarity(p[a], z[b].detach(), dim=1).mean() for a, b in ((0, 1), (1, 0)))


class Byol(Method):
    def forward(self, views, step):
        p = [self.predictor(self.projector(self.encoder(v))) for v in views]
        with torch.no_grad():
            t = [self.teacher.projector(self.teacher.encoder(v)) for v in views]
        return sum(2 - 2 * F.cosine_similarity(p[a], t[b], dim=1).mean() for a, b in ((0, 1), (1, 0)))


class MoCoV3(Method):
    def forward(self, views, step):
        q = [F.normalize(self.predictor(self.projector(self.encoder(v))), dim=1) for v in views]
        with torch.no_grad():
            k = [F.normalize(self.teacher.projector(self.teacher.encoder(v)), dim=1) for v in views]
        labels = torch.arange(len(q[0]))
        return sum(0.4 * F.cross_entropy(q[a] @ k[b].T / 0.2, labels) for a, b in ((0, 1), (1, 0)))


class BarlowTwins(Method):
    def forward(self, views, step):
        z = [self.projector(self.encoder(v)) for v in views]
        z = [(z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in z]
        c = z[0].T @ z[1] / len(z[0])
        on = (torch.diagonal(c) - 1).pow(2).sum()
        return 0.1 * (on + 0.0051 * (c.pow(2).sum() - torch.diagonal(c).pow(2).sum()))


class VicReg(Method):
    def forward(self, views, step):
        x, y = [self.projector(self.encoder(v)) for v in views]
        n, d = x.shape
        loss = 25 * F.mse_loss(x, y)
        for z in (x, y):
            z = z - z.mean(0)
            loss = loss + 25 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2
            c = z.T @ z / (n - 1)
            loss = loss + (c.pow(2).sum() - torch.diagonal(c).pow(2).sum()) / d
        return loss


class DinoHead(nn.Module):
    def __init__(self, inputs, widths, prototypes, norm):
        super().__init__()
        self.mlp, self.bn = nn.Module(), nn.Module()
        self.depth, self.norm = len(widths), norm
        for i, width in enumerate(widths):
            final = i + 1 == len(widths)
            setattr(self.mlp, str(i), nn.Linear(inputs, width, bias=final or not norm))
            if norm and not final:
                setattr(self.bn, str(i), nn.BatchNorm1d(width))
            inputs = width
        self.last_layer = nn.Linear(inputs, prototypes, bias=False)

    def forward(self, x):
        for i in range(self.depth):
            x = getattr(self.mlp, str(i))(x)
            if i + 1 < self.depth:
                x = F.gelu(getattr(self.bn, str(i))(x) if self.norm else x)
        return F.normalize(x, dim=1) @ F.normalize(self.last_layer.weight, dim=1).T


class Dino(Method):
    metric = "entropy"

    def forward(self, views, step):
        crops = views[2:]
        h = [self.encoder(torch.cat(views[:2]))] + ([self.encoder(torch.cat(crops))] if crops else [])
        student = self.head(torch.cat(h)) / 0.1
        with torch.no_grad():
            t = self.teacher.head(self.teacher.encoder(torch.cat(views[:2])))
            if not hasattr(self, "center"):
                self.center = torch.zeros_like(t[:1])
            q = F.softmax((t - self.center) / TEMPERATURE[step], dim=1)
            self.entropy = -(q * q.clamp_min(1e-300).log()).sum(1).mean()
            self.center = self.center * 0.9 + t.mean(0, keepdim=True) * 0.1
        pairs = 0.0
        s = student.chunk(len(views))
        terms = [-(a * F.log_softmax(b, dim=1)).sum(1).mean() for i, a in enumerate(q.chunk(2)) for j, b in enumerate(s) if i != j]
        return sum(terms, pairs) / len(terms)


# ---- MAE --------------------------------------------------------------------------------------------------------------


def philox(counter, key):
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def noise(seed, epoch, sample, count):
    """Uniform numbers of the stream (seed, mask = 8, epoch, sample, view 0)."""
    words = [w for block in range(-(-count // 4)) for w in philox([block, sample, epoch, 8 << 24], [seed, 0])]
    return np.array([(w >> 8) * 2.0**-24 for w in words[:count]])


def sincos(grid, width):
    def axis(places):
        angle = np.outer(places, 10000.0 ** (-np.arange(width // 4) / (width // 4)))
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    column, row = np.meshgrid(np.arange(grid), np.arange(grid))
    table = np.concatenate([axis(column.reshape(-1)), axis(row.reshape(-1))], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), table]).astype(np.float32))[None].double()


class Decoder(nn.Module):
    def __init__(self, inputs, width, depth, heads, patches, outputs):
        super().__init__()
        self.decoder_embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(sincos(math.isqrt(patches), width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(Block(width, heads, 4.0, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, outputs)


class Mae(Method):
    mask, norm_pix = 0.75, True

    def forward(self, views, step):
        x, e, d = views[0], self.encoder, self.decoder
        patches = (SIZE // PATCH) ** 2
        keep = int(patches * (1 - self.mask))
        order = torch.from_numpy(np.stack([np.argsort(noise(3, step, i, patches), kind="stable") for i in range(len(x))]))
        ids = order[:, :keep]
        tokens = e.patch_embed(x).reshape(len(x), patches, -1) + e.pos_embed[:, 1:]
        tokens = torch.gather(tokens, 1, ids[..., None].expand(-1, -1, tokens.shape[-1]))
        tokens = torch.cat([(e.cls_token + e.pos_embed[:, :1]).expand(len(x), -1, -1), tokens], dim=1)
        y = d.decoder_embed(e.norm(e.blocks(tokens)))
        full = d.mask_token.expand(len(x), patches, -1).scatter(1, ids[..., None].expand(-1, -1, y.shape[-1]), y[:, 1:])
        y = torch.cat([y[:, :1], full], dim=1) + d.decoder_pos_embed
        for block in d.decoder_blocks:
            y = block(y)
        pred = d.decoder_pred(d.decoder_norm(y))[:, 1:]
        g = SIZE // PATCH
        target = x.reshape(len(x), 3, g, PATCH, g, PATCH).permute(0, 2, 4, 3, 5, 1).reshape(len(x), patches, -1)
        if self.norm_pix:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = torch.ones(len(x), patches, dtype=x.dtype).scatter(1, ids, 0.0)
        return (((pred - target) ** 2).mean(-1) * hidden).sum() / hidden.sum()


class MaePixels(Mae):
    mask, norm_pix = 0.5, False


# ---- cases ------------------------------------------------------------------------------------------------------------

DINO_VIEWS = [SIZE, SIZE, 8, 8, 8]


class Supervised(Method):
    metric = "accuracy"

    def forward(self, views, step):
        labels = 5 * torch.arange(N) % 7
        logits = self.classifier(self.encoder(views[0]))
        self.accuracy = (logits.argmax(1) == labels).to(logits.dtype).mean()
        return F.cross_entropy(logits, labels)


def mocov3_vit():
    model = MoCoV3(vit(), projector=Head(64, [64, 64, 32], True, "norm"), predictor=Head(32, [64, 32], True, "norm"))
    for p in model.encoder.patch_embed.parameters():
        p.requires_grad_(False)
    return model.with_teacher("encoder", "projector")


def mae(kind):
    return kind(vit(), decoder=Decoder(64, 32, 2, 2, (SIZE // PATCH) ** 2, PATCH * PATCH * 3))


CASES = {
    "simclr": (lambda: SimClr(ResNet8(), projector=Head(64, [64, 32], True)), [SIZE] * 2),
    "simclr_vit": (lambda: SimClr(vit(), projector=Head(64, [64, 32], False)), [SIZE] * 2),
    "simclr_norm": (lambda: SimClrTwice(ResNet8(), projector=Head(64, [64, 32], True, "scale")), [SIZE] * 2),
    "simsiam": (
        lambda: SimSiam(ResNet8(), projector=Head(64, [64, 64], True, "norm"), predictor=Head(64, [32, 64], True)),
        [SIZE] * 2,
    ),
    "byol": (
        lambda: Byol(ResNet8(), projector=Head(64, [64, 32], True), predictor=Head(32, [64, 32], True)).with_teacher(
            "encoder", "projector"
        ),
        [SIZE] * 2,
    ),
    "byol_plain": (
        lambda: Byol(
            ResNet8(), projector=Head(64, [64, 32], True, bias=False), predictor=Head(32, [64, 32], True, bias=False)
        ).with_teacher("encoder", "projector"),
        [SIZE] * 2,
    ),
    "mocov3": (
        lambda: MoCoV3(
            ResNet8(), projector=Head(64, [64, 32], True, "norm"), predictor=Head(32, [64, 32], True, bias=False)
        ).with_teacher("encoder", "projector"),
        [SIZE] * 2,
    ),
    "mocov3_vit": (mocov3_vit, [SIZE] * 2),
    "barlow": (lambda: BarlowTwins(ResNet8(), projector=Head(64, [64, 64, 48], True, bias=False)), [SIZE] * 2),
    "vicreg": (lambda: VicReg(ResNet8(), projector=Head(64, [64, 64, 48], True, bias=False)), [SIZE] * 2),
    "dino": (lambda: Dino(vit(), head=DinoHead(64, [64, 64, 32], 96, False)).with_teacher("encoder", "head"), DINO_VIEWS),
    "dino_resnet": (lambda: Dino(ResNet8(), head=DinoHead(64, [64, 32], 96, True)).with_teacher("encoder", "head"), DINO_VIEWS),
    "mae": (lambda: mae(Mae), [SIZE]),
    "mae_pixels": (lambda: mae(MaePixels), [SIZE]),
    "supervised": (lambda: Supervised(ResNet8(), classifier=nn.Linear(64, 7)), [SIZE]),
    "supervised_vit": (lambda: Supervised(vit(), classifier=nn.Linear(64, 7)), [SIZE]),
}


# What rounding does to it grows fastest: smaller steps.
SLOW = {"vicreg": 0.1, "simclr_norm": 0.1}


def two(value):
    flat = value.detach().double().flatten()
    return torch.stack([flat.norm(), flat @ torch.from_numpy(formula.signed(5000, (len(flat),)))])


def run(name, dtype):
    build, sizes = CASES[name]
    model = build()
    factor = SLOW.get(name, 1.0)
    fill(model)
    model = model.to(dtype).train()
    views = [torch.from_numpy(formula.signed(4000 + i, (N, s, s, 3))).permute(0, 3, 1, 2).contiguous().to(dtype) for i, s in enumerate(sizes)]
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.0, momentum=0.9, weight_decay=1e-3)
    losses, metrics, out = [], [], {}
    for step, rate in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = rate * factor
        loss = model(views, step)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            out.update({f"gradient.{n}": two(p.grad) for n, p in trained.items() if p.grad is not None})
        optimizer.step()
        model.after(step)
        losses.append(loss.detach())
        metrics.append(getattr(model, model.metric, None))
    out["loss"] = torch.stack(losses)
    if model.metric:
        out[model.metric] = torch.stack(metrics)
    kept = dict(trained) if not hasattr(model, "teacher") else trained | {f"teacher.{n}": p for n, p in model.teacher.named_parameters()}
    out.update({f"after.{n}": two(p) for n, p in kept.items()})
    return out


def main():
    torch.set_num_threads(1)
    here = pathlib.Path(__file__).parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "methods.safetensors"
    tensors = {}
    for name in CASES:
        exact, rounded = run(name, torch.float64), run(name, torch.float32)
        tensors.update({f"{name}.{key}": value for key, value in exact.items()} | {f"{name}.f32": rounded["loss"]})
        apart = (exact["loss"] - rounded["loss"]).abs().max() / exact["loss"].abs().max()
        largest = max(exact[k][0] for k in exact if k.startswith("gradient."))
        worst = max((exact[k] - rounded[k]).abs().max() / largest for k in exact if k.startswith("gradient."))
        print(f"{name}: loss {exact['loss'][0]:.4f} to {exact['loss'][-1]:.4f}; f32 is off by {apart:.1e}, its gradients by {worst:.1e}")
    save_file({key: value.contiguous().float().numpy() for key, value in sorted(tensors.items())}, path)
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
