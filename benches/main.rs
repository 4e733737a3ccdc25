//! How fast, and beside what: `cargo bench` measures this program; `cargo bench -- --rival PYTHON` runs
//! benches/rival.py (PyTorch) in the same run, with as many threads, and prints the ratios; `cargo bench --
//! --calls [ARCH] [--large]` lists every call of a training step and of an inference with its distance to the machine's
//! rate, for images of 32 or 224 pixels. `decode` needs photographs: `--photos DIR`, ../shared/data/imagenet-sample unless given.

mod programs;

use programs::{Network, Scoring, augmentation, inference, training};
use rayon::prelude::*;
use sslmem::data::{self, OnBadImage};
use sslmem::device::Device;
use sslmem::device::conv::{self, Conv, Epilogue};
use sslmem::encoders::{self, Stem};
use sslmem::error::Result;
use sslmem::program::Program;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

struct Line {
    name: &'static str,
    per_second: f64,
    unit: &'static str,
}

const NAMES: [&str; 10] = [
    "matmul",
    "inference",
    "train_step",
    "vit_inference",
    "vit_inference_224",
    "vit_train_step",
    "augment_32",
    "augment_224",
    "decode",
    "score",
];

/// Best of three, each long enough to be told from noise.
fn rate(amount: f64, mut step: impl FnMut()) -> f64 {
    step();
    let once = {
        let start = Instant::now();
        step();
        start.elapsed().as_secs_f64()
    };
    let times = ((1.0 / once).ceil() as usize).clamp(1, 1000);
    (0..3)
        .map(|_| {
            let start = Instant::now();
            (0..times).for_each(|_| step());
            amount * times as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

/// A machine's rate of f32 multiply-adds, from a product that fits its caches well. GFLOP/s.
fn matmul() -> f64 {
    let n = 2048;
    let c = Conv::linear(n, n, n);
    let (x, w, mut y) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0.0f32; n * n]);
    rate(2.0 * (n as f64).powi(3) / 1e9, || conv::forward(&c, &x, &w, &Epilogue::default(), &mut y))
}

fn network(arch: &'static str, batch: usize) -> Network {
    Network { arch, stem: Stem::Cifar, patch: 4, size: 32, batch }
}

/// ViT-S/16, as on ImageNet.
fn vit_small() -> Network {
    Network { patch: 16, size: 224, ..network("vit_small", 8) }
}

fn runs(program: Result<Program>, amount: f64) -> f64 {
    let mut program = program.expect("it fits");
    rate(amount, || program.run().expect("a CPU cannot fail"))
}

/// From decoded images to two alignment losses per sample: K = 5 views, two ResNet-18.
fn scoring() -> f64 {
    let source = data::open("synthetic:256@0", OnBadImage::Fail).expect("needs no files");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scoring = Scoring::new(&Device::Cpu, folder.path(), network("resnet18", 32)).expect("the temporary folder is writable");
    rate(96.0, || scoring.run(&*source, 96).expect("two whole encoders"))
}

/// JPEG files in memory to pixels, on every thread.
fn decoding(photos: &Path) -> f64 {
    let files = std::fs::read_dir(photos).into_iter().flatten().flatten();
    let files: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.path()).expect("a file")).collect();
    assert!(!files.is_empty(), "{} has no photographs", photos.display());
    rate(files.len() as f64, || files.par_iter().for_each(|bytes| drop(data::decode(bytes, "photo").expect("a whole photograph"))))
}

