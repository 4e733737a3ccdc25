//! Every kernel against the CPU: each case of `ops::ALL` is recorded for both devices and runs call by call, so that a difference belongs
//! to one call and names it. `T` is f32 or bf16.

pub mod augment;
pub mod conformance;
pub mod counts;
mod gate;
mod traffic;
pub mod update;

use crate::cuda::script::cold::Cold;
use crate::emulated::Emulated;
use emulator::Options;
use sslmem::device::signature::{self, Signature};
use sslmem::device::{Capabilities, Device, GpuDevice};
use sslmem::init::Init;
use sslmem::ops::conv::Filter;
use sslmem::ops::linear::{Dense, Epilogue};
use sslmem::ops::{ALL, Case};
use sslmem::program::Program;
use sslmem::random::{Purpose, Stream};
use sslmem::tape::{Mode, Operands, Scope, Tape};
use sslmem::var::{Dtype, Var};
use sslmem::weights::Weights;
use std::rc::Rc;

/// Numbers in [-1, 1) that bf16 holds exactly, so that both types start alike.
pub fn noise(stream: u32, n: usize) -> Vec<f32> {
    let mut s = Stream::new(11, Purpose::Statistics, 0, stream, 0);
    (0..n).map(|_| f32::from_bits(s.range(-1.0, 1.0).to_bits() & 0xFFFF_0000)).collect()
}

/// Largest and root-mean-square distance of `got` from `wanted`, relative to the largest and the root mean square of `wanted`.
pub fn distance(wanted: &[f32], got: &[f32]) -> (f64, f64) {
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |m: f64, v| if v.is_nan() { f64::INFINITY } else { m.max(v) });
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = || wanted.iter().zip(got).map(|(a, b)| (*a as f64 - *b as f64).abs());
    let size = || wanted.iter().map(|a| a.abs() as f64);
    let scale = largest(&mut size()).max(1e-30);
    (largest(&mut difference()) / scale, norm(&mut difference()) / norm(&mut size()).max(1e-30))
}

/// What one call may differ by: f32 by the order of a sum and Winograd's rounding, bf16 by the rounding of its result and of the weights.
pub fn close(dtype: Dtype, wanted: &[f32], got: &[f32]) -> bool {
    let (largest, norm) = distance(wanted, got);
    match dtype {
        Dtype::Bf16 => largest <= 1.0 / 128.0 && norm <= 1.0 / 256.0,
        _ => largest <= 2e-5 && norm <= 1e-5,
    }
}

/// A case recorded for a device, with everything kept, and its inputs and gradients filled. `seeded`: every gradient that the op makes
/// holds something already, so that it must add.
pub fn record(case: &Case, seeded: bool, device: Device) -> Program {
    let mut tape = Tape::new(case.mode);
    let mut filled = vec![];
    for (i, dims) in case.inputs.iter().enumerate() {
        let x = tape.fixed(*dims, Dtype::Activation);
        tape.require_grad(x);
        filled.push((x, i as u32));
    }
    let inputs: Vec<Var> = filled.iter().map(|(x, _)| *x).collect();
    let y = (case.build)(&mut tape.root().at("op"), &inputs);
    if case.mode == Mode::Train {
        let weights = tape.below("op").into_iter().map(|(_, v)| v);
        let targets: Vec<Var> = if seeded { inputs.iter().copied().chain(weights).collect() } else { vec![] };
        for (i, x) in targets.into_iter().chain([y]).enumerate() {
            let gradient = tape.fixed_like(x);
            tape.seed(x, gradient);
            filled.push((gradient, 100 + i as u32));
        }
        tape.reverse();
    }
    tape.keep_all();
    let shapes: Vec<usize> = filled.iter().map(|(v, _)| tape.shape(*v).len()).collect();
    let mut program = tape.compile(&mut Weights::on(device, 5)).unwrap();
    for ((v, stream), n) in filled.into_iter().zip(shapes) {
        program.write(v, &noise(stream, n)).unwrap();
    }
    program
}

/// Run `gpu` call by call; before each one the CPU gets what the GPU has. Returns every result of the GPU, or what went wrong.
pub fn compare(name: &str, cpu: &mut Program, gpu: &mut Program, dtype: Dtype) -> std::result::Result<Vec<Vec<f32>>, String> {
    let mut results = vec![];
    for (i, (call, Operands { reads, writes })) in cpu.calls().into_iter().enumerate() {
        let both = |v: &&Var| cpu.holds(**v) && gpu.holds(**v);
        let (reads, writes): (Vec<Var>, Vec<Var>) =
            (reads.iter().filter(both).copied().collect(), writes.iter().filter(both).copied().collect());
        for v in reads.into_iter().chain(writes.iter().copied()) {
            cpu.write(v, &gpu.read::<f32>(v).unwrap()).unwrap();
        }
        cpu.run_call(i).unwrap();
        gpu.run_call(i).map_err(|e| format!("{name}: {e}"))?;
        for v in writes {
            let (wanted, got): (Vec<f32>, Vec<f32>) = (cpu.read(v).unwrap(), gpu.read(v).unwrap());
            let (largest, norm) = distance(&wanted, &got);
            if !close(dtype, &wanted, &got) {
                return Err(format!("{name}, {dtype:?}: {call} is off by {largest:.1e} of the largest value, {norm:.1e} in norm ({v:?})"));
            }
            results.push(got);
        }
    }
    Ok(results)
}

