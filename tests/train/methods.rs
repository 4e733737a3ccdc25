//! Every method from its recipe: a crash changes no bit, a GPU follows the CPU, collapse and NaN are noticed.

use super::Crash;
use crate::emulated::Emulated;
use emulator::Options;
use rayon::prelude::*;
use sslmem::config::{Layers, Recipe};
use sslmem::data::{self, OnBadImage, Source};
use sslmem::device::Device;
use sslmem::methods::METHODS;
use sslmem::progress::Silent;
use sslmem::train::{Job, Point, train};
use sslmem::var::Dtype;
use sslmem::view::Policy;
use std::path::Path;
use std::time::Duration;

fn source() -> Box<dyn Source> {
    data::open("synthetic:64@1", OnBadImage::Fail).unwrap()
}

/// The smoke recipe of a method, made tiny.
pub fn tiny(method: &str) -> Recipe {
    let preset = if method == "simclr" { "smoke".to_string() } else { format!("smoke_{method}") };
    let arch = if method == "dino" { "arch = \"vit_nano\"\n" } else { "" };
    let changes = "size = 16\npatch = 4\n[method]\nprojector = [32, 24]\npredictor = [16, 24]\nprototypes = 40\nlocal_size = 8
decoder = [32, 1, 2]\n[train]\nepochs = 2\nbatch = 8\n[optim]\nwarmup_epochs = 0";
    let changes = format!("[encoder]\n{arch}{changes}");
    Layers::presets(&[preset]).unwrap().text("tiny", &changes).unwrap().resolve().unwrap()
}

fn job<'a>(recipe: &'a Recipe, source: &'a dyn Source, samples: &'a [u32], dir: &'a Path, device: &'a Device) -> Job<'a> {
    Job { seed: 3, checkpoint: Duration::ZERO, device, ..Job::new(recipe, source, samples, "f", dir).unwrap() }
}

#[test]
fn a_crash_changes_no_bit_of_any_method() {
    let (source, samples): (_, Vec<u32>) = (source(), (0..32).collect());
    for method in METHODS {
        let recipe = tiny(method.name());
        let [whole, broken] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let curve = train(&job(&recipe, &*source, &samples, whole.path(), &Device::Cpu), &mut Silent).unwrap();
        assert_eq!(curve.len(), 8);
        assert!(curve.iter().all(|p| p.loss.is_finite() && p.rank >= 1.0), "{}: {curve:?}", method.name());
        let job = job(&recipe, &*source, &samples, broken.path(), &Device::Cpu);
        for after in [2, 3] {
            let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| train(&job, &mut Crash(after))));
            assert!(crashed.is_err(), "{} should have crashed", method.name());
        }
        assert_eq!(train(&job, &mut Silent).unwrap(), curve, "{}", method.name());
        let weights = |dir: &Path| std::fs::read(dir.join("f.safetensors")).unwrap();
        assert!(weights(whole.path()) == weights(broken.path()), "{}: the resumed weights differ", method.name());
    }
}

fn curve(recipe: &Recipe, device: &Device) -> Vec<Point> {
    let (source, dir) = (source(), tempfile::tempdir().unwrap());
    train(&job(recipe, &*source, &(0..8).collect::<Vec<u32>>(), dir.path(), device), &mut Silent).unwrap()
}

#[test]
fn every_method_on_a_gpu_follows_the_cpu() {
    if crate::emulated::missing() {
        return;
    }
    METHODS.par_iter().for_each(|method| {
        let mut recipe = tiny(method.name());
        (recipe.train.batch, recipe.train.epochs, recipe.optim.lr) = (4, 1, 1e-4);
        recipe.method.local_crops = 1;
        let cpu = curve(&recipe, &Device::Cpu);
        for (dtype, bound) in [(Dtype::F32, 2e-3), (Dtype::Bf16, 6e-2)] {
            let gpu = curve(&recipe, &Device::Gpu(Emulated::new(dtype, Options::default())));
            for (a, b) in cpu.iter().zip(&gpu) {
                let near = (a.loss - b.loss).abs() <= bound * a.loss.abs().max(1.0);
                assert!(near, "{} in {dtype:?}, step {}: loss {} and {}", method.name(), a.step, a.loss, b.loss);
            }
        }
    });
}

#[test]
fn limiting_alignment_pushes_views_apart_in_every_method() {
    for method in METHODS {
        let mut recipe = tiny(method.name());
        recipe.train.epochs = 1;
        recipe.optim.lr = 1e-5;
        let plain = curve(&recipe, &Device::Cpu)[0].loss;
        recipe.method.alignment_limit = 0.25;
        let limited = curve(&recipe, &Device::Cpu)[0].loss;
        // (1 - lambda) loss - lambda distance, and the distance of two unit vectors is between 0 and 2.
        let distance = (0.75 * plain - limited) / 0.25;
        assert!((0.01..2.0).contains(&distance), "{}: the distance would be {distance}", method.name());
    }
}

