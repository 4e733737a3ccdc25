//! Whole networks as graphs, augmentation, and scoring from images in memory and from files.

use crate::images::{Decoded, Step};
use crate::programs::{Network, Scoring, augmentation, inference, training};
use crate::{Bench, Job, Line};
use rayon::prelude::*;
use sslmem::data::{self, Folder, OnBadImage, Source};
use sslmem::encoders::Stem;
use sslmem::error::{Error, Result};
use std::path::Path;
use std::time::Instant;

pub const JOBS: &[Job] = &[
    ("train/resnet18_cifar", |bench| network(bench, "train", resnet18(bench))),
    ("infer/resnet18_cifar", |bench| network(bench, "infer", resnet18(bench))),
    ("augment", augment),
    ("train/resnet50", |bench| network(bench, "train", resnet50(bench, 256))),
    ("infer/resnet50", |bench| network(bench, "infer", resnet50(bench, 256))),
    ("infer/vit_base", |bench| network(bench, "infer", vit(bench, "vit_base"))),
    ("train/vit_small", |bench| network(bench, "train", vit(bench, "vit_small"))),
    ("step/resnet18_cifar", step),
];

pub const SCORING: &[Job] = &[("score/memory", score_memory), ("score/jpeg", score_jpeg), ("decode", decode)];

fn resnet18(bench: &Bench) -> Network {
    let (size, batch) = (bench.size(32, 8), bench.size(1024, 4));
    Network { arch: if bench.tiny { "resnet8" } else { "resnet18" }, stem: Stem::Cifar, patch: 4, size, batch }
}

fn resnet50(bench: &Bench, batch: usize) -> Network {
    Network {
        arch: if bench.tiny { "resnet8" } else { "resnet50" },
        stem: Stem::Imagenet,
        patch: 16,
        size: bench.size(224, 16),
        batch: bench.size(batch, 4),
    }
}

/// ViTs with patches of 16 at ImageNet's size.
fn vit(bench: &Bench, arch: &'static str) -> Network {
    let (arch, size, batch) = if bench.tiny { ("vit_nano", 32, 4) } else { (arch, 224, 256) };
    Network { arch, stem: Stem::Imagenet, patch: 16, size, batch }
}

/// Images per second of the whole graph, then what its calls take one by one.
fn network(bench: &Bench, what: &str, n: Network) -> Result<()> {
    let make = if what == "train" { training } else { inference };
    let mut program = make(&bench.device, n)?;
    let name = match n.arch {
        "resnet8" | "resnet18" if n.stem == Stem::Cifar => format!("{what}/resnet18_cifar"),
        "resnet8" => format!("{what}/resnet50"),
        arch => format!("{what}/{arch}"),
    };
    let seconds = bench.seconds(|| program.run())?;
    bench.tell(Line::new(&name, n.batch as f64 / seconds, "images/s"));
    bench.calls(&name, program)
}

fn augment(bench: &Bench) -> Result<()> {
    for (policy, size, views, image) in [("simclr", 32, 8192, [32, 32]), ("simclr_imagenet", 224, 1024, [400, 500])] {
        let (tiny, views) = (bench.size(size, 16), bench.size(views, 3));
        let mut program = augmentation(&bench.device, policy, tiny, views, image.map(|side| bench.size(side, 20)))?;
        let seconds = bench.seconds(|| program.run())?;
        bench.tell(Line::new(format!("augment/{size}"), views as f64 / seconds, "views/s"));
        bench.calls(&size.to_string(), program)?;
    }
    Ok(())
}

fn synthetic(bench: &Bench) -> Result<Decoded> {
    let source = data::open(&format!("synthetic:{}@0", bench.size(2048, 16)), OnBadImage::Fail)?;
    Decoded::new(&*source, bench.size(2048, 16))
}

/// A training step as it is: images from memory to the card, views, network, optimizer.
fn step(bench: &Bench) -> Result<()> {
    let (source, n) = (synthetic(bench)?, resnet18(bench));
    let mut step = Step::new(&bench.device, n, "simclr", source.largest())?;
    let seconds = bench.seconds(|| step.run(&source))?;
    bench.tell(Line::new("step/resnet18_cifar", n.batch as f64 / seconds, "images/s"));
    Ok(())
}

/// Samples per second by the clock on the wall; the second run has every kernel compiled.
fn scoring(bench: &Bench, name: &str, n: Network, source: &dyn Source, count: usize) -> Result<()> {
    bench.in_time()?;
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let scoring = Scoring::new(&bench.device, folder.path(), n)?;
    scoring.run(source, n.batch)?;
    let start = Instant::now();
    scoring.run(source, count)?;
    bench.tell(Line::new(name, count as f64 / start.elapsed().as_secs_f64(), "samples/s"));
    Ok(())
}

fn score_memory(bench: &Bench) -> Result<()> {
    let source = synthetic(bench)?;
    let small = Network { batch: bench.size(512, 2), ..resnet18(bench) };
    let large = resnet50(bench, 64);
    let photos = Decoded((0..bench.size(64, 2)).map(|i| photo(i, bench)).collect());
    let repeated = Decoded(photos.0.iter().cycle().take(bench.size(1024, 4)).cloned().collect());
    scoring(bench, "score/resnet18_cifar", small, &source, source.len())?;
    scoring(bench, "score/resnet50", large, &repeated, repeated.len())
}

/// Smooth like a photograph, so that its JPEG is about as large as one's.
fn photo(seed: usize, bench: &Bench) -> data::Image {
    let [height, width] = [400, 500].map(|side| bench.size(side, 20));
    let wave = |x: usize, period: f64| (x as f64 / period + seed as f64).sin();
    let value = |y: usize, x: usize, c: usize| 128.0 + 60.0 * wave(x + 7 * c, 31.0) + 50.0 * wave(y, 23.0) + 15.0 * wave(x * y, 97.0);
    let pixels = (0..height * width * 3).map(|i| value(i / 3 / width, i / 3 % width, i % 3) as u8).collect();
    data::Image { height, width, pixels }
}

/// A folder of JPEG files.
fn jpegs(bench: &Bench, folder: &Path) -> Result<Folder> {
    for i in 0..bench.size(512, 4) {
        let image = photo(i, bench);
        let path = folder.join(format!("{i:04}.jpg"));
        let bad = |e: image::ImageError| Error::format(&path, e.to_string());
        image::save_buffer(&path, &image.pixels, image.width as u32, image.height as u32, image::ColorType::Rgb8).map_err(bad)?;
    }
    Folder::open(folder)
}

fn with_jpegs<R>(bench: &Bench, work: impl FnOnce(&Folder) -> Result<R>) -> Result<R> {
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    work(&jpegs(bench, folder.path())?)
}

fn score_jpeg(bench: &Bench) -> Result<()> {
    with_jpegs(bench, |source| scoring(bench, "score/resnet50_jpeg", resnet50(bench, 64), source, source.len()))
}

/// How many files a number of threads decodes.
fn decode(bench: &Bench) -> Result<()> {
    with_jpegs(bench, |source| {
        let rate = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
            let start = Instant::now();
            pool.install(|| (0..source.len()).into_par_iter().try_for_each(|i| source.image(i).map(|_| ())))?;
            bench.tell(Line::new(format!("decode/jpeg_{threads}"), source.len() as f64 / start.elapsed().as_secs_f64(), "images/s"));
            Ok(())
        };
        [1, 4, 8, 16].into_iter().try_for_each(rate)
    })
}