/// A case, and whether its gradients hold something to add to.
#[derive(Clone, Copy)]
pub struct Chosen {
    case: &'static Case,
    pub seeded: bool,
}

impl Chosen {
    pub fn name(&self) -> String {
        format!("{}{}", self.case.name, if self.seeded { " (adding)" } else { "" })
    }
    pub fn record(&self, device: Device) -> Program {
        record(self.case, self.seeded, device)
    }
    /// On a device against the CPU: every result of the device, or what is wrong.
    pub fn agrees(&self, gpu: Rc<dyn GpuDevice>) -> Result<Vec<Vec<f32>>, String> {
        let dtype = gpu.dtype();
        compare(&self.name(), &mut self.record(Device::Cpu), &mut self.record(Device::Gpu(gpu)), dtype)
    }
}

/// The variable that chooses the cases whose names begin with it: `SSLMEM_CASE=conv,linear`.
const CASE: &str = "SSLMEM_CASE";

/// No cases of certain ops are asked for.
pub fn every_op() -> bool {
    std::env::var(CASE).is_err()
}

/// Every case of these ops (all, if none is named), plain and, where there is a backward, with gradients to add to.
pub fn chosen(ops: &'static [&'static str]) -> impl Iterator<Item = Chosen> {
    let chosen = std::env::var(CASE).unwrap_or_default();
    let cases = ALL.iter().copied().flatten().filter(move |case| chosen.split(',').any(|prefix| case.name.starts_with(prefix)));
    let cases = cases.filter(|case| ops.is_empty() || ops.iter().any(|op| case.name.starts_with(op)));
    let both = cases.flat_map(|case| [false, true].map(|seeded| Chosen { case, seeded }));
    both.filter(|chosen| !chosen.seeded || chosen.case.mode == Mode::Train)
}

/// Every schedule of the emulator must give the CPU's results, and all of them the same bits.
fn on_the_emulator(make: impl Fn(Options) -> Rc<Emulated>, ops: &'static [&'static str]) {
    let mut first: Vec<Vec<u32>> = vec![];
    for schedule in Options::schedules() {
        let gpu = make(schedule);
        for (at, case) in chosen(ops).enumerate() {
            let results = case.agrees(gpu.clone()).unwrap_or_else(|e| panic!("{e}"));
            let bits: Vec<u32> = results.iter().flatten().map(|v| v.to_bits()).collect();
            if at == first.len() {
                first.push(bits);
            } else {
                assert!(first[at] == bits, "{}, {:?}: the bits depend on the schedule", case.name(), gpu.dtype());
            }
        }
    }
}

#[test]
fn f32_kernels_equal_the_cpu_under_every_schedule() {
    if crate::emulated::missing() {
        return;
    }
    on_the_emulator(|options| Emulated::new(Dtype::F32, options), &[]);
}

#[test]
fn bf16_kernels_equal_the_cpu_under_every_schedule() {
    if crate::emulated::missing() {
        return;
    }
    on_the_emulator(|options| Emulated::new(Dtype::Bf16, options), &[]);
}

#[test]
fn kernels_for_hopper_equal_the_cpu_under_every_schedule() {
    if crate::emulated::missing() {
        return;
    }
    on_the_emulator(Emulated::hopper, &["linear/", "conv/"]);
}

/// Cards take the widest tiles for many rows only, which no case has: here they are taken wherever they can be.
#[test]
fn the_widest_tiles_equal_the_cpu_under_every_schedule() {
    if crate::emulated::missing() {
        return;
    }
    let wide = |wgmma| move |own| Capabilities { wgmma, wide: 0, deep: 0, ..own };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        on_the_emulator(|options| Emulated::choosing(dtype, options, wide(false)), &["linear/", "conv/"]);
    }
    on_the_emulator(|options| Emulated::choosing(Dtype::Bf16, options, wide(true)), &["linear/", "conv/"]);
}

#[test]
fn kernels_that_fetch_by_tma_equal_the_cpu_under_every_schedule() {
    if crate::emulated::missing() {
        return;
    }
    on_the_emulator(Emulated::tma, &["linear/", "conv/wide"]);
}

