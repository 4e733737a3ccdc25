//! How fast, and beside what: `cargo bench` measures this program; `cargo bench -- --rival PYTHON` runs
//! benches/rival.py (PyTorch) in the same run, with as many threads, and prints the ratios; `cargo bench --
//! --calls [ARCH]` lists every call of a training step and of an inference with its distance to the machine's rate.

use sslmem::data::{self, OnBadImage, Source};
use sslmem::device::conv::{self, Conv, Epilogue};
use sslmem::encoders::{self, Stem};
use sslmem::loader::load;
use sslmem::methods::{self, Projector, Setting};
use sslmem::ops::alignment::Pairs;
use sslmem::ops::augment::Batch;
use sslmem::ops::optimize::Rule;
use sslmem::program::Program;
use sslmem::progress::Silent;
use sslmem::random::Purpose;
use sslmem::schedule::Schedule;
use sslmem::score::{Features, Protocol, Side, score};
use sslmem::split::Subset;
use sslmem::tape::{Mode, Tape};
use sslmem::var::Dtype;
use sslmem::view::policy;
use sslmem::weights::Weights;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Instant;

struct Line {
    name: &'static str,
    per_second: f64,
    unit: &'static str,
}

const NAMES: [&str; 6] = ["matmul", "inference", "train_step", "augment_32", "augment_224", "score"];

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

fn images() -> Box<dyn Source> {
    data::open("synthetic:256@0", OnBadImage::Fail).expect("needs no files")
}

/// A machine's rate of f32 multiply-adds, from a product that fits its caches well. GFLOP/s.
fn matmul() -> f64 {
    let n = 2048;
    let c = Conv::linear(n, n, n);
    let (x, w, mut y) = (vec![0.5f32; n * n], vec![0.25f32; n * n], vec![0.0f32; n * n]);
    rate(2.0 * (n as f64).powi(3) / 1e9, || conv::forward(&c, &x, &w, &Epilogue::default(), &mut y))
}

fn inference_program(arch: &str) -> Program {
    let mut tape = Tape::new(Mode::Eval);
    let x = tape.constant([64, 32, 32, 3], (0..64 * 32 * 32 * 3).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect());
    let encoder = encoders::find(arch).expect("is in the table");
    let y = encoder.features(&mut tape.root().at("encoder"), Stem::Cifar, x);
    tape.keep(y);
    tape.compile(&mut Weights::new(0)).unwrap()
}

/// SimCLR, ResNet-18, 64 images; the views are there already, as they are for the rival.
fn training_program(arch: &str) -> Program {
    let mut tape = Tape::new(Mode::Train);
    let views = tape.constant([128, 32, 32, 3], (0..128 * 32 * 32 * 3).map(|i| (i % 89) as f32 / 89.0 - 0.5).collect());
    let encoder = encoders::find(arch).expect("is in the table");
    let setting = Setting { encoder, stem: Stem::Cifar, temperature: 0.5, projector: Projector::Reference };
    let method = methods::find("simclr").expect("is in the table");
    let recorded = method.loss(&mut tape.root(), &setting, views);
    tape.backward(recorded.loss);
    let when = Schedule::new(&mut tape, &vec![[1e-3, 1e-6]; 100_000]);
    tape.optimize(Rule::Adam { betas: [0.9, 0.999], eps: 1e-8, decoupled: false }, true, when);
    let log = tape.fixed([1, 1], Dtype::F32);
    tape.step(when, log, &[recorded.loss]);
    tape.compile(&mut Weights::new(0)).unwrap()
}

fn augment_program(name: &str, size: usize, n: usize, source: &[u8], [h, w]: [usize; 2]) -> Program {
    let mut tape = Tape::new(Mode::Eval);
    let batch: Batch = tape.batch(n, source.len());
    let y = tape.augment(batch, vec![policy(name, size).expect("is in the table")], 0, Purpose::Train);
    tape.keep(y);
    let mut program = tape.compile(&mut Weights::new(0)).unwrap();
    program.write(batch.pixels, source).unwrap();
    let table: Vec<u32> = (0..n).flat_map(|_| [0, h as u32, w as u32]).collect();
    let keys: Vec<u32> = (0..n).flat_map(|i| [0, i as u32]).collect();
    program.write(batch.table, &table).unwrap();
    program.write(batch.keys, &keys).unwrap();
    program
}

