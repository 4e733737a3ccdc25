"""What a user would run instead of this program's kernels: PyTorch and torchvision on the GPU, bf16, channels_last.

    python benches/rival_gpu.py [--seconds 130] [--only PREFIX] [--tiny]

Prints one JSON line per way that was tried: {"name", "value", "unit", "how"}; the best line of a name counts. The names are
those of benches/gpu. Jobs come in the order of importance; nothing begins after the given seconds, and no way to run a job
takes more than its share of them. --tiny goes through everything at tiny sizes, on the CPU where there is no GPU; its times
mean nothing. Nothing is installed.
"""

import argparse
import contextlib
import copy
import itertools
import json
import logging
import os
import signal
import sys
import time
import warnings

try:
    import torch
    import torchvision
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    from torchvision.transforms import v2
except ImportError as missing:
    sys.exit(f"rival_gpu.py needs torch and torchvision, which are not installed here: {missing}")

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so many (default: no limit)")
PARSER.add_argument("--only", default="", metavar="PREFIX", help="only jobs whose names begin like this")
PARSER.add_argument("--tiny", action="store_true", help="tiny sizes: does everything work?")
ARGS = PARSER.parse_args()
START = time.perf_counter()
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
WORKERS = min(16, os.cpu_count() or 1)
VIEWS = 5


def size(real, tiny):
    return tiny if ARGS.tiny else real


def left():
    return ARGS.seconds - (time.perf_counter() - START)


# ---------------------------------------------------------------- timing


class TooLong(Exception):
    pass


@contextlib.contextmanager
def at_most(seconds):
    """Raises TooLong in what takes longer; compilers come back to Python often enough."""

    def stop(*_):
        raise TooLong(f"took more than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def elapsed(work):
    """Seconds of the device from the first kernel of `work` to the end of its last."""
    if not GPU:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def median(values):
    return sorted(values)[len(values) // 2]


def cold(step):
    """Seconds of one call whose inputs no cache holds; the copy also lets the host get ahead."""
    flush = torch.empty(size(256 << 20, 1 << 10), dtype=torch.uint8, device=DEVICE)
    for _ in range(3):
        step()
    times = []
    for _ in range(size(25, 2)):
        flush.add_(1)
        times.append(elapsed(step))
    return median(times)


def warm(step):
    """Seconds per call when many follow each other."""
    for _ in range(3):
        step()
    once = elapsed(step)
    times = 1 if ARGS.tiny else min(200, max(1, round(0.03 / once)))
    return median([elapsed(lambda: [step() for _ in range(times)]) for _ in range(5)]) / times


def graph(step):
    """`step` as one CUDA graph; where there is no GPU, itself."""
    if not GPU:
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    return captured.replay


def tell(name, value, unit, how):
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "how": how}), flush=True)


def ways(name, unit, value, tries, share=0.4):
    """Tries each (how, build) and tells its number; what does not work or takes too long is told too, and passed over."""
    for how, build in tries:
        if left() < 3:
            return print(json.dumps({"name": name, "error": f"no time was left ({how})"}), flush=True)
        try:
            # Compilers print to stdout as they like.
            with at_most(min(left(), max(20.0, share * left()))), contextlib.redirect_stdout(sys.stderr):
                result = value(build())
        except Exception as error:
            words = f"{how}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            print(json.dumps({"name": name, "error": words[:300]}), flush=True)
        else:
            tell(name, result, unit, how)
        torch.compiler.reset()


def microseconds(step):
    return cold(step) * 1e6


def normal(*shape):
    return torch.randn(*shape, device=DEVICE).bfloat16()


# ---------------------------------------------------------------- networks


VITS = {"vit_base": (768, 12), "vit_small": (384, 6)}


def encoder(arch):
    if arch in VITS:
        width, heads = VITS[arch]
        model = torchvision.models.VisionTransformer(size(224, 32), 16, 12, heads, width, 4 * width)
        model.heads = nn.Identity()
        return model
    if arch == "resnet50":
        model = torchvision.models.resnet50(weights=None)
    else:
        model = torchvision.models.resnet18(weights=None)
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    return model


def folded(model):
    """Each batch norm folded into the convolution before it, as in torchvision's ResNets."""
    for module in list(model.modules()):
        names = list(module._modules)
        for conv, norm in zip(names, names[1:]):
            if isinstance(module._modules[conv], nn.Conv2d) and isinstance(module._modules[norm], nn.BatchNorm2d):
                module._modules[conv] = fuse_conv_bn_eval(module._modules[conv], module._modules[norm])
                module._modules[norm] = nn.Identity()
    return model


def images(batch, side):
    return normal(batch, 3, side, side).to(memory_format=torch.channels_last)


