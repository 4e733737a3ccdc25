"""What a user would run instead of this program's kernels: PyTorch, torchvision and timm on the GPU, bf16, channels_last.

    python benches/rival_gpu.py [--seconds 130] [--only PREFIX,...] [--compile-only] [--tiny]

Prints one JSON line per way that was tried: {"name", "value", "unit", "how", "took"}; the best line of a name counts, and "took"
is what the whole try took. The names are those of benches/gpu, the shapes those of benches/gpu/shapes.json. Jobs come in the
order of importance; nothing begins after the given seconds, which count from the start of the program, and no way to run a
job takes more than its share of them. --compile-only compiles the networks and runs them once, so that a later run with the
same TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR finds the code. --tiny goes through everything at tiny sizes, on the CPU where
there is no GPU; its times mean nothing. Nothing is installed.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import itertools
import json
import logging
import os
import pathlib
import signal
import sys
import time
import warnings

START = time.perf_counter()
PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so many (default: no limit)")
PARSER.add_argument("--only", default="", metavar="PREFIX,...", help="only jobs whose names begin like one of these")
PARSER.add_argument("--compile-only", action="store_true", help="fill the caches of compiled code, measure nothing")
PARSER.add_argument("--tiny", action="store_true", help="tiny sizes: does everything work?")
ARGS = PARSER.parse_args()
# On by default in recent versions; read when torch is imported.
os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE", "1")

try:
    import torch
    import torchvision
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    from torchvision.transforms import v2
except ImportError as missing:
    sys.exit(f"rival_gpu.py needs torch and torchvision, which are not installed here: {missing}")

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
WORKERS = min(16, os.cpu_count() or 1)
VIEWS = 5
SHAPES = json.loads((pathlib.Path(__file__).parent / "gpu" / "shapes.json").read_text())
# Where graphs are captured; what a captured backward pass needs has to be made there too.
SIDE = torch.cuda.Stream() if GPU else None


def size(real, tiny):
    return tiny if ARGS.tiny else real


def left():
    return ARGS.seconds - (time.perf_counter() - START)


# ---------------------------------------------------------------- timing


class TooLong(BaseException):
    """No Exception, for those the compilers catch here and there, and go on."""


@contextlib.contextmanager
def at_most(seconds):
    """Raises TooLong in what takes longer, and again every two seconds until it has ended; compilers and their waiting for other
    processes come back to Python often enough."""
    ended = False

    def stop(*_):
        if not ended:
            raise TooLong(f"took more than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1), 2.0)
    try:
        yield
    finally:
        ended = True
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


def beside():
    """The stream where graphs are captured, for what comes before; nothing where there is no GPU."""
    if not GPU:
        return contextlib.nullcontext()
    SIDE.wait_stream(torch.cuda.current_stream())
    return torch.cuda.stream(SIDE)


def graph(step):
    """`step` as one CUDA graph; where there is no GPU, itself."""
    with beside():
        for _ in range(1 if ARGS.compile_only or not GPU else 3):
            step()
    if ARGS.compile_only or not GPU:
        return step
    torch.cuda.current_stream().wait_stream(SIDE)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=SIDE):
        step()
    return captured.replay


def tell(name, value, unit, how, took):
    print(json.dumps({"name": name, "value": round(value, 3), "unit": unit, "how": how, "took": round(took, 1)}), flush=True)


def ways(name, unit, value, tries, share=0.25):
    """Tries each (how, build) and tells its number; what does not work or takes too long is told too, and passed over."""
    if ARGS.compile_only:
        name, unit, tries = f"compile/{name}", "s", [way for way in tries if "compiled" in way[0]]
    for how, build in tries:
        if left() < 3:
            return print(json.dumps({"name": name, "error": f"no time was left ({how})"}), flush=True)
        begun = time.perf_counter()
        took = lambda: time.perf_counter() - begun
        try:
            # Compilers print to stdout as they like.
            with at_most(min(left(), max(15.0, share * left()))), contextlib.redirect_stdout(sys.stderr):
                step = build()
                result = took() if ARGS.compile_only else value(step)
        except (Exception, TooLong) as error:
            words = f"{how}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            print(json.dumps({"name": name, "error": words[:300], "took": round(took(), 1)}), flush=True)
        else:
            tell(name, result, unit, how + found() * ("compiled" in how), took())
        step = None
        torch.compiler.reset()


def found():
    """How much of the compiled code was in the caches."""
    counts = torch._dynamo.utils.counters
    hit, miss = (counts["inductor"][f"fxgraph_cache_{kind}"] + counts["aot_autograd"][f"autograd_cache_{kind}"] for kind in ("hit", "miss"))
    counts.clear()
    return f" (code cached: {hit} of {hit + miss})"


def microseconds(step):
    return cold(step) * 1e6


def normal(*shape):
    return torch.randn(*shape, device=DEVICE).bfloat16()


# ---------------------------------------------------------------- networks


# timm's name, width and heads.
VITS = {"vit_base": ("vit_base_patch16_224", 768, 12), "vit_small": ("vit_small_patch16_224", 384, 6)}


@functools.cache
def timm():
    """timm, if it is installed: only ViTs need it, and it takes its time."""
    try:
        import timm as module
    except ImportError:
        return None
    return module


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def vit(arch):
    """timm's, whose attention is PyTorch's scaled_dot_product_attention; torchvision's where there is no timm."""
    name, width, heads = VITS[arch]
    if timm():
        return timm().create_model(name, num_classes=0, img_size=size(224, 32), depth=size(12, 1))
    model = torchvision.models.VisionTransformer(size(224, 32), 16, size(12, 1), heads, width, 4 * width)
    model.heads = nn.Identity()
    return model


