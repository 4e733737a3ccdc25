//! The kernels on a card: the emulator's checks, and checks that need a card. Without one the tests say so and pass; with
//! SSLMEM_REQUIRE_CUDA=1 they fail. With SSLMEM_EMULATE=1 the emulator stands in for the card, to try the tests themselves.

use super::large;
use super::survive::{self, Check};
use crate::around::{Around, Fill};
use crate::device::replay;
use crate::emulated::Emulated;
use crate::kernels::{self, augment, conformance, update};
use crate::train::curves;
use emulator::Options;
use sslmem::device::{Capabilities, Device, GpuDevice, cuda};
use sslmem::var::Dtype;
use std::rc::Rc;

/// The emulator stands in for the card.
fn emulated() -> bool {
    std::env::var("SSLMEM_EMULATE").is_ok()
}

/// The first card, with the products that it chooses, or nothing where none is required.
fn card(dtype: Dtype) -> Option<Rc<dyn GpuDevice>> {
    if emulated() {
        let wgmma = dtype == Dtype::Bf16 && std::env::var(cuda::PORTABLE).is_err();
        // A bug of planted.txt, to see it found.
        let bug = std::env::var("SSLMEM_BUG").ok().map(|bug| &*bug.leak());
        return Some(Emulated::choosing(dtype, Options { bug, ..Options::default() }, |own| Capabilities { wgmma, ..own }));
    }
    match cuda::open(0, dtype) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            assert!(std::env::var("SSLMEM_REQUIRE_CUDA").is_err(), "SSLMEM_REQUIRE_CUDA is set: {error}");
            println!("skipped: no CUDA ({error})");
            None
        }
    }
}

/// The card, its memory poisoned.
fn poisoned(dtype: Dtype) -> Option<Rc<dyn GpuDevice>> {
    Some(Around::new(card(dtype)?, Fill::Ones))
}

/// Every case by the kernels that the card chooses, and products also by those that it takes for other shapes only.
fn cases(test: &'static str, dtype: Dtype) {
    let Some(gpu) = poisoned(dtype) else { return };
    let one = |case: kernels::Chosen, gpu: &Rc<dyn GpuDevice>| {
        let gpu = gpu.clone();
        move || case.agrees(gpu).map(|_| ())
    };
    let mut checks: Vec<Check> = kernels::chosen(&[]).map(|case| Check::new(case.name(), one(case, &gpu))).collect();
    let own = gpu.capabilities();
    let by_tma = own.wgmma.then_some(("by TMA", Capabilities { tma: true, ..own }));
    for (which, chosen) in by_tma.into_iter().chain([("widest tiles", Capabilities { wide: 0, deep: 0, ..own })]) {
        let gpu: Rc<dyn GpuDevice> = Around::choosing(gpu.clone(), Fill::Ones, chosen);
        checks.extend(kernels::chosen(&["linear/", "conv/"]).map(|case| Check::new(format!("{}, {which}", case.name()), one(case, &gpu))));
    }
    if kernels::every_op() {
        let device = Device::Gpu(gpu.clone());
        for size in [24, 32, 96] {
            let device = device.clone();
            checks.push(Check::new(format!("augment/{size}"), move || {
                augment::agrees(size, device, dtype);
                Ok(())
            }));
        }
        checks.push(Check::new("optimize", move || {
            update::every_rule(&device);
            Ok(())
        }));
    }
    survive::all(test, &gpu, checks);
}

#[test]
fn cases_f32() {
    cases("cuda::card::cases_f32", Dtype::F32);
}

#[test]
fn cases_bf16() {
    cases("cuda::card::cases_bf16", Dtype::Bf16);
}

#[test]
fn conformance_of_ptx() {
    let Some(gpu) = poisoned(Dtype::Bf16) else { return };
    let checks = conformance::all(gpu.capabilities().wgmma).into_iter().map(|(name, check)| {
        let gpu = gpu.clone();
        Check::new(name, move || {
            check(&*gpu);
            Ok(())
        })
    });
    survive::all("cuda::card::conformance_of_ptx", &gpu, checks.collect());
}

/// Products of real sizes, where every multiprocessor has several blocks and pipelines run full.
#[test]
fn large_products() {
    let Some(gpu) = card(Dtype::Bf16) else { return };
    // The emulator takes minutes for what a card does at once.
    let layers = if emulated() { large::SMALL } else { large::ALL };
    survive::all("cuda::card::large_products", &gpu, large::checks(&gpu, layers).collect());
}

#[test]
fn replays_equal_plain_runs() {
    let queues: Vec<Rc<dyn GpuDevice>> =
        [Dtype::F32, Dtype::Bf16].into_iter().filter_map(card).map(|gpu| Around::new(gpu, Fill::Alternating) as _).collect();
    let Some(first) = queues.first() else { return };
    let all = queues.iter().flat_map(|gpu| kernels::chosen(&[]).filter(|case| case.seeded).map(move |case| (case, gpu.clone())));
    let checks = all.map(|(case, gpu)| Check::new(format!("{}, {:?}", case.name(), gpu.dtype()), move || replay::equals(&case, gpu)));
    survive::all("cuda::card::replays_equal_plain_runs", first, checks.collect());
}

#[test]
fn training_follows_the_cpu() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        if let Some(gpu) = poisoned(dtype) {
            curves::follow(gpu, if emulated() { curves::EMULATOR } else { curves::CARD });
        }
    }
}
