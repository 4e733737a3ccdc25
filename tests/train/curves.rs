//! A short SimCLR training on a device follows the CPU's, as closely as the CPU follows itself from weights with other rounding.

use crate::emulated::Emulated;
use emulator::Options;
use sslmem::config::Recipe;
use sslmem::data::{self, OnBadImage, Source};
use sslmem::device::{Device, GpuDevice};
use sslmem::encoders::{self, EncoderConfig, Network};
use sslmem::loader::load;
use sslmem::methods::{self, Context};
use sslmem::ops::optimize::{Algorithm, Gradients, ParamGroup};
use sslmem::random::Purpose;
use sslmem::schedule::{Schedule, warmup_cosine};
use sslmem::tape::{Mode, Tape};
use sslmem::var::Dtype;
use sslmem::view::policy;
use sslmem::weights::Weights;
use std::rc::Rc;

/// Samples of a batch, and steps.
#[derive(Clone, Copy)]
pub struct Size {
    pub samples: usize,
    pub steps: usize,
}

/// On the emulator.
pub const EMULATOR: Size = Size { samples: 2, steps: 3 };
/// On a card.
pub const CARD: Size = Size { samples: 32, steps: 40 };

/// The loss of each step, from weights of which each was first changed by the factor 1 ± `nudge`.
fn losses(device: Device, source: &dyn Source, size: Size, nudge: f32) -> Vec<f32> {
    let Size { samples, steps } = size;
    let mut tape = Tape::new(Mode::Train);
    let batch = tape.batch(samples, source.largest());
    let views = tape.augment(batch, vec![policy("simclr", 32).unwrap(); 2], 0, 3, Purpose::Train);
    let rates: Vec<[f32; 4]> = (0..steps).map(|step| [warmup_cosine(5e-4, steps / 10, steps, step) as f32, 1e-6, 0.0, 0.0]).collect();
    let schedule = Schedule::new(&mut tape, &rates);
    let network = Network { encoder: encoders::find("resnet8").unwrap(), config: EncoderConfig::of(32) };
    let options = Recipe::default().method;
    let context = Context { network, options: &options, schedule, batch, classes: 0, seed: 3 };
    let recorded = methods::find("simclr").unwrap().loss(&mut tape.root(), &context, &[views]);
    tape.backward(recorded.loss);
    tape.optimize(
        Gradients::of(&tape),
        Algorithm::Adam { betas: [0.9, 0.999], eps: 1e-8, decoupled: false },
        &|_, _| ParamGroup::default(),
        schedule,
    );
    let log = tape.fixed([steps, 1], Dtype::F32);
    tape.log_step(schedule, log, &[recorded.loss]);
    let trained: Vec<_> = tape.gradients().into_iter().map(|(name, w, _)| (name, tape.shape(w))).collect();
    let mut weights = Weights::on(device, 7);
    let mut program = tape.compile(&mut weights).unwrap();
    for (name, shape) in trained {
        let start = weights.get(&name).unwrap().unwrap();
        let sign = |i: usize| if i.wrapping_mul(2654435761) >> 16 & 1 == 0 { nudge } else { -nudge };
        let nudged: Vec<f32> = start.iter().enumerate().map(|(i, w)| w * (1.0 + sign(i))).collect();
        weights.set(&name, shape, &nudged).unwrap();
    }
    for step in 0..steps {
        let ids: Vec<u32> = (0..samples).map(|i| ((step * samples + i) % source.train_len()) as u32).collect();
        load(&mut program, &batch, source, &ids, step as u32).unwrap();
        program.run().unwrap();
    }
    program.read(log).unwrap()
}

/// How far two curves are apart up to each step.
fn apart(a: &[f32], b: &[f32]) -> Vec<f32> {
    let steps = a.iter().zip(b).scan(0.0f32, |most, (a, b)| {
        *most = if b.is_finite() { most.max((a - b).abs()) } else { f32::INFINITY };
        Some(*most)
    });
    steps.collect()
}

/// The curve of the CPU, and how far a device whose activations are `dtype` may be from it up to each step. Rounding grows from step to
/// step, by how much depends on the network, the rate and the data, so no constant bounds it. What it may grow to is measured: a second
/// training on the CPU starts from weights nudged by four units of the last bit that the type holds, which stands for the roundings of a
/// step, and the device may be four times as far from the first as that one gets, and some last bits of the loss.
fn bound(source: &dyn Source, size: Size, dtype: Dtype) -> (Vec<f32>, Vec<f32>) {
    let nudge = if dtype == Dtype::Bf16 { 2f32.powi(-6) } else { 2f32.powi(-21) };
    let cpu = losses(Device::Cpu, source, size, 0.0);
    let far = apart(&cpu, &losses(Device::Cpu, source, size, nudge));
    let allowed = far.iter().zip(&cpu).map(|(far, loss)| 4.0 * far + loss * 2f32.powi(-20)).collect();
    (cpu, allowed)
}

fn source() -> Box<dyn Source> {
    data::open("synthetic:320@1", OnBadImage::Fail).unwrap()
}

/// Trains on the device and on the CPU.
pub fn follow(gpu: Rc<dyn GpuDevice>, size: Size) {
    let (source, dtype) = (source(), gpu.dtype());
    let (cpu, allowed) = bound(&*source, size, dtype);
    let got = losses(Device::Gpu(gpu), &*source, size, 0.0);
    let (far, last) = (apart(&cpu, &got), size.steps - 1);
    println!("{dtype:?}: loss {} to {}, at most {:.1e} from the CPU's, allowed are {:.1e}", got[0], got[last], far[last], allowed[last]);
    for (step, (far, allowed)) in far.iter().zip(&allowed).enumerate() {
        assert!(far <= allowed, "{dtype:?}, step {step}: {far:.1e} from the CPU's loss, allowed are {allowed:.1e}");
    }
}

#[test]
fn training_on_the_emulator_follows_the_cpu() {
    if crate::emulated::missing() {
        return;
    }
    for dtype in [Dtype::F32, Dtype::Bf16] {
        follow(Emulated::new(dtype, Options::default()), EMULATOR);
    }
}

/// What a card is allowed is little beside what it must follow.
#[test]
fn the_bound_of_a_card_is_far_below_what_training_changes() {
    for (dtype, part) in [(Dtype::F32, 0.05), (Dtype::Bf16, 0.5)] {
        let (cpu, allowed) = bound(&*source(), CARD, dtype);
        let (fall, most) = (cpu[0] - cpu[CARD.steps - 1], allowed[CARD.steps - 1]);
        println!("{dtype:?}: the loss falls by {fall}, {most:.1e} are allowed");
        assert!(most < part * fall, "{dtype:?}: the loss falls by {fall} and {most} are allowed");
    }
}
