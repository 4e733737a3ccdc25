//! Training and scoring on a GPU follow the CPU: the same recipe, the same views, the same curve, the same scores.

use crate::emulated::Emulated;
use emulator::Options;
use sslmem::config::{Recipe, preset};
use sslmem::data::{self, OnBadImage, Source};
use sslmem::device::{Device, GpuDevice};
use sslmem::encoders::{self, EncoderConfig, Features, Network};
use sslmem::ops::alignment::Pairs;
use sslmem::progress::Silent;
use sslmem::score::{EncoderFile, Layer, Protocol, score};
use sslmem::split::Subset;
use sslmem::table::Row;
use sslmem::train::{Job, Point, train};
use sslmem::var::Dtype;
use sslmem::view::policy;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

fn source() -> Box<dyn Source> {
    data::open("synthetic:32@1", OnBadImage::Fail).unwrap()
}

/// A few steps of SimCLR with every kind of call that training makes.
pub fn recipe(batch: usize, epochs: usize) -> Recipe {
    let mut recipe = preset("demo").unwrap();
    (recipe.train.batch, recipe.train.epochs) = (batch, epochs);
    recipe
}

pub fn curve(recipe: &Recipe, device: &Device, samples: u32, dir: &Path) -> Vec<Point> {
    let (source, samples) = (source(), (0..samples).collect::<Vec<u32>>());
    let job = Job { seed: 3, checkpoint: Duration::ZERO, device, ..Job::new(recipe, &*source, &samples, "f", dir).unwrap() };
    train(&job, &mut Silent).unwrap()
}

/// The losses of two curves differ by at most `bound`, in each point.
pub fn same_curve(a: &[Point], b: &[Point], bound: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a.loss - b.loss).abs() <= bound && (a.std - b.std).abs() <= bound, "step {}: {a:?} and {b:?}", a.step);
    }
}

#[test]
fn training_on_a_gpu_follows_the_cpu() {
    if crate::emulated::missing() {
        return;
    }
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let recipe = recipe(4, 1);
    let cpu = curve(&recipe, &Device::Cpu, 12, folders[0].path());
    let run = |dtype, dir: &Path| curve(&recipe, &Device::Gpu(Emulated::new(dtype, Options::default())), 12, dir);
    // Adam divides by the root of a gradient's square: where a gradient is nearly zero, rounding decides its sign.
    same_curve(&cpu, &run(Dtype::F32, folders[1].path()), 2e-3);
    same_curve(&cpu, &run(Dtype::Bf16, folders[2].path()), 5e-2);
}

fn protocol(batch: usize, pairs: Pairs, features: Features) -> Protocol {
    Protocol { views: 3, pairs, layers: vec![Layer::Output(features)], seed: 5, batch }
}

pub fn scores(dir: &Path, protocol: &Protocol, device: &Device) -> Vec<Row> {
    let (f, g) = (dir.join("f.safetensors"), dir.join("g.safetensors"));
    let [view, original] = ["score", "original"].map(|name| policy(name, 16).unwrap());
    let side = |path| EncoderFile {
        path,
        network: Network { encoder: encoders::find("resnet8").unwrap(), config: EncoderConfig::of(16) },
        view,
        original,
        classifier: None,
    };
    let samples: Vec<(u32, Subset)> = (0..3).map(|i| (i, Subset::Candidate)).collect();
    score(side(&f), side(&g), protocol, &*source(), &samples, device, &mut Silent).unwrap()
}

#[test]
fn scores_on_a_gpu_are_those_of_the_cpu_for_any_batch() {
    if crate::emulated::missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, seed) in [("f", 1), ("g", 2)] {
        let (source, recipe) = (source(), recipe(8, 1));
        let samples: Vec<u32> = (0..16).collect();
        let job = Job { seed, ..Job::new(&recipe, &*source, &samples, name, dir.path()).unwrap() };
        train(&job, &mut Silent).unwrap();
    }
    for (pairs, features) in [(Pairs::All, Features::Pooled), (Pairs::Original, Features::Map)] {
        let cpu = scores(dir.path(), &protocol(2, pairs, features), &Device::Cpu);
        for (dtype, bound) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 1e-2)] {
            let gpu: Rc<dyn GpuDevice> = Emulated::new(dtype, Options::default());
            let got = [1, 2].map(|batch| scores(dir.path(), &protocol(batch, pairs, features), &Device::Gpu(gpu.clone())));
            for ((cpu, one), two) in cpu.iter().zip(&got[0]).zip(&got[1]) {
                assert!(
                    one.align_f.to_bits() == two.align_f.to_bits() && one.align_g.to_bits() == two.align_g.to_bits(),
                    "the batch changes scores"
                );
                let off = (cpu.align_f - one.align_f).abs().max((cpu.align_g - one.align_g).abs());
                assert!(off <= bound, "{dtype:?}, {pairs:?}: {off:.1e} off: {cpu:?} and {one:?}");
            }
        }
    }
}