def inference_ways(arch, batch, side, modes):

    def build(mode):
        model = folded(encoder(arch).eval()).to(DEVICE, torch.bfloat16, memory_format=torch.channels_last)
        x = images(batch, side)
        run = torch.compile(model, mode=mode) if mode else model

        @torch.no_grad()
        def step():
            return run(x)

        return graph(step)

    return [(f"folded norms, {how}, CUDA graph", lambda mode=mode: build(mode)) for how, mode in modes.items()]


class SimClr(nn.Module):
    def __init__(self, arch, views):
        super().__init__()
        self.encoder = encoder(arch)
        width = VITS[arch][0] if arch in VITS else 2048 if arch == "resnet50" else 512
        self.projector = nn.Sequential(nn.Linear(width, 1024), nn.ReLU(), nn.Linear(1024, 128))
        self.register_buffer("itself", torch.eye(views, dtype=torch.bool))
        self.register_buffer("positive", (torch.arange(views) + views // 2) % views)

    def forward(self, views):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            embeddings = self.projector(self.encoder(views))
        return nt_xent(embeddings, self.itself, self.positive)


def nt_xent(embeddings, itself, positive):
    unit = F.normalize(embeddings.float(), dim=1)
    logits = (unit @ unit.T / 0.5).masked_fill(itself, float("-inf"))
    return F.cross_entropy(logits, positive)


def training_ways(arch, batch, side, modes):
    def build(mode):
        model = SimClr(arch, batch).train().to(DEVICE, memory_format=torch.channels_last)
        views = images(batch, side).float().to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=GPU)
        loss_of = torch.compile(model, mode=mode) if mode else model

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss_of(views).backward()
            optimizer.step()

        return graph(step)

    return [(f"autocast, {how}, the step one CUDA graph", lambda mode=mode: build(mode)) for how, mode in modes.items()]


# Graphs are captured by hand, so that every way is one.
MODES = {"eager kernels": None, "compiled": "default"}
AUTOTUNE = {"compiled max-autotune": "max-autotune-no-cudagraphs"}


def network(what, arch, modes=MODES):
    batch, side = (1024, 32) if arch == "resnet18" else (256, 224)
    batch, side = size(batch, 4), size(side, 32)
    name = f"{what}/{arch}" + ("_cifar" if arch == "resnet18" else "")
    if ARGS.tiny and (arch != "resnet18" or modes is AUTOTUNE):
        modes = {"eager kernels": None}
    tries = (training_ways if what == "train" else inference_ways)(arch, batch, side, modes)
    ways(name, "images/s", lambda step: batch / warm(step), tries)


# ---------------------------------------------------------------- products and convolutions


def linear():
    for rows, inputs, outputs in [(8192, 8192, 8192), (4096, 4096, 4096), (50176, 768, 768)]:
        case = f"{rows}x{inputs}x{outputs}"
        rows, inputs, outputs = (size(n, 24) for n in (rows, inputs, outputs))
        x, w, dy = normal(rows, inputs), normal(outputs, inputs), normal(rows, outputs)
        ways(f"linear_fwd/{case}", "us", microseconds, [("torch.mm", lambda: lambda: torch.mm(x, w.T))])
        ways(f"linear_bwd/{case}", "us", microseconds, [("torch.mm", lambda: lambda: torch.mm(dy, w))])
        ways(f"linear_bwd_w/{case}", "us", microseconds, [("torch.mm", lambda: lambda: torch.mm(dy.T, x))])


# Height and width, channels in and out, kernel, stride: as in benches/gpu/kernels.rs.
LAYERS = {
    ("resnet18", 1024): [
        (32, 3, 64, 3, 1), (32, 64, 64, 3, 1), (32, 64, 128, 3, 2), (32, 64, 128, 1, 2), (16, 128, 128, 3, 1),
        (16, 128, 256, 3, 2), (8, 256, 256, 3, 1), (8, 256, 512, 3, 2), (4, 512, 512, 3, 1),
    ],
    ("resnet50", 128): [
        (224, 3, 64, 7, 2), (56, 64, 64, 1, 1), (56, 64, 64, 3, 1), (56, 64, 256, 1, 1), (56, 256, 64, 1, 1),
        (56, 256, 512, 1, 2), (56, 128, 128, 3, 2), (28, 128, 128, 3, 1), (28, 128, 512, 1, 1), (28, 512, 128, 1, 1),
        (14, 256, 256, 3, 1), (14, 256, 1024, 1, 1), (14, 1024, 256, 1, 1), (7, 512, 512, 3, 1), (7, 512, 2048, 1, 1),
        (7, 2048, 512, 1, 1),
    ],
}  # fmt: skip


def convolutions():
    for (net, batch), layers in LAYERS.items():
        for side, channels, outputs, kernel, stride in layers[: size(len(layers), 2)]:
            case = f"{net}/{side}x{side}x{channels}-{outputs}k{kernel}s{stride}"
            batch, side = size(batch, 2), size(side, 8)
            x = images(batch, side) if channels == 3 else normal(batch, channels, side, side)
            x = x.to(memory_format=torch.channels_last)
            w = normal(outputs, channels, kernel, kernel).to(memory_format=torch.channels_last)
            pad = kernel // 2
            dy = torch.randn_like(F.conv2d(x, w, stride=stride, padding=pad))

            def backward(data, weight):
                sizes = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, [data, weight, False])
                return lambda: torch.ops.aten.convolution_backward(dy, x, w, None, *sizes)

            forward = lambda: F.conv2d(x, w, stride=stride, padding=pad)
            ways(f"conv_fwd/{case}", "us", microseconds, [("F.conv2d", lambda: forward)])
            if channels != 3:
                ways(f"conv_bwd/{case}", "us", microseconds, [("convolution_backward", lambda: backward(True, False))])
            ways(f"conv_bwd_w/{case}", "us", microseconds, [("convolution_backward", lambda: backward(False, True))])