#[test]
fn collapsed_embeddings_stop_a_training() {
    let mut recipe = tiny("simsiam");
    // Without batch norm in the heads and at a rate that is far too high SimSiam's outputs fall onto one line, which the
    // batch norm behind them spreads out again: the rank tells.
    recipe.method.head_norm = false;
    (recipe.optim.lr, recipe.train.epochs) = (0.3, 200);
    let (source, dir) = (source(), tempfile::tempdir().unwrap());
    let samples: Vec<u32> = (0..8).collect();
    let error = train(&job(&recipe, &*source, &samples, dir.path(), &Device::Cpu), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("the embeddings of f have collapsed"), "{error}");
    assert!(!dir.path().join("f.safetensors").exists());
}

#[test]
fn rank_counts_directions() {
    use sslmem::train::rank;
    // Four points at the corners of a square in the first two of five columns: two directions, alike.
    let square: Vec<f32> = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]].iter().flat_map(|p| [p[0], p[1], 0.0, 7.0, -2.0]).collect();
    assert!((rank(&square, 5) - 2.0).abs() < 1e-5);
    let line: Vec<f32> = (0..6).flat_map(|i| [i as f32, 2.0 * i as f32]).collect();
    assert!((rank(&line, 2) - 1.0).abs() < 1e-5);
    assert_eq!(rank(&[3.0; 8], 4), 0.0, "of equal rows");
}

/// The classes of a source as `of` has them.
struct Relabelled(Box<dyn Source>, fn(usize) -> Option<u32>);

impl Source for Relabelled {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn train_len(&self) -> usize {
        self.0.train_len()
    }
    fn id(&self, index: usize) -> String {
        self.0.id(index)
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.1(index)
    }
    fn classes(&self) -> &[String] {
        &[]
    }
    fn digest(&self) -> &str {
        self.0.digest()
    }
    fn largest(&self) -> usize {
        self.0.largest()
    }
    fn image(&self, index: usize) -> sslmem::error::Result<sslmem::data::Image> {
        self.0.image(index)
    }
}

/// Labels that say nothing about the images can be learned only by heart, and only if each image keeps its own.
#[test]
fn supervised_training_learns_the_labels_of_its_samples() {
    let samples: Vec<u32> = (0..24).collect();
    let mut recipe = tiny("supervised");
    (recipe.train.epochs, recipe.optim.lr) = (60, 5e-3);
    (recipe.method.view, recipe.score.view) = (Policy::Named("original".into()), Policy::Named("original".into()));
    let source = Relabelled(source(), |i| Some((i as u32 * 7 + i as u32 / 5) % 3));
    let dir = tempfile::tempdir().unwrap();
    let job = job(&recipe, &source, &samples, dir.path(), &Device::Cpu);
    let curve = train(&job, &mut Silent).unwrap();
    let [first, last] = [curve[0], *curve.last().unwrap()].map(|point| point.accuracy.unwrap());
    assert!(first < 0.8 && last > 0.95, "accuracy {first} to {last}");
    let heads = std::fs::read(job.heads_path()).unwrap();
    let heads = safetensors::SafeTensors::deserialize(&heads).unwrap();
    assert_eq!(heads.names().into_iter().collect::<std::collections::BTreeSet<_>>(), ["classifier.bias", "classifier.weight"].into());
    assert_eq!(heads.tensor("classifier.weight").unwrap().shape(), [3, 64]);
}

#[test]
fn classes_that_are_not_there_are_not_learned() {
    let (recipe, dir) = (tiny("supervised"), tempfile::tempdir().unwrap());
    let samples: Vec<u32> = (0..16).collect();
    let refused = |labels: fn(usize) -> Option<u32>| {
        let source = Relabelled(source(), labels);
        let (job, error) = (job(&recipe, &source, &samples, dir.path(), &Device::Cpu), "it has what to learn");
        let [before, now] = [sslmem::train::rehearse(&job).expect_err(error), train(&job, &mut Silent).expect_err(error)];
        assert_eq!(before.to_string(), now.to_string());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was written");
        now.to_string()
    };
    let none = refused(|i| (i != 5).then_some(i as u32 % 2));
    assert!(none.contains("train/00005 has no class"), "{none}");
    let one = refused(|_| Some(0));
    assert!(one.contains("of one class"), "{one}");
}