fn measure(name: &'static str, photos: &Path) -> Line {
    let (per_second, unit) = match name {
        "matmul" => (matmul(), "GFLOP/s"),
        "inference" => (runs(inference(&Device::Cpu, network("resnet18", 64)), 64.0), "images/s"),
        "train_step" => (runs(training(&Device::Cpu, network("resnet18", 128)), 128.0), "views/s"),
        "vit_inference" => (runs(inference(&Device::Cpu, network("vit_tiny", 64)), 64.0), "images/s"),
        "vit_inference_224" => (runs(inference(&Device::Cpu, vit_small()), 8.0), "images/s"),
        "vit_train_step" => (runs(training(&Device::Cpu, network("vit_tiny", 128)), 128.0), "views/s"),
        "augment_32" => (runs(augmentation(&Device::Cpu, "simclr", 32, 256, [32, 32]), 256.0), "views/s"),
        "augment_224" => (runs(augmentation(&Device::Cpu, "simclr_imagenet", 224, 32, [400, 500]), 32.0), "views/s"),
        "decode" => (decoding(photos), "images/s"),
        _ => (scoring(), "samples/s"),
    };
    Line { name, per_second, unit }
}

/// What PyTorch does of the same, or why it could not be asked.
fn rival(python: &str, name: &str, photos: &Path) -> std::result::Result<(f64, String), String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/rival.py");
    let threads = rayon::current_num_threads().to_string();
    let run = Command::new(python)
        .args([script, "--only", name, "--threads", &threads, "--photos"])
        .arg(photos)
        .stderr(Stdio::inherit())
        .output();
    let output = run.map_err(|e| format!("{python} does not start: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|l| l.starts_with('{')).ok_or("the rival printed no number")?;
    let value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    Ok((value["per_second"].as_f64().unwrap_or(f64::NAN), value["how"].as_str().unwrap_or_default().into()))
}

fn calls(title: &str, program: Result<Program>, peak: f64) {
    let mut program = program.expect("it fits");
    println!("\n{title}: milliseconds, GFLOP/s of the plain sum, share of the {peak:.0} GFLOP/s of a matrix product");
    program.run().unwrap();
    let mut sums: BTreeMap<&str, (f64, u64, u64, usize)> = BTreeMap::new();
    for (name, seconds, cost) in program.profile().unwrap() {
        let s = sums.entry(name).or_default();
        *s = (s.0 + seconds, s.1 + cost.flops, s.2 + cost.bytes, s.3 + 1);
    }
    let mut rows: Vec<_> = sums.into_iter().collect();
    rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (name, (seconds, flops, bytes, count)) in rows {
        let rate = flops as f64 / seconds / 1e9;
        println!(
            "{name:>22} x{count:<3} {:9.2} ms {rate:8.1} GFLOP/s {:5.0} % {:7.1} GB/s",
            seconds * 1e3,
            100.0 * rate / peak,
            bytes as f64 / seconds / 1e9
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1)).cloned();
    if args.iter().any(|a| a == "--calls") {
        let (peak, arch) = (matmul(), value("--calls").unwrap_or("resnet18".into()));
        let arch = encoders::find(&arch).unwrap_or_else(|error| panic!("{error}")).name();
        let large = args.iter().any(|a| a == "--large");
        let of = |batch| if large { Network { arch, batch: batch / 8, ..vit_small() } } else { network(arch, batch) };
        calls(&format!("one SimCLR step, {arch}, {} views", of(128).batch), training(&Device::Cpu, of(128)), peak);
        calls(&format!("inference, {arch}, {} images", of(64).batch), inference(&Device::Cpu, of(64)), peak);
        return;
    }
    let only = value("--only");
    let python = value("--rival");
    let photos = value("--photos").map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/imagenet-sample"), PathBuf::from);
    println!("{} threads, f32", rayon::current_num_threads());
    for name in NAMES.into_iter().filter(|n| only.as_deref().is_none_or(|o| o == *n)) {
        if name == "decode" && !photos.is_dir() {
            println!("{name:<18} skipped: there is no folder {}; give one with --photos DIR", photos.display());
            continue;
        }
        let line = measure(name, &photos);
        let beside = match python.as_deref().map(|p| rival(p, name, &photos)) {
            None => String::new(),
            Some(Ok((theirs, how))) => format!("  {theirs:10.1} PyTorch ({how})  ratio {:.2}", line.per_second / theirs),
            Some(Err(why)) => format!("  PyTorch: {why}"),
        };
        println!("{:<18} {:10.1} {:<9}{beside}", line.name, line.per_second, line.unit);
    }
}