# ---------------------------------------------------------------- augmentation and scoring

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def policy(side):
    """SimCLR's policies, from 8-bit images."""
    small = side <= 32
    steps = [v2.RandomResizedCrop(side, scale=(0.08, 1.0), antialias=True), v2.RandomHorizontalFlip(0.5)]
    jitter = (0.4, 0.4, 0.4, 0.1) if small else (0.8, 0.8, 0.8, 0.2)
    steps += [v2.RandomApply([v2.ColorJitter(*jitter)], p=0.8), v2.RandomGrayscale(0.2)]
    if not small:
        steps.append(v2.RandomApply([v2.GaussianBlur(23, sigma=(0.1, 2.0))], p=0.5))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    steps.append(v2.Normalize(CIFAR_MEAN if small else IMAGENET_MEAN, CIFAR_STD if small else IMAGENET_STD))
    return v2.Compose(steps)


def sources(side, device):
    """Decoded images, smooth like photographs rather than noise."""
    count, height, width = (64, 32, 32) if side <= 32 else (16, 400, 500)
    coarse = torch.rand(count, 3, 8, 8)
    pixels = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    return pixels.to(device)


class Samples(torch.utils.data.IterableDataset):
    """Stacks of views of one image after the other, made by the worker."""

    def __init__(self, side, views):
        self.side, self.views = side, views

    def __iter__(self):
        torch.set_num_threads(1)
        transform = policy(self.side)
        for image in itertools.cycle(sources(self.side, "cpu")):
            yield torch.stack([transform(image) for _ in range(self.views)])


def views_of(side, samples, views, where):
    """An endless supply of batches [samples * views, 3, side, side] on the device."""
    if where == "workers":
        loader = torch.utils.data.DataLoader(
            Samples(side, views), batch_size=samples, num_workers=size(WORKERS, 1), pin_memory=GPU
        )
        return (batch.flatten(0, 1).to(DEVICE, non_blocking=True) for batch in loader)
    transform, turns = policy(side), itertools.cycle(sources(side, DEVICE))

    def batch():
        return torch.stack([transform(image) for _ in range(samples) for image in [next(turns)] for _ in range(views)])

    return (batch() for _ in itertools.count())


SUPPLIES = {"gpu": "torchvision v2 on the GPU, a transform per image", "workers": f"torchvision v2 in {WORKERS} workers on the CPU"}


def wall(step, amount):
    """`amount` per second by the clock on the wall, after a first call."""
    step()
    start, calls = time.perf_counter(), 0
    while calls == 0 or (not ARGS.tiny and time.perf_counter() - start < 2.0):
        step()
        calls += 1
    if GPU:
        torch.cuda.synchronize()
    return amount * calls / (time.perf_counter() - start)