fn augment(name: &str, size: usize, n: usize, image: [usize; 2]) -> f64 {
    let pixels: Vec<u8> = (0..image[0] * image[1] * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let mut program = augment_program(name, size, n, &pixels, image);
    rate(n as f64, || program.run().unwrap())
}

/// From decoded images to two alignment losses per sample: K = 5 views, two ResNet-18.
fn scoring() -> f64 {
    let source = images();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let encoder = encoders::find("resnet18").expect("is in the table");
    let paths = ["f", "g"].map(|name| folder.path().join(format!("{name}.safetensors")));
    for (seed, path) in paths.iter().enumerate() {
        let mut tape = Tape::new(Mode::Eval);
        let batch = tape.batch(1, source.largest());
        let views = tape.augment(batch, vec![policy("score", 32).expect("is in the table")], 0, Purpose::Score);
        encoder.features(&mut tape.root().at("encoder"), Stem::Cifar, views);
        let mut weights = Weights::new(seed as u64);
        load(&mut tape.compile(&mut weights).unwrap(), &batch, &*source, &[0], 0).expect("synthetic images decode");
        weights.save(path, "encoder.", &BTreeMap::new()).expect("the temporary folder is writable");
    }
    let side = |i: usize| Side { path: &paths[i], encoder, stem: Stem::Cifar };
    let view = |name| policy(name, 32).expect("is in the table");
    let protocol = Protocol {
        view: view("score"),
        original: view("original"),
        views: 5,
        pairs: Pairs::All,
        features: Features::Pooled,
        seed: 0,
        batch: 32,
    };
    let samples: Vec<(u32, Subset)> = (0..96).map(|i| (i, Subset::Candidate)).collect();
    rate(samples.len() as f64, || {
        score(side(0), side(1), &protocol, &*source, &samples, &sslmem::device::Device::Cpu, &mut Silent).expect("two whole encoders");
    })
}

fn measure(name: &'static str) -> Line {
    let (per_second, unit) = match name {
        "matmul" => (matmul(), "GFLOP/s"),
        "inference" => {
            let mut program = inference_program("resnet18");
            (rate(64.0, || program.run().unwrap()), "images/s")
        }
        "train_step" => {
            let mut program = training_program("resnet18");
            (rate(128.0, || program.run().unwrap()), "views/s")
        }
        "augment_32" => (augment("simclr", 32, 256, [32, 32]), "views/s"),
        "augment_224" => (augment("simclr_imagenet", 224, 32, [400, 500]), "views/s"),
        _ => (scoring(), "samples/s"),
    };
    Line { name, per_second, unit }
}

/// What PyTorch does of the same, or why it could not be asked.
fn rival(python: &str, name: &str) -> Result<(f64, String), String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/rival.py");
    let threads = rayon::current_num_threads().to_string();
    let run = Command::new(python).args([script, "--only", name, "--threads", &threads]).stderr(Stdio::inherit()).output();
    let output = run.map_err(|e| format!("{python} does not start: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|l| l.starts_with('{')).ok_or("the rival printed no number")?;
    let value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    Ok((value["per_second"].as_f64().unwrap_or(f64::NAN), value["how"].as_str().unwrap_or_default().into()))
}

fn calls(title: &str, mut program: Program, peak: f64) {
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
        calls(&format!("one SimCLR step, {arch}, 128 views"), training_program(&arch), peak);
        calls(&format!("inference, {arch}, 64 images"), inference_program(&arch), peak);
        return;
    }
    let only = value("--only");
    let python = value("--rival");
    println!("{} threads, f32", rayon::current_num_threads());
    for name in NAMES.into_iter().filter(|n| only.as_deref().is_none_or(|o| o == *n)) {
        let line = measure(name);
        let beside = match python.as_deref().map(|p| rival(p, name)) {
            None => String::new(),
            Some(Ok((theirs, how))) => format!("  {theirs:10.1} PyTorch ({how})  ratio {:.2}", line.per_second / theirs),
            Some(Err(why)) => format!("  PyTorch: {why}"),
        };
        println!("{:<12} {:10.1} {:<9}{beside}", line.name, line.per_second, line.unit);
    }
}
