//! Training and scoring end to end on small inputs: the loss falls, a crash costs nothing, scores depend only on seed, image and encoders.

mod accumulate;
pub mod curves;
mod gpu;
mod methods;
mod starts;

use sslmem::config::{Recipe, preset};
use sslmem::data::{self, OnBadImage, Source};
use sslmem::device::Device;
use sslmem::encoders::{self, EncoderConfig, Features, Network};
use sslmem::ops::alignment::Pairs;
use sslmem::progress::{Progress, Silent};
use sslmem::score::{EncoderFile, Layer, Protocol, score};
use sslmem::split::Subset;
use sslmem::table::{self, Row};
use sslmem::train::{Job, Point, train};
use sslmem::view::policy;
use std::path::Path;
use std::time::Duration;

fn source() -> Box<dyn Source> {
    data::open("synthetic:64@1", OnBadImage::Fail).unwrap()
}

fn recipe(epochs: usize) -> Recipe {
    let mut recipe = preset("demo").unwrap();
    recipe.train.epochs = epochs;
    recipe.train.batch = 8;
    recipe
}

fn job<'a>(recipe: &'a Recipe, source: &'a dyn Source, samples: &'a [u32], dir: &'a Path) -> Job<'a> {
    Job { seed: 3, checkpoint: Duration::ZERO, ..Job::new(recipe, source, samples, "f", dir).unwrap() }
}

fn weights_of(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("f.safetensors")).unwrap()
}

#[test]
fn the_loss_falls_and_the_embeddings_stay_apart() {
    let (source, recipe, dir) = (source(), recipe(12), tempfile::tempdir().unwrap());
    let samples: Vec<u32> = (0..32).collect();
    let curve = train(&job(&recipe, &*source, &samples, dir.path()), &mut Silent).unwrap();
    let mean = |points: &[Point]| points.iter().map(|p| p.loss).sum::<f64>() / points.len() as f64;
    let (first, last) = (mean(&curve[..8]), mean(&curve[curve.len() - 8..]));
    assert!(last < first - 0.15, "the loss went from {first} to {last}");
    assert!(curve.iter().all(|p| p.std > 0.1), "the embeddings collapsed");
}

/// Stops like a crash, after a number of reports.
struct Crash(pub usize);

impl Progress for Crash {
    fn start(&mut self, _: &str, _: u64, _: &str) {}
    fn advance(&mut self, _: u64, _: &str) {
        assert!(self.0 > 0, "crash");
        self.0 -= 1;
    }
    fn done(&mut self) {}
    fn line(&mut self, _: &str) {}
}

#[test]
fn a_crash_at_any_moment_changes_no_bit() {
    let (source, recipe) = (source(), recipe(3));
    let samples: Vec<u32> = (0..32).collect();
    let whole = tempfile::tempdir().unwrap();
    let curve = train(&job(&recipe, &*source, &samples, whole.path()), &mut Silent).unwrap();
    let broken = tempfile::tempdir().unwrap();
    let job = job(&recipe, &*source, &samples, broken.path());
    for after in [2, 5, 1, 3] {
        let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| train(&job, &mut Crash(after))));
        assert!(crashed.is_err(), "it should have crashed");
        assert!(!broken.path().join("f.safetensors").exists(), "nothing is half-written");
    }
    assert_eq!(train(&job, &mut Silent).unwrap(), curve);
    assert!(weights_of(broken.path()) == weights_of(whole.path()), "the resumed weights differ");
}

#[test]
fn a_checkpoint_of_another_recipe_is_refused() {
    let (source, dir) = (source(), tempfile::tempdir().unwrap());
    let samples: Vec<u32> = (0..32).collect();
    let one = recipe(1);
    train(&job(&one, &*source, &samples, dir.path()), &mut Silent).unwrap();
    let error = train(&job(&recipe(2), &*source, &samples, dir.path()), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("f.safetensors is of another training: train.epochs is 1 there and 2 here; choose another folder"), "{error}");
    let error = train(&job(&one, &*source, &samples[1..], dir.path()), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("f.safetensors is of another training: samples.count is 32 there and 31 here"), "{error}");
}

#[test]
fn a_rate_that_explodes_stops_with_the_step_and_a_remedy() {
    let (source, dir) = (source(), tempfile::tempdir().unwrap());
    let samples: Vec<u32> = (0..32).collect();
    let mut recipe = recipe(20);
    (recipe.optim.name, recipe.optim.lr) = ("sgd".into(), 1e30);
    let error = train(&job(&recipe, &*source, &samples, dir.path()), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("at step") && error.contains("optim.lr"), "{error}");
    assert!(!dir.path().join("f.safetensors").exists());
}

/// Two trained encoders in a folder.
fn pair(dir: &Path) -> Box<dyn Source> {
    let source = source();
    for (name, first) in [("f", 0u32), ("g", 8)] {
        let recipe = recipe(1);
        let samples: Vec<u32> = (first..first + 16).collect();
        train(&Job { name, ..job(&recipe, &*source, &samples, dir) }, &mut Silent).unwrap();
    }
    source
}

