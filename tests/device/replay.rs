//! A program's replay, one graph, against its calls launched one by one.

use crate::around::{Around, Fill};
use crate::emulated::Emulated;
use crate::kernels::{self, Chosen};
use emulator::Options;
use sslmem::device::{Device, GpuDevice};
use sslmem::program::Program;
use sslmem::var::Dtype;
use std::rc::Rc;

/// The bits of everything that a program's calls may write.
fn bits(program: &Program) -> Vec<u32> {
    let vars = program.calls().into_iter().flat_map(|(_, operands)| operands.writes);
    vars.filter(|v| program.holds(*v)).flat_map(|v| program.read::<f32>(v).unwrap()).map(f32::to_bits).collect()
}

/// Five runs, of which the last four are one graph, leave the same bits as each call launched five times: statistics that run on and
/// gradients that are added to show a call that a replay would leave out or do twice. A call may leave a part of what it names as written
/// alone (the lengths that only a backward's other path needs): what neither program has changed is not compared.
pub fn equals(case: &Chosen, gpu: Rc<dyn GpuDevice>) -> Result<(), String> {
    let make = || case.record(Device::Gpu(gpu.clone()));
    let (mut plain, mut replayed) = (make(), make());
    let before = [bits(&plain), bits(&replayed)];
    for _ in 0..5 {
        (0..plain.calls().len()).try_for_each(|i| plain.run_call(i)).map_err(|e| e.to_string())?;
        replayed.run().map_err(|e| e.to_string())?;
    }
    let after = [bits(&plain), bits(&replayed)];
    let written = |i: usize| after[0][i] != before[0][i] || after[1][i] != before[1][i];
    let wrong: Vec<usize> = (0..after[0].len()).filter(|&i| written(i) && after[0][i] != after[1][i]).collect();
    match wrong.first() {
        Some(first) => {
            Err(format!("a replay is not the plain run: {} of {} values differ, the first at {first}", wrong.len(), after[0].len()))
        }
        None => Ok(()),
    }
}

/// The emulator makes graphs as a driver does: of the launches and their arguments at that time.
#[test]
fn replays_on_the_emulator_equal_plain_runs() {
    if crate::emulated::missing() {
        return;
    }
    let mut failed = vec![];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let gpu: Rc<dyn GpuDevice> = Around::new(Emulated::new(dtype, Options { race: false, ..Options::default() }), Fill::Alternating);
        for case in kernels::chosen(&[]).filter(|case| case.seeded) {
            failed.extend(equals(&case, gpu.clone()).err().map(|why| format!("{}, {dtype:?}: {why}", case.name())));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn nothing_is_allocated_from_the_first_run_to_the_last() {
    if crate::emulated::missing() {
        return;
    }
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let gpu = Around::new(Emulated::new(dtype, Options { race: false, ..Options::default() }), Fill::Nothing);
        for case in kernels::chosen(&["linear/", "attention/", "alignment/", "nt_xent/"]) {
            let mut program = case.record(Device::Gpu(gpu.clone()));
            let before = gpu.allocated.get();
            assert!(before > 0, "{} asks for no memory", case.name());
            (0..3).for_each(|_| program.run().unwrap());
            assert_eq!(gpu.allocated.get(), before, "{} asks for memory while it runs", case.name());
        }
    }
}
