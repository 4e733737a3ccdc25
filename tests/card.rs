//! The kernels on a card: what the emulator checks, and what only a card has, graphs. Without one the tests say so and pass;
//! with SSLMEM_REQUIRE_CUDA=1 they fail.

use crate::{augment_gpu, conformance, curves, kernels, kernels_update};
use sslmem::device::{Device, Queue, cuda};
use sslmem::ops::ALL;
use sslmem::program::Program;
use sslmem::tape::Mode;
use sslmem::var::Dtype;
use std::rc::Rc;

/// The first card, or nothing where none is required.
fn card(real: Dtype) -> Option<Rc<dyn Queue>> {
    match cuda::open(0, real) {
        Ok(queue) => Some(queue),
        Err(error) => {
            assert!(std::env::var("SSLMEM_REQUIRE_CUDA").is_err(), "SSLMEM_REQUIRE_CUDA is set: {error}");
            println!("skipped: no CUDA ({error})");
            None
        }
    }
}

fn cases(real: Dtype) {
    if let Some(queue) = card(real) {
        let mut count = 0;
        kernels::all_cases(queue.clone(), &[], |_, _| count += 1);
        println!("{count} cases agree with the CPU");
        let device = Device::Gpu(queue);
        [24, 32, 96].into_iter().for_each(|size| augment_gpu::agrees(size, device.clone(), real));
        kernels_update::every_rule(&device);
    }
}

#[test]
fn cases_f32() {
    cases(Dtype::F32);
}

#[test]
fn cases_bf16() {
    cases(Dtype::Bf16);
}

#[test]
fn conformance_of_ptx() {
    if let Some(queue) = card(Dtype::Bf16) {
        conformance::all(&*queue);
    }
}

/// The bits of everything that a program's calls wrote.
fn written(program: &Program) -> Vec<u32> {
    let vars = program.calls().into_iter().flat_map(|(_, operands)| operands.writes);
    vars.filter(|v| program.holds(*v)).flat_map(|v| program.read::<f32>(v).unwrap()).map(f32::to_bits).collect()
}

/// Five runs, of which the last four are one graph, leave the same bits as each call launched five times: statistics that run on and
/// gradients that are added to show a call that a replay would leave out or do twice.
#[test]
fn replays_equal_plain_runs() {
    for real in [Dtype::F32, Dtype::Bf16] {
        let Some(queue) = card(real) else { return };
        for case in ALL.iter().copied().flatten() {
            let make = || kernels::record(case, true, Device::Gpu(queue.clone()));
            let (mut plain, mut replayed) = (make(), make());
            for _ in 0..5 {
                (0..plain.calls().len()).for_each(|i| plain.run_call(i).unwrap());
                replayed.run().unwrap();
            }
            assert!(written(&plain) == written(&replayed), "{}, {real:?}: a replay is not the plain run", case.name);
        }
    }
}

/// On a Hopper card: blocks that stay and fetch by TMA, launched one by one and as a graph, leave the bits of those that copy.
#[test]
fn products_by_tma_have_the_bits_of_those_by_copies() {
    let Some(queue) = card(Dtype::Bf16).filter(|queue| queue.hopper()) else { return };
    for (case, seeded) in kernels::FETCHED.iter().chain(kernels::FETCHED_BY_A_CARD).flat_map(|case| [(case, false), (case, true)]) {
        if seeded && case.mode == Mode::Eval {
            continue;
        }
        let [copied, fetched] = [false, true].map(|tma| {
            let queue = Rc::new(kernels::Fetching { inner: queue.clone(), tma });
            let mut program = kernels::record(case, seeded, Device::Gpu(queue));
            (0..3).for_each(|_| program.run().unwrap());
            written(&program)
        });
        let differ = copied.iter().zip(&fetched).filter(|(a, b)| a != b).count();
        assert!(differ == 0, "{}: {differ} of {} bits of numbers differ", case.name, copied.len());
        println!("{}: {} numbers have the same bits", case.name, copied.len());
    }
}

#[test]
fn training_follows_the_cpu() {
    for real in [Dtype::F32, Dtype::Bf16] {
        if let Some(queue) = card(real) {
            curves::follow(queue, curves::CARD);
        }
    }
}
