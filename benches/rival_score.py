#!/usr/bin/env python3
"""Scoring as a good engineer would write it in PyTorch, to compare `sslmem score` with: samples per second.

    python3 benches/rival_score.py --images photos --arch resnet50
    python3 benches/rival_score.py --images photos --arch vit_small_patch16_224 --batch1

From JPEG files to the mean distance between views under f and under g. torchvision decodes and draws the views in
DataLoader workers (several counts are tried), both encoders run on the same views in one pass, eager or compiled, channels_last
where that is faster, in f32. `--batch1` is the shape of the paper's released script instead: one image at a time, no workers,
the image against each of its augmentations. Weights are random: speed does not depend on them.

`--weights DIR` writes f.safetensors and g.safetensors with the same shapes for `sslmem score` (ResNet-50 and ViT-S/16).
"""

import argparse
import itertools
import os
import pathlib
import time

import torch
import torch.nn.functional as F
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of JPEG files, at any depth")
    parser.add_argument("--arch", default="resnet50", help="resnet50 (torchvision), or a name of timm's")
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16, help="samples of a batch (default 16)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=20, help="measured for each way (default 20)")
    parser.add_argument("--batch1", action="store_true", help="as the paper's released script: one image at a time")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--weights", metavar="DIR", help="write f and g there and stop")
    return parser.parse_args()


def encoder(arch, seed):
    torch.manual_seed(seed)
    if arch.startswith("resnet"):
        import torchvision

        model = getattr(torchvision.models, arch)(weights=None)
        model.fc = torch.nn.Identity()
    else:
        import timm

        model = timm.create_model(arch, pretrained=False, num_classes=0)
    return model.eval().requires_grad_(False)


def policy(size):
    """The views of `sslmem show policies score`: crop, flip, jitter, gray."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


class Photos(torch.utils.data.Dataset):
    def __init__(self, paths, views, size):
        self.paths, self.views, self.policy = paths, views, policy(size)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = decode_image(str(self.paths[index]), mode=ImageReadMode.RGB)
        return torch.stack([self.policy(image) for _ in range(self.views)])


def again(loader):
    """Batches without end; workers persist between passes."""
    return itertools.chain.from_iterable(iter(loader) for _ in itertools.count())


def measure(args, paths, models, layout, workers):
    photos = Photos(paths, args.views, args.size)
    keep = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    loader = torch.utils.data.DataLoader(
        photos, batch_size=args.batch, num_workers=workers, drop_last=True, worker_init_fn=lambda _: torch.set_num_threads(1), **keep
    )
    upper = torch.triu_indices(args.views, args.views, offset=1)
    batches, done, start = again(loader), 0, None
    with torch.inference_mode():
        while True:
            views = next(batches).flatten(0, 1).contiguous(memory_format=layout)
            distances = []
            for model in models:
                features = F.normalize(model(views), dim=1).view(args.batch, args.views, -1)
                distances.append(torch.cdist(features, features)[:, upper[0], upper[1]].mean(1))
            (distances[1] - distances[0]).tolist()
            if start is None:  # the first batch warms up
                start = time.perf_counter()
                continue
            done += args.batch
            elapsed = time.perf_counter() - start
            if elapsed > args.seconds:
                return done / elapsed


def measure_one_by_one(args, paths, models):
    crop = v2.Compose([v2.Resize(args.size, antialias=True), v2.CenterCrop(args.size), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    augment, done, start = policy(args.size), 0, None
    with torch.no_grad():
        for path in itertools.cycle(paths):
            image = decode_image(str(path), mode=ImageReadMode.RGB)
            original, totals = crop(image)[None], [0.0, 0.0]
            for _ in range(args.views):
                view = augment(image)[None]
                for i, model in enumerate(models):
                    a, b = F.normalize(model(original), dim=1), F.normalize(model(view), dim=1)
                    totals[i] += (a - b).norm().item()
            if start is None:
                start = time.perf_counter()
                continue
            done += 1
            elapsed = time.perf_counter() - start
            if elapsed > args.seconds:
                return done / elapsed


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    models = [encoder(args.arch, seed) for seed in (0, 1)]
    if args.weights:
        from safetensors.torch import save_file

        folder = pathlib.Path(args.weights)
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in zip("fg", models):
            save_file({k: v.contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}, folder / f"{name}.safetensors")
        return
    paths = sorted(p for p in pathlib.Path(args.images).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if len(paths) < args.batch:
        raise SystemExit(f"{args.images} has {len(paths)} JPEG files, fewer than a batch of {args.batch}")
    if args.batch1:
        print(f"{args.arch}, one image at a time: {measure_one_by_one(args, paths, models):.2f} samples/s")
        return
    last = torch.channels_last if args.arch.startswith("resnet") else torch.contiguous_format
    ways = [("eager", torch.contiguous_format, models)]
    if last != torch.contiguous_format:
        ways.append(("eager, channels_last", last, [m.to(memory_format=last) for m in map(lambda s: encoder(args.arch, s), (0, 1))]))
    if not args.no_compile:
        ways.append(("compiled", last, [torch.compile(encoder(args.arch, seed).to(memory_format=last)) for seed in (0, 1)]))
    best = (0.0, "")
    for name, layout, pair in ways:
        for workers in sorted({0, 1, args.threads}):
            value = measure(args, paths, pair, layout, workers)
            print(f"{args.arch}, {name}, {workers} workers: {value:.2f} samples/s", flush=True)
            best = max(best, (value, f"{name}, {workers} workers"))
    print(f"{args.arch}, best: {best[0]:.2f} samples/s ({best[1]})")


if __name__ == "__main__":
    main()