def augment():
    for real in (32, 224):
        side, count = size(real, 32), size(256 if real == 32 else 64, 2)

        def supply(where):
            batches = views_of(side, count, 1, where)
            return lambda: next(batches)

        def batched():
            transform, pixels = policy(side), sources(side, DEVICE)
            pixels = pixels.repeat(-(-count // len(pixels)), 1, 1, 1)[:count]
            return lambda: transform(pixels)

        tries = [(how, lambda where=where: supply(where)) for where, how in SUPPLIES.items()]
        ways(f"augment/{real}", "views/s", lambda step: wall(step, count), tries)
        how = "torchvision v2 on the GPU, one draw for the whole batch"
        ways(f"augment_one_draw/{real}", "views/s", lambda step: wall(step, count), [(how, batched)])


def distances(features):
    """[samples * VIEWS, width] to the mean distance over the pairs of each sample's views."""
    upper = torch.triu_indices(VIEWS, VIEWS, offset=1, device=features.device)
    unit = F.normalize(features.float(), dim=1).view(-1, VIEWS, features.shape[1])
    return (unit[:, upper[0]] - unit[:, upper[1]]).norm(dim=2).mean(1)


def score():
    for arch, samples, side in [("resnet18", 512, 32), ("resnet50", 64, 224)]:
        samples, side = size(samples, 2), size(side, 32)
        name = "score/resnet18_cifar" if arch == "resnet18" else "score/resnet50"

        def build(where):
            models = [folded(encoder(arch).eval()).to(DEVICE, torch.bfloat16, memory_format=torch.channels_last) for _ in range(2)]
            x = images(samples * VIEWS, side)

            @torch.no_grad()
            def both():
                f, g = (distances(model(x)) for model in models)
                return g - f

            run, batches = graph(both), views_of(side, samples, VIEWS, where)

            def step():
                x.copy_(next(batches))
                run()

            return step

        tries = [(f"both encoders in a CUDA graph; {how}", lambda where=where: build(where)) for where, how in SUPPLIES.items()]
        ways(name, "samples/s", lambda step: wall(step, samples), tries)


# ---------------------------------------------------------------- what follows the network


def alignment():
    for width in (512, 2048):
        samples = size(65536 * 512 // width, 3)
        x = normal(samples * VIEWS, size(width, 40))

        def build(compiled):
            run = torch.compile(distances) if compiled else distances
            return lambda: run(x)

        tries = [("eager", lambda: build(False)), ("compiled", lambda: build(True))]
        ways(f"alignment_fwd/5x{width}", "us", microseconds, tries[: size(2, 1)])


def contrast():
    for real in (1024, 8192):
        views = size(real, 32)
        z = normal(views, 128).requires_grad_()
        itself, positive = torch.eye(views, dtype=torch.bool, device=DEVICE), (torch.arange(views, device=DEVICE) + views // 2) % views
        run = torch.compile(nt_xent) if not ARGS.tiny else nt_xent
        forward = lambda: run(z.detach(), itself, positive)
        both = lambda: torch.autograd.grad(run(z, itself, positive), z)
        ways(f"contrast_fwd/{real}x128", "us", microseconds, [("compiled", lambda: graph(forward))])
        less = lambda steps: (cold(steps[0]) - cold(steps[1])) * 1e6
        how = "compiled, forward and backward less forward"
        ways(f"contrast_bwd/{real}x128", "us", less, [(how, lambda: (graph(both), graph(forward)))])


def optimize():
    side, short = size(1024, 20), size(512, 7)

    def build(make):
        shapes = [(side, side)] * size(24, 2) + [(short,)] * size(106, 3)
        weights = [nn.Parameter(torch.randn(shape, device=DEVICE)) for shape in shapes]
        for w in weights:
            w.grad = torch.randn_like(w)
        return graph(make(weights).step)

    sgd = lambda weights: torch.optim.SGD(weights, lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)
    adam = lambda weights: torch.optim.Adam(weights, lr=1e-3, weight_decay=1e-4, fused=True, capturable=GPU)
    ways("optimize/sgd", "us", microseconds, [("fused, CUDA graph", lambda: build(sgd))])
    ways("optimize/adam", "us", microseconds, [("fused, CUDA graph", lambda: build(adam))])


def ceiling():
    source = torch.randint(0, 255, (size(1 << 30, 1 << 10),), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    rate = lambda step: 2 * len(source) / warm(step) / 1e9
    ways("ceiling/copy", "GB/s", rate, [("copy_", lambda: lambda: target.copy_(source))])


JOBS = {
    "ceiling": ceiling,
    "linear": linear,
    "train/resnet18": lambda: network("train", "resnet18"),
    "infer/resnet18": lambda: network("infer", "resnet18"),
    "conv": convolutions,
    "alignment": alignment,
    "optimize": optimize,
    "augment": augment,
    "score": score,
    "contrast": contrast,
    "infer/resnet50": lambda: network("infer", "resnet50"),
    "train/resnet50": lambda: network("train", "resnet50"),
    "infer/vit_base": lambda: network("infer", "vit_base"),
    "train/vit_small": lambda: network("train", "vit_small"),
    # Minutes of compiling each, so last.
    "autotune/train/resnet18": lambda: network("train", "resnet18", AUTOTUNE),
    "autotune/infer/resnet50": lambda: network("infer", "resnet50", AUTOTUNE),
    "autotune/infer/resnet18": lambda: network("infer", "resnet18", AUTOTUNE),
    "autotune/train/resnet50": lambda: network("train", "resnet50", AUTOTUNE),
}


def main():
    if not (GPU or ARGS.tiny):
        sys.exit("rival_gpu.py needs a GPU that PyTorch can use; --tiny tries everything without one")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    for name, job in JOBS.items():
        if name.startswith(ARGS.only):
            job()
            if GPU:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