def author(arch):
    return "timm's, " if arch in VITS and timm() else "torchvision's, "


def encoder(arch):
    if arch in VITS:
        return vit(arch)
    kind = torchvision.models.resnet
    if arch == "resnet50":
        model = kind.ResNet(kind.Bottleneck, size([3, 4, 6, 3], [1] * 4))
    else:
        model = kind.ResNet(kind.BasicBlock, size([2] * 4, [1] * 4))
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

    norms = "" if arch in VITS else "folded norms, "
    return [(f"{author(arch)}{norms}{how}, CUDA graph", lambda mode=mode: build(mode)) for how, mode in modes.items()]


class SimClr(nn.Module):
    def __init__(self, arch, views):
        super().__init__()
        self.encoder = encoder(arch)
        width = VITS[arch][1] if arch in VITS else 2048 if arch == "resnet50" else 512
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

    return [(f"{author(arch)}autocast, {how}, the step one CUDA graph", lambda mode=mode: build(mode)) for how, mode in modes.items()]


# Graphs are captured by hand, so that every way is one.
MODES = {"eager kernels": None, "compiled": "default"}
AUTOTUNE = {"compiled max-autotune": "max-autotune-no-cudagraphs"}


def network(what, arch, modes=MODES):
    batch, side = (1024, 32) if arch == "resnet18" else (256, 224)
    batch, side = size(batch, 4), size(side, 32)
    name = f"{what}/{arch}" + ("_cifar" if arch == "resnet18" else "")
    if ARGS.tiny and not ARGS.compile_only and (arch != "resnet18" or modes is AUTOTUNE):
        modes = {"eager kernels": None}
    tries = (training_ways if what == "train" else inference_ways)(arch, batch, side, modes)
    ways(name, "images/s", lambda step: batch / warm(step), tries)


# ---------------------------------------------------------------- products and convolutions


def linear():
    for rows, inputs, outputs in SHAPES["linear"]:
        case = f"{rows}x{inputs}x{outputs}"
        rows, inputs, outputs = (size(n, 24) for n in (rows, inputs, outputs))
        x, w, dy = normal(rows, inputs), normal(outputs, inputs), normal(rows, outputs)
        ways(f"linear_fwd/{case}", "us", microseconds, [("torch.mm", lambda: lambda: torch.mm(x, w.T))])
        ways(f"linear_bwd/{case}", "us", microseconds, [("torch.mm", lambda: lambda: torch.mm(dy, w))])
        ways(f"linear_bwd_w/{case}", "us", microseconds, [("torch.mm", lambda: lambda: torch.mm(dy.T, x))])


def convolutions(net):
    """Height and width, channels in and out, kernel, stride of each: as in benches/gpu/kernels.rs."""
    for real, channels, outputs, kernel, stride in SHAPES["conv"][net]["layers"][: size(None, 2)]:
        case = f"{net}/{real}x{real}x{channels}-{outputs}k{kernel}s{stride}"
        batch, side = size(SHAPES["conv"][net]["batch"], 2), size(real, 8)
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


def parts(qkv, heads):
    """Queries, keys and values [images, heads, tokens, head], lying in the result of one product as in timm."""
    images, tokens, columns = qkv.shape
    return qkv.view(images, tokens, 3, heads, columns // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)


def attention():
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION} if GPU else {"CPU": SDPBackend.MATH}
    for use, (images, tokens, heads, head) in SHAPES["attention"].items():
        case = f"{images}x{tokens}x{heads}x{head}"
        q, k, v = parts(normal(size(images, 1), size(tokens, 5), 3 * heads * head), heads)
        for backend, which in backends.items():

            def back():
                with beside():
                    given = [part.detach().requires_grad_() for part in (q, k, v)]
                    y = F.scaled_dot_product_attention(*given)
                    dy = torch.randn_like(y)
                return graph(lambda: torch.autograd.grad(y, given, dy, retain_graph=True))

            how, forward = f"scaled_dot_product_attention, {backend}", lambda: F.scaled_dot_product_attention(q, k, v)
            with sdpa_kernel(which):
                ways(f"attention_fwd/{case}", "us", microseconds, [(how, lambda: forward)])
                if use == "train":
                    ways(f"attention_bwd/{case}", "us", microseconds, [(f"{how}, without putting dq, dk and dv together", back)])


