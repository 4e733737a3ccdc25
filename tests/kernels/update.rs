//! The optimizers' kernels and the step's against the CPU, over several steps: every rule, early and late, with lengths that end
//! inside a vector, a block's piece and a warp.

use crate::emulated::Emulated;
use crate::kernels::{distance, noise};
use emulator::Options;
use sslmem::device::Device;
use sslmem::init::Init;
use sslmem::ops::optimize::{Algorithm, Gradients, LarsVariant, ParamGroup, Rate};
use sslmem::program::Program;
use sslmem::schedule::Schedule;
use sslmem::tape::{Mode, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;

const ALGORITHMS: &[Algorithm] = &[
    Algorithm::Sgd { momentum: 0.9 },
    Algorithm::Adam { betas: [0.9, 0.999], eps: 1e-8, decoupled: false },
    Algorithm::Adam { betas: [0.9, 0.95], eps: 1e-6, decoupled: true },
    Algorithm::Lars { momentum: 0.9, trust: 0.02, variant: LarsVariant::Plain },
    Algorithm::Lars { momentum: 0.9, trust: 0.02, variant: LarsVariant::Classic },
    Algorithm::Lars { momentum: 0.9, trust: 0.02, variant: LarsVariant::Clipped },
];
/// The first has more values than a block takes; the third starts at zero, where LARS adapts nothing.
pub const SHAPES: &[&[usize]] = &[&[91, 91], &[3, 2, 1, 5], &[4, 4], &[8192], &[131], &[1]];
const STEPS: usize = 3;
/// The last two clip every gradient but the shortest.
pub const RUNS: &[Run] = &[
    Run { decay_all: false, first: 0, clip: 0.0, special: false },
    Run { decay_all: true, first: 0, clip: 0.0, special: false },
    Run { decay_all: true, first: 1000, clip: 0.0, special: false },
    Run { decay_all: false, first: 0, clip: 1.5, special: true },
    Run { decay_all: true, first: 30, clip: 1.5, special: true },
];

pub struct Recorded {
    program: Program,
    gradients: Vec<Var>,       // like SHAPES
    state: Vec<(String, Var)>, // weights and moments
    schedule: Schedule,
    values: [Var; 2], // [1]
    log: Var,         // [2, 2]
}

/// What a run of steps goes through besides its rule.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Norms and biases decay too.
    pub decay_all: bool,
    /// The step to begin with.
    pub first: usize,
    pub clip: f32,
    /// Weights with rates of their own, and one that moves from the second step on.
    pub special: bool,
}

fn group(run: Run, name: &str, vector: bool) -> ParamGroup {
    let decay = run.decay_all || !vector;
    match name {
        "w.0" if run.special => ParamGroup { decay, rate: Rate::Scheduled(0.3), from: 0 },
        "w.1" if run.special => ParamGroup { decay, rate: Rate::Fixed(0.02), from: 0 },
        "w.3" if run.special => ParamGroup { decay, rate: Rate::Scheduled(1.0), from: run.first as u32 + 1 },
        _ => ParamGroup { decay, ..ParamGroup::default() },
    }
}

/// The weights below `w` with a teacher below `teacher`.
pub fn record(algorithm: Algorithm, run: Run, device: Device) -> Recorded {
    let first = run.first;
    let mut tape = Tape::new(Mode::Train);
    let mut gradients = vec![];
    for (i, shape) in SHAPES.iter().enumerate() {
        let init = if i == 2 { Init::Constant(0.0) } else { Init::Normal(0.5) };
        let w = tape.root().at("w").param(&i.to_string(), *shape, init);
        tape.root().frozen("teacher").param(&i.to_string(), *shape, Init::Constant(2.0));
        let gradient = tape.fixed(*shape, Dtype::F32);
        tape.seed(w, gradient);
        gradients.push(gradient);
    }
    let rows: Vec<[f32; 4]> =
        (0..first + STEPS).map(|i| [0.1 / (1 + i % 7) as f32, 0.01 * (1 + i % 3) as f32, 0.9 + 0.01 * (i % 5) as f32, 0.07]).collect();
    let schedule = Schedule::new(&mut tape, &rows);
    tape.optimize(Gradients::of(&tape).clip(run.clip), algorithm, &|name, shape| group(run, name, shape.dims().len() == 1), schedule);
    tape.ema("w", "teacher", schedule);
    let values = [tape.fixed([1], Dtype::F32), tape.fixed([1], Dtype::F32)];
    let log = tape.fixed([2, 2], Dtype::F32);
    tape.log_step(schedule, log, &values);
    let state = ["w.", "teacher.", "optimizer."].into_iter().flat_map(|prefix| tape.below(prefix)).collect();
    let mut program = tape.compile(&mut Weights::on(device, 5)).unwrap();
    program.write(schedule.step, &[first as u32]).unwrap();
    program.write(log, &[0.0f32; 4]).unwrap();
    Recorded { program, gradients, state, schedule, values, log }
}

pub fn step(r: &mut Recorded, number: usize) {
    for (i, (g, shape)) in r.gradients.iter().zip(SHAPES).enumerate() {
        r.program.write(*g, &noise((10 * number + i) as u32, shape.iter().product())).unwrap();
    }
    for (i, v) in r.values.iter().enumerate() {
        r.program.write(*v, &[(10 * number + i) as f32]).unwrap();
    }
    r.program.run().unwrap();
}

fn compare(name: &str, cpu: &Recorded, gpu: &Recorded) {
    for (variable, v) in &cpu.state {
        let (wanted, got): (Vec<f32>, Vec<f32>) = (cpu.program.read(*v).unwrap(), gpu.program.read(*v).unwrap());
        let (largest, norm) = distance(&wanted, &got);
        assert!(largest < 1e-6 && norm < 5e-7, "{name}: {variable} is off by {largest:.1e} of the largest value, {norm:.1e} in norm");
    }
    assert_eq!(
        cpu.program.read::<u32>(cpu.schedule.step).unwrap(),
        gpu.program.read::<u32>(gpu.schedule.step).unwrap(),
        "{name}: the counter"
    );
    assert_eq!(cpu.program.read::<f32>(cpu.log).unwrap(), gpu.program.read::<f32>(gpu.log).unwrap(), "{name}: the log");
}

/// Every rule on a device against the CPU.
pub fn every_rule(device: &Device) {
    for &algorithm in ALGORITHMS {
        for run in RUNS {
            let name = format!("{algorithm:?}, {run:?}");
            let mut cpu = record(algorithm, *run, Device::Cpu);
            let mut gpu = record(algorithm, *run, device.clone());
            for number in 0..STEPS {
                step(&mut cpu, number);
                step(&mut gpu, number);
                compare(&name, &cpu, &gpu);
            }
        }
    }
}

#[test]
fn every_rule_moves_the_weights_as_on_the_cpu() {
    if crate::emulated::missing() {
        return;
    }
    for schedule in Options::schedules() {
        println!("{schedule:?}");
        every_rule(&Device::Gpu(Emulated::new(Dtype::Bf16, schedule)));
    }
}