fn protocol(batch: usize, pairs: Pairs, features: Features) -> Protocol {
    Protocol { views: 4, pairs, layers: vec![Layer::Output(features)], seed: 5, batch }
}

fn side(path: &Path) -> EncoderFile<'_> {
    let [view, original] = ["score", "original"].map(|name| policy(name, 32).unwrap());
    EncoderFile {
        path,
        network: Network { encoder: encoders::find("resnet8").unwrap(), config: EncoderConfig::of(32) },
        view,
        original,
        classifier: None,
    }
}

fn bits(rows: &[Row]) -> Vec<(u32, u64, u64, u64)> {
    let mut bits: Vec<_> = rows.iter().map(|r| (r.index, r.align_f.to_bits(), r.align_g.to_bits(), r.stderr.to_bits())).collect();
    bits.sort();
    bits
}

#[test]
fn scores_are_the_same_bits_for_any_batch_order_and_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let source = pair(dir.path());
    let (f, g) = (dir.path().join("f.safetensors"), dir.path().join("g.safetensors"));
    for (pairs, features) in [(Pairs::All, Features::Pooled), (Pairs::Original, Features::Map)] {
        let samples: Vec<(u32, Subset)> = (0..23).map(|i| (i * 3, Subset::Candidate)).collect();
        let run = |batch: usize, samples: &[(u32, Subset)]| {
            bits(&score(side(&f), side(&g), &protocol(batch, pairs, features), &*source, samples, &Device::Cpu, &mut Silent).unwrap())
        };
        let want = run(8, &samples);
        let mut turned = samples.clone();
        turned.reverse();
        turned.swap(3, 11);
        for batch in [1, 5, 23, 32] {
            assert!(run(batch, &samples) == want, "a batch of {batch} changes scores");
            assert!(run(batch, &turned) == want, "the order changes scores");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| run(8, &samples)) == want, "{threads} threads change scores");
        }
    }
}

#[test]
fn training_is_the_same_bits_for_any_number_of_threads() {
    let (source, recipe) = (source(), recipe(1));
    let samples: Vec<u32> = (0..16).collect();
    let run = |threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(&job(&recipe, &*source, &samples, dir.path()), &mut Silent)).unwrap();
        weights_of(dir.path())
    };
    let one = run(1);
    assert!(run(2) == one && run(3) == one, "the number of threads changes the weights");
}

#[test]
fn the_same_encoder_twice_has_memorised_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = pair(dir.path());
    let f = dir.path().join("f.safetensors");
    let samples: Vec<(u32, Subset)> = (0..10).map(|i| (i, if i < 5 { Subset::Candidate } else { Subset::External })).collect();
    let mut rows =
        score(side(&f), side(&f), &protocol(4, Pairs::All, Features::Pooled), &*source, &samples, &Device::Cpu, &mut Silent).unwrap();
    table::finish(&mut rows);
    assert!(rows.iter().all(|r| r.delta == 0.0 && r.score == 0.0 && r.calibrated == 0.0 && r.align_f > 0.0));
}

#[test]
fn too_few_views_and_too_many_are_refused_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let source = pair(dir.path());
    let f = dir.path().join("f.safetensors");
    for (views, batch, part) in [(0, 4, "0 views"), (1, 4, "1 view "), (9_000_000, 4, "too many"), (1000, 100_000, "GiB")] {
        let protocol = Protocol { views, ..protocol(batch, Pairs::All, Features::Pooled) };
        let error = score(side(&f), side(&f), &protocol, &*source, &[(0, Subset::Candidate)], &Device::Cpu, &mut Silent).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn unusable_weights_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = pair(dir.path());
    let good = dir.path().join("f.safetensors");
    let bytes = std::fs::read(&good).unwrap();
    let try_with = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = score(
            side(&path),
            side(&good),
            &protocol(4, Pairs::All, Features::Pooled),
            &*source,
            &[(0, Subset::Candidate)],
            &Device::Cpu,
            &mut Silent,
        );
        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
        error.to_string()
    };
    // Without its digest, as a file from elsewhere.
    let mut nan = bytes.clone();
    let at = nan.windows(8).position(|some| some == b"\"blake3\"").unwrap();
    nan[at..at + 8].copy_from_slice(b"\"blake_\"");
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let message = try_with("nan.safetensors", &nan);
    assert!(message.contains("nan.safetensors") && message.contains("NaN"), "{message}");
    let message = try_with("cut.safetensors", &bytes[..bytes.len() / 2]);
    assert!(message.contains("not a whole safetensors file"), "{message}");
    let wide =
        EncoderFile { network: Network { encoder: encoders::find("resnet18").unwrap(), config: EncoderConfig::of(32) }, ..side(&good) };
    let error = score(
        wide,
        side(&good),
        &protocol(4, Pairs::All, Features::Pooled),
        &*source,
        &[(0, Subset::Candidate)],
        &Device::Cpu,
        &mut Silent,
    );
    let message = error.unwrap_err().to_string();
    assert!(message.contains("--arch"), "{message}");
}