def layer_norm():
    images, tokens, heads, head = SHAPES["attention"]["train"]
    width, case = [heads * head], f"{images}x{tokens}x{heads * head}"
    x, w, b = normal(size(images, 1), size(tokens, 5), *width), normal(*width), normal(*width)
    _, mean, rstd = torch.native_layer_norm(x, width, w, b, 1e-6)
    dy = torch.randn_like(x)
    backward = lambda: torch.ops.aten.native_layer_norm_backward(dy, x, width, mean, rstd, w, b, [True] * 3)
    ways(f"layer_norm_fwd/{case}", "us", microseconds, [("F.layer_norm", lambda: lambda: F.layer_norm(x, width, w, b, 1e-6))])
    ways(f"layer_norm_bwd/{case}", "us", microseconds, [("native_layer_norm_backward", lambda: backward)])


def alignment():
    for width in (512, 2048):
        samples = size(65536 * 512 // width, 3)
        x = normal(samples * VIEWS, size(width, 40))

        def build(compiled):
            run = torch.compile(distances) if compiled else distances
            return graph(lambda: run(x))

        tries = [("eager, CUDA graph", lambda: build(False)), ("compiled, CUDA graph", lambda: build(True))]
        ways(f"alignment_fwd/5x{width}", "us", microseconds, tries)


def nt_xent_times():
    for real in (1024, 8192):
        views = size(real, 32)
        z = normal(views, 128).requires_grad_()
        itself, positive = torch.eye(views, dtype=torch.bool, device=DEVICE), (torch.arange(views, device=DEVICE) + views // 2) % views
        run = torch.compile(nt_xent) if not ARGS.tiny else nt_xent
        forward = lambda: run(z.detach(), itself, positive)
        both = lambda: torch.autograd.grad(run(z, itself, positive), z)
        ways(f"nt_xent_fwd/{real}x128", "us", microseconds, [("compiled", lambda: graph(forward))])
        less = lambda steps: (cold(steps[0]) - cold(steps[1])) * 1e6
        how = "compiled, forward and backward less forward"
        ways(f"nt_xent_bwd/{real}x128", "us", less, [(how, lambda: (graph(both), graph(forward)))])


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
    "infer/resnet50": lambda: network("infer", "resnet50"),
    "infer/vit_base": lambda: network("infer", "vit_base"),
    "train/resnet18": lambda: network("train", "resnet18"),
    "train/resnet50": lambda: network("train", "resnet50"),
    "conv/resnet50": lambda: convolutions("resnet50"),
    "conv/resnet18": lambda: convolutions("resnet18"),
    "attention": attention,
    "layer_norm": layer_norm,
    "alignment": alignment,
    "augment": augment,
    "score": score,
    "nt_xent": nt_xent_times,
    "optimize": optimize,
    "infer/resnet18": lambda: network("infer", "resnet18"),
    "train/vit_small": lambda: network("train", "vit_small"),
    # Minutes of compiling each, so last.
    "autotune/infer/resnet50": lambda: network("infer", "resnet50", AUTOTUNE),
    "autotune/train/resnet18": lambda: network("train", "resnet18", AUTOTUNE),
    "autotune/infer/resnet18": lambda: network("infer", "resnet18", AUTOTUNE),
    "autotune/train/resnet50": lambda: network("train", "resnet50", AUTOTUNE),
}
# What --compile-only goes through, in the order of JOBS.
COMPILED = ["infer/resnet50", "infer/vit_base", "train/resnet18", "train/resnet50"]
COMPILED += ["alignment", "nt_xent", "infer/resnet18", "train/vit_small"]


def about():
    """What is compared with; no number, so the table passes it over."""
    versions = {"pytorch": torch.__version__} | {name: version(name) for name in ("torchvision", "timm", "triton")}
    device = torch.cuda.get_device_name() if GPU else "cpu"
    print(json.dumps({"name": "about", **versions, "cudnn": torch.backends.cudnn.version(), "device": device}), flush=True)


def main():
    if not (GPU or ARGS.tiny):
        sys.exit("rival_gpu.py needs a GPU that PyTorch can use; --tiny tries everything without one")
    about()
    torch.manual_seed(0)
    # No part of the key of compiled code; trying cuDNN's algorithms would only take time from others.
    torch.backends.cudnn.benchmark = not ARGS.compile_only
    torch.set_float32_matmul_precision("high")
    # Backward passes are compiled when they first run. In a thread of their own, no alarm would reach the compiler.
    torch.autograd.set_multithreading_enabled(False)
    only = tuple(ARGS.only.split(","))
    for name, job in JOBS.items():
        if name.startswith(only) and (name in COMPILED or not ARGS.compile_only):
            job()
            if GPU:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