/// More tiles than blocks of the emulated card, more steps than slots, and edges that fill no tile, in both widths and every epilogue.
const FETCHED: &[Case] = &[
    Case { name: "fetched/mlp", mode: Mode::Train, inputs: &[&[300, 456], &[300, 456]], build: |s, x| mlp(s, x, [504, 456]) },
    Case { name: "fetched/narrow_mlp", mode: Mode::Train, inputs: &[&[130, 72], &[130, 80]], build: |s, x| mlp(s, x, [104, 80]) },
    Case { name: "fetched/linear", mode: Mode::Train, inputs: &[&[300, 200]], build: |s, x| s.at("fc").linear(x[0], 136, true) },
    Case {
        name: "fetched/gelu",
        mode: Mode::Eval,
        inputs: &[&[130, 264]],
        build: |s, x| {
            let h = s.at("fc1").dense(x[0], &dense(504, Epilogue::Gelu));
            let h = s.at("fc2").linear(h, 504, false);
            s.at("fc3").dense(h, &dense(72, Epilogue::Gelu))
        },
    },
    Case {
        name: "fetched/relu",
        mode: Mode::Eval,
        inputs: &[&[3, 9, 7, 72], &[3, 9, 7, 256], &[3, 9, 7, 80]],
        build: |s, x| {
            let h = s.conv_norm(["a", "b"], x[0], pixel(512), None, true);
            let h = s.conv_norm(["c", "d"], h, pixel(256), Some(x[1]), true);
            let h = s.conv_norm(["e", "f"], h, pixel(80), None, true);
            s.conv_norm(["g", "h"], h, pixel(80), Some(x[2]), true)
        },
    },
];

fn mlp(s: &mut Scope, x: &[Var], [wide, narrow]: [usize; 2]) -> Var {
    let h = s.at("fc1").dense(x[0], &dense(wide, Epilogue::Gelu));
    s.at("fc2").dense(h, &dense(narrow, Epilogue::Add(x[1])))
}

fn dense(outputs: usize, epilogue: Epilogue) -> Dense {
    Dense { outputs, bias: true, weight: Init::Normal(0.1), shape: None, epilogue }
}

fn pixel(outputs: usize) -> Filter {
    Filter::same(outputs, 1, 1)
}

#[test]
fn products_by_tma_have_the_bits_of_those_by_copies() {
    if crate::emulated::missing() {
        return;
    }
    let mut launched = std::collections::BTreeSet::new();
    for case in FETCHED {
        for seeded in [false, true].into_iter().filter(|seeded| !seeded || case.mode == Mode::Train) {
            let mut run = |gpu: Rc<Emulated>| {
                let mut program = record(case, seeded, Device::Gpu(gpu.clone()));
                let results = compare(case.name, &mut record(case, seeded, Device::Cpu), &mut program, Dtype::Bf16);
                launched.extend(gpu.take_counts().into_iter().map(|launch| launch.kernel));
                let results = results.unwrap_or_else(|e| panic!("{e}"));
                results.iter().flatten().map(|v| v.to_bits()).collect::<Vec<u32>>()
            };
            let copied = run(Emulated::hopper(Options::default()));
            for (s, options) in Options::schedules().into_iter().enumerate() {
                let options = Options { counts: s == 0, ..options };
                assert!(run(Emulated::tma(options)) == copied, "{}: other bits, {options:?}", case.name);
            }
        }
    }
    let ours = signature::table().unwrap().values().filter(|s| s.file == "linear_hopper.cu").map(|s| s.kernel);
    let missed: Vec<&str> = ours.filter(|kernel| !launched.contains(*kernel)).collect();
    assert!(missed.is_empty(), "no case launches {missed:?}");
}

/// Whatever a card may choose has run here: each kernel is launched by a case under some choice of products, or by the tests that are named.
#[test]
fn every_kernel_is_launched_on_the_emulator() {
    if crate::emulated::missing() {
        return;
    }
    // By conformance.rs, augment.rs and update.rs beside this file, and train/gpu.rs; by products_by_tma_have_the_bits_of_those_by_copies.
    const NO_OPS: [&str; 3] = ["conformance_", "measure_", "optimize_"];
    const BY_NAME: [&str; 3] = ["augment", "ema", "log_step"];
    let options = Options { race: false, ..Options::default() };
    let wide = |wgmma| move |own| Capabilities { wgmma, wide: 0, deep: 0, ..own };
    let devices = [
        (Emulated::new(Dtype::Bf16, options), &[][..]),
        (Emulated::choosing(Dtype::Bf16, options, wide(false)), &["linear/", "conv/"]),
        (Emulated::choosing(Dtype::Bf16, options, wide(true)), &["linear/", "conv/"]),
        (Emulated::hopper(options), &["linear/", "conv/"]),
        (Emulated::tma(options), &["linear/", "conv/"]),
    ];
    let mut launched = std::collections::BTreeSet::new();
    for (device, ops) in devices {
        let gpu = Rc::new(Cold::new(device, 1 << 12).unwrap());
        for case in chosen(ops) {
            case.record(Device::Gpu(gpu.clone())).run().unwrap();
        }
        launched.extend(gpu.take_launched());
    }
    let elsewhere = |s: &Signature| {
        NO_OPS.iter().any(|prefix| s.kernel.starts_with(prefix)) || BY_NAME.contains(&s.kernel) || s.file == "linear_hopper.cu"
    };
    let all = signature::table().unwrap().values().filter(|s| !elsewhere(s)).map(|s| s.kernel);
    let missed: Vec<&str> = all.filter(|kernel| !launched.contains(kernel)).collect();
    assert!(missed.is_empty(), "no case launches {missed:?}");
}
