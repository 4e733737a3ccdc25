//! A step in micro-batches: the gradients of one batch, in the memory of a part of it.

use super::Crash;
use super::methods::tiny;
use crate::emulated::Emulated;
use emulator::Options;
use sslmem::config::Recipe;
use sslmem::data::{self, OnBadImage};
use sslmem::device::Device;
use sslmem::progress::{Progress, Silent};
use sslmem::train::{Job, Point, train};
use sslmem::var::Dtype;
use sslmem::weights::Weights;
use std::path::Path;
use std::time::Duration;

/// Sixteen samples in one step of eight a time, by a rule whose steps are the gradients.
fn recipe(method: &str, accumulate: usize) -> Recipe {
    let mut recipe = tiny(method);
    (recipe.train.epochs, recipe.train.accumulate) = (1, accumulate);
    (recipe.optim.name, recipe.optim.lr, recipe.optim.momentum) = ("sgd".into(), 1e-2, 0.0);
    if recipe.encoder.arch.starts_with("resnet") {
        recipe.encoder.arch = "vit_nano".into(); // no batch norm
    }
    recipe.method.head_norm = false;
    recipe
}

fn learn(recipe: &Recipe, samples: u32, device: &Device, dir: &Path) -> (Vec<Point>, Vec<f32>) {
    learn_until(recipe, samples, device, dir, &mut Silent)
}

fn learn_until(recipe: &Recipe, samples: u32, device: &Device, dir: &Path, progress: &mut dyn Progress) -> (Vec<Point>, Vec<f32>) {
    let source = data::open("synthetic:64@1", OnBadImage::Fail).unwrap();
    let samples: Vec<u32> = (0..samples).collect();
    let job = Job { seed: 3, checkpoint: Duration::ZERO, device, ..Job::new(recipe, &*source, &samples, "f", dir).unwrap() };
    let curve = train(&job, progress).unwrap();
    let mut weights = Weights::new(0);
    weights.load(&dir.join("f.safetensors"), "").unwrap();
    let names = ["patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.bias", "norm.weight"];
    (curve, names.iter().flat_map(|name| weights.get(name).unwrap().unwrap()).collect())
}

/// Two results are the same but for the rounding of sums in another order, and not just because nothing was learned.
fn close(one: &[f32], other: &[f32], start: &[f32]) {
    let most = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (moved, apart) = (most(one, start), most(one, other));
    assert!(moved > 1e-4, "weights moved by {moved}");
    assert!(apart < 2e-4 * moved + 1e-7, "micro-batches move weights by {apart} of {moved} apart");
}

#[test]
fn the_gradients_of_micro_batches_add_up_to_those_of_the_batch() {
    for method in ["mae", "supervised"] {
        let folders: Vec<_> = (0..5).map(|_| tempfile::tempdir().unwrap()).collect();
        let at = |i: usize| folders[i].path();
        let mut still = recipe(method, 1);
        still.optim.lr = 1e-30;
        let (_, start) = learn(&still, 8, &Device::Cpu, at(0));
        let (curve, whole) = learn(&recipe(method, 1), 8, &Device::Cpu, at(1));
        for (i, parts) in [(2, 2), (3, 4)] {
            let (again, parted) = learn(&recipe(method, parts), 8, &Device::Cpu, at(i));
            assert!((curve[0].loss - again[0].loss).abs() < 1e-5, "{method} in {parts}: {curve:?} and {again:?}");
            assert_eq!(curve[0].accuracy, again[0].accuracy, "{method}");
            close(&whole, &parted, &start);
        }
        if !crate::emulated::missing() {
            let gpu = Device::Gpu(Emulated::new(Dtype::F32, Options::default()));
            let (_, emulated) = learn(&recipe(method, 4), 8, &gpu, at(4));
            close(&whole, &emulated, &start);
        }
    }
}

#[test]
fn the_same_parts_give_the_same_bytes_after_a_crash_too() {
    let [one, two, broken] = [0, 1, 2].map(|_| tempfile::tempdir().unwrap());
    let recipe = recipe("mae", 2);
    let read = |dir: &Path| {
        learn(&recipe, 32, &Device::Cpu, dir);
        std::fs::read(dir.join("f.safetensors")).unwrap()
    };
    let first = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| read(one.path()));
    assert!(first == read(two.path()));
    let crashed = std::panic::catch_unwind(|| learn_until(&recipe, 32, &Device::Cpu, broken.path(), &mut Crash(3)));
    assert!(crashed.is_err() && !broken.path().join("f.safetensors").exists());
    assert!(first == read(broken.path()));
}

/// What is said of a training.
#[derive(Default)]
struct Lines(Vec<String>);

impl Progress for Lines {
    fn start(&mut self, _: &str, _: u64, _: &str) {}
    fn advance(&mut self, _: u64, _: &str) {}
    fn done(&mut self) {}
    fn line(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

/// Megabytes of activations and gradients and of the weights' gradients among them, and what else is said.
fn said(recipe: &Recipe) -> ([f64; 2], String) {
    let (source, dir) = (data::open("synthetic:64@1", OnBadImage::Fail).unwrap(), tempfile::tempdir().unwrap());
    let (samples, mut lines): (Vec<u32>, _) = ((0..64).collect(), Lines::default());
    let mut recipe = recipe.clone();
    (recipe.train.batch, recipe.train.epochs) = (64, 1);
    train(&Job::new(&recipe, &*source, &samples, "f", dir.path()).unwrap(), &mut lines).unwrap();
    let words: Vec<&str> = lines.0[0].split(' ').collect();
    let at = words.windows(2).position(|pair| pair == ["MB", "activations"]).unwrap();
    let weights = ["f.safetensors", "f.heads.safetensors"].map(|name| dir.path().join(name).metadata().unwrap().len());
    ([words[at - 1].parse().unwrap(), weights.iter().sum::<u64>() as f64 / 1e6], lines.0[1..].join("\n"))
}

#[test]
fn memory_is_that_of_a_micro_batch_and_batch_norm_is_mentioned() {
    let mut recipe = recipe("supervised", 1);
    recipe.encoder.size = 32;
    let ([whole, gradients], nothing) = said(&recipe);
    recipe.train.accumulate = 4;
    let ([parts, _], without_norm) = said(&recipe);
    // The gradients of the weights stay.
    let quarter = (whole - gradients) / 4.0 + gradients;
    assert!(parts < 1.1 * quarter && quarter < whole / 2.0, "{parts} MB in 4 parts, {whole} MB at once, {gradients} MB of gradients");
    let mut recipe = tiny("supervised");
    recipe.train.accumulate = 4;
    let (_, text) = said(&recipe);
    assert_eq!(without_norm, "f: gradients of 4 micro-batches of 16 add up to a step");
    assert_eq!(nothing, "");
    assert_eq!(text, "f: gradients of 4 micro-batches of 16 add up to a step; batch norm has the statistics of each micro-batch");
}

#[test]
fn a_loss_of_the_batch_as_a_whole_is_not_taken_in_parts() {
    for (method, parts, expected) in [
        (
            "simclr",
            2,
            "simclr looks at a batch as a whole (negatives, correlations or a centre), so train.accumulate of 2 would train something else",
        ),
        ("dino", 4, "dino looks at a batch as a whole"),
        ("mae", 3, "train.batch of 8 cannot be taken in 3 parts of at least 2 samples each"),
        ("mae", 8, "train.batch of 8 cannot be taken in 8 parts of at least 2 samples each"),
        ("mae", 0, "train.accumulate is 0; choose at least 1"),
    ] {
        let mut recipe = tiny(method);
        recipe.train.accumulate = parts;
        let error = recipe.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
