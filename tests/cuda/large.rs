//! Products of real sizes on a card: the kernels for Hopper beside the portable ones and, for the last few samples, beside the CPU; the
//! same bits each time. Small cases never fill a pipeline, a multiprocessor or a second group of tiles.

use super::survive::Check;
use crate::around::{Around, Fill};
use crate::emulated::Emulated;
use crate::kernels::{close, distance, record};
use emulator::Options;
use sslmem::device::{Capabilities, Device, GpuDevice};
use sslmem::init::Init;
use sslmem::ops::Case;
use sslmem::ops::conv::Filter;
use sslmem::ops::linear::{Dense, Epilogue};
use sslmem::program::Program;
use sslmem::tape::{Mode, Scope};
use sslmem::var::{Dtype, Var};
use std::rc::Rc;

/// A case for all samples, and for the last few of them.
pub struct Large {
    all: Case,
    few: Case,
}

type Shapes = &'static [&'static [usize]];

const fn large(name: &'static str, all: Shapes, few: Shapes, build: fn(&mut Scope, &[Var]) -> Var) -> Large {
    let mode = Mode::Train;
    Large { all: Case { name, mode, inputs: all, build }, few: Case { name, mode, inputs: few, build } }
}

fn dense(s: &mut Scope, x: Var, outputs: usize, epilogue: Epilogue) -> Var {
    s.at("fc").dense(x, &Dense { outputs, bias: true, weight: Init::Normal(0.03), shape: None, epilogue })
}

fn conv(s: &mut Scope, x: Var, outputs: usize, kernel: usize, stride: usize) -> Var {
    s.conv_norm(["conv", "bn"], x, Filter::same(outputs, kernel, stride), None, true)
}

/// Layers of ViT-B/16 and ResNet-50: blocks enough for every multiprocessor to have several, little enough to be read back quickly.
pub static ALL: &[Large] = &[
    large("fc1", &[&[16, 197, 768]], &[&[1, 197, 768]], |s, x| dense(s, x[0], 3072, Epilogue::Gelu)),
    large("fc2", &[&[16, 197, 3072], &[16, 197, 768]], &[&[1, 197, 3072], &[1, 197, 768]], |s, x| dense(s, x[0], 768, Epilogue::Add(x[1]))),
    // Several tiles for each of 132 blocks, edges that fill none, and hundreds of steps.
    large("6500x1544x4104", &[&[65, 100, 1544]], &[&[1, 100, 1544]], |s, x| dense(s, x[0], 4104, Epilogue::Gelu)),
    large("1000x16392x1032", &[&[10, 100, 16392]], &[&[1, 100, 16392]], |s, x| dense(s, x[0], 1032, Epilogue::Nothing)),
    large("3x3 256-256", &[&[64, 14, 14, 256]], &[&[2, 14, 14, 256]], |s, x| conv(s, x[0], 256, 3, 1)),
    large("3x3 128-128, stride 2", &[&[16, 56, 56, 128]], &[&[1, 56, 56, 128]], |s, x| conv(s, x[0], 128, 3, 2)),
    large("1x1 64-256", &[&[16, 56, 56, 64]], &[&[1, 56, 56, 64]], |s, x| conv(s, x[0], 256, 1, 1)),
    large("1x1 256-64", &[&[16, 56, 56, 256]], &[&[1, 56, 56, 256]], |s, x| conv(s, x[0], 64, 1, 1)),
    large("7x7 3-64, stride 2", &[&[16, 224, 224, 3]], &[&[1, 224, 224, 3]], |s, x| conv(s, x[0], 64, 7, 2)),
    large("3x3 3-64", &[&[128, 32, 32, 3]], &[&[2, 32, 32, 3]], |s, x| conv(s, x[0], 64, 3, 1)),
];

/// To try the checks themselves on the emulator.
pub static SMALL: &[Large] = &[
    large("fc", &[&[6, 50, 72], &[6, 50, 264]], &[&[1, 50, 72], &[1, 50, 264]], |s, x| dense(s, x[0], 264, Epilogue::Add(x[1]))),
    large("conv", &[&[6, 7, 6, 72]], &[&[1, 7, 6, 72]], |s, x| conv(s, x[0], 264, 3, 2)),
];

/// The calls that multiply: number, and what they read and write on this device.
fn products(program: &Program) -> Vec<(usize, Vec<Var>, Vec<Var>)> {
    let calls = program
        .calls()
        .into_iter()
        .enumerate()
        .filter(|(_, (name, _))| ["linear_fwd", "linear_bwd", "linear_bwd_w", "conv_fwd", "conv_bwd", "conv_bwd_w"].contains(name));
    let here = |vars: Vec<Var>| vars.into_iter().filter(|v| program.holds(*v)).collect();
    calls.map(|(i, (_, o))| (i, here(o.reads), here(o.writes))).collect()
}

/// What the products write, after a run of everything.
fn results(program: &mut Program) -> Result<Vec<Vec<f32>>, String> {
    program.run().map_err(|e| e.to_string())?;
    let written = products(program).into_iter().flat_map(|(_, _, writes)| writes);
    written.map(|v| program.read::<f32>(v).map_err(|e| e.to_string())).collect()
}

fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    a.iter().flatten().map(|v| v.to_bits()).eq(b.iter().flatten().map(|v| v.to_bits()))
}

/// The kernels of a device for all samples, call by call, against the CPU's for the last few: what is of samples is compared.
fn like_the_cpu(large: &Large, gpu: &Program) -> Result<(), String> {
    let mut cpu = record(&large.few, false, Device::Cpu);
    let samples = |case: &Case| case.inputs[0][0];
    let mut compared = 0;
    // The same call stands at the same place in both recordings, and its variables have the same numbers.
    for (i, reads, writes) in products(&cpu) {
        let tail = |v: Var, few: usize| {
            let values = gpu.read::<f32>(v).map_err(|e| e.to_string())?;
            let scaled = values.len() * samples(&large.few) == few * samples(&large.all);
            Ok::<_, String>((scaled || values.len() == few).then(|| (scaled, values[values.len() - few..].to_vec())))
        };
        for &v in reads.iter().filter(|v| gpu.holds(**v)) {
            let few = cpu.read::<f32>(v).unwrap().len();
            if let Some((_, values)) = tail(v, few)? {
                cpu.write(v, &values).unwrap();
            }
        }
        cpu.run_call(i).unwrap();
        for &v in writes.iter().filter(|v| gpu.holds(**v)) {
            let wanted = cpu.read::<f32>(v).unwrap();
            let Some((true, got)) = tail(v, wanted.len())? else { continue };
            compared += 1;
            if !close(Dtype::Bf16, &wanted, &got) {
                let (largest, norm) = distance(&wanted, &got);
                return Err(format!("{} is off the CPU by {largest:.1e} of the largest value, {norm:.1e} in norm", cpu.calls()[i].0));
            }
        }
    }
    if compared > 0 { Ok(()) } else { Err("no result of the CPU's was of the same samples".into()) }
}

/// What a card can choose among, by name; those of one sort add in the same order.
fn variants(own: Capabilities) -> Vec<(&'static str, Capabilities)> {
    let with = |wgmma, tma, wide| Capabilities { wgmma, tma, wide, deep: wide, ..own };
    let all = [
        ("Hopper kernels, by TMA", with(true, true, usize::MAX)),
        ("Hopper kernels, narrow tiles", with(true, false, usize::MAX)),
        ("Hopper kernels, wide tiles", with(true, false, 0)),
        ("portable kernels, narrow tiles", with(false, false, usize::MAX)),
        ("portable kernels, wide tiles", with(false, false, 0)),
    ];
    all.into_iter().filter(|(_, chosen)| own.wgmma || !chosen.wgmma).collect()
}

/// Each layer by all kernels that a card can choose among.
pub fn checks<'a>(gpu: &'a Rc<dyn GpuDevice>, layers: &'a [Large]) -> impl Iterator<Item = Check<'a>> {
    layers.iter().map(|large| {
        let gpu = gpu.clone();
        Check::new(large.all.name, move || {
            let mut first: Option<Vec<Vec<f32>>> = None;
            for (which, chosen) in variants(gpu.capabilities()) {
                let mut program = record(&large.all, false, Device::Gpu(Around::choosing(gpu.clone(), Fill::Ones, chosen)));
                let got = results(&mut program).map_err(|why| format!("{which}: {why}"))?;
                for _ in 1..5 {
                    if !same_bits(&got, &results(&mut program)?) {
                        return Err(format!("{which}: the bits differ from run to run"));
                    }
                }
                like_the_cpu(large, &program).map_err(|why| format!("{which}: {why}"))?;
                // Statistics of a tile are added in an order that depends on its width.
                let plain = large.all.inputs[0].len() == 3 && chosen.wgmma;
                if plain && first.as_ref().is_some_and(|first| !same_bits(first, &got)) {
                    return Err(format!("{which} leave other bits than the first, in the same order of products"));
                }
                if let Some((a, b)) = first.iter().flatten().zip(&got).find(|(a, b)| !close(Dtype::Bf16, a, b)) {
                    let (largest, norm) = distance(a, b);
                    return Err(format!("{which} are off the first by {largest:.1e} of the largest value, {norm:.1e} in norm"));
                }
                first.get_or_insert(got);
            }
            Ok(())
        })
    })
}

#[test]
fn products_of_several_tiles_agree_on_the_emulator_and_a_wrong_one_is_seen() {
    if crate::emulated::missing() {
        return;
    }
    let on = |bug| -> Rc<dyn GpuDevice> { Emulated::hopper(Options { bug, ..Options::default() }) };
    for check in checks(&on(None), SMALL) {
        (check.run)().unwrap_or_else(|why| panic!("{}: {why}", check.name));
    }
    // A gradient of weights, which is of all samples: seen beside the portable kernels.
    let gpu = on(Some("swizzle_of_another_row"));
    let wrong = (checks(&gpu, SMALL).next().unwrap().run)().unwrap_err();
    assert!(wrong.starts_with("portable kernels, narrow tiles are off the first by"), "{wrong}");
}
