//! The kernels on a card: what the emulator checks, and what only a card has. Without one the tests say so and pass; with
//! SSLMEM_REQUIRE_CUDA=1 they fail, with SSLMEM_EMULATE=1 the emulator stands in for the card, to try the tests themselves.

use super::large;
use super::survive::{self, Check};
use crate::around::{Around, Fill};
use crate::device::replay;
use crate::emulated::Emulated;
use crate::kernels::{self, augment, conformance, update};
use crate::train::curves;
use emulator::Options;
use sslmem::device::{Capabilities, Device, Queue, cuda};
use sslmem::var::Dtype;
use std::rc::Rc;

/// The emulator stands in for the card.
fn emulated() -> bool {
    std::env::var("SSLMEM_EMULATE").is_ok()
}

/// The first card, with the products that it chooses, or nothing where none is required.
fn card(real: Dtype) -> Option<Rc<dyn Queue>> {
    if emulated() {
        let wgmma = real == Dtype::Bf16 && std::env::var(cuda::PORTABLE).is_err();
        // A bug of planted.txt, to see it found.
        let bug = std::env::var("SSLMEM_BUG").ok().map(|bug| &*bug.leak());
        return Some(Emulated::choosing(real, Options { bug, ..Options::default() }, |own| Capabilities { wgmma, ..own }));
    }
    match cuda::open(0, real) {
        Ok(queue) => Some(queue),
        Err(error) => {
            assert!(std::env::var("SSLMEM_REQUIRE_CUDA").is_err(), "SSLMEM_REQUIRE_CUDA is set: {error}");
            println!("skipped: no CUDA ({error})");
            None
        }
    }
}

/// The card, its memory poisoned.
fn poisoned(real: Dtype) -> Option<Rc<dyn Queue>> {
    Some(Around::new(card(real)?, Fill::Ones))
}

/// Every case by the kernels that the card chooses, and products also by those that it takes for other shapes only.
fn cases(test: &'static str, real: Dtype) {
    let Some(queue) = poisoned(real) else { return };
    let one = |case: kernels::Chosen, queue: &Rc<dyn Queue>| {
        let queue = queue.clone();
        move || case.agrees(queue).map(|_| ())
    };
    let mut checks: Vec<Check> = kernels::chosen(&[]).map(|case| Check::new(case.name(), one(case, &queue))).collect();
    let own = queue.capabilities();
    let by_tma = own.wgmma.then_some(("by TMA", Capabilities { tma: true, ..own }));
    for (which, chosen) in by_tma.into_iter().chain([("widest tiles", Capabilities { wide: 0, deep: 0, ..own })]) {
        let queue: Rc<dyn Queue> = Around::choosing(queue.clone(), Fill::Ones, chosen);
        checks
            .extend(kernels::chosen(&["linear/", "conv/"]).map(|case| Check::new(format!("{}, {which}", case.name()), one(case, &queue))));
    }
    if kernels::every_op() {
        let device = Device::Gpu(queue.clone());
        for size in [24, 32, 96] {
            let device = device.clone();
            checks.push(Check::new(format!("augment/{size}"), move || {
                augment::agrees(size, device, real);
                Ok(())
            }));
        }
        checks.push(Check::new("optimize", move || {
            update::every_rule(&device);
            Ok(())
        }));
    }
    survive::all(test, &queue, checks);
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
    let Some(queue) = poisoned(Dtype::Bf16) else { return };
    let checks = conformance::all(queue.capabilities().wgmma).into_iter().map(|(name, check)| {
        let queue = queue.clone();
        Check::new(name, move || {
            check(&*queue);
            Ok(())
        })
    });
    survive::all("cuda::card::conformance_of_ptx", &queue, checks.collect());
}

/// Products of real sizes, where every multiprocessor has several blocks and pipelines run full.
#[test]
fn large_products() {
    let Some(queue) = card(Dtype::Bf16) else { return };
    // The emulator takes minutes for what a card does at once.
    let layers = if emulated() { large::SMALL } else { large::ALL };
    survive::all("cuda::card::large_products", &queue, large::checks(&queue, layers).collect());
}

#[test]
fn replays_equal_plain_runs() {
    let queues: Vec<Rc<dyn Queue>> =
        [Dtype::F32, Dtype::Bf16].into_iter().filter_map(card).map(|queue| Around::new(queue, Fill::Alternating) as _).collect();
    let Some(first) = queues.first() else { return };
    let all = queues.iter().flat_map(|queue| kernels::chosen(&[]).filter(|case| case.seeded).map(move |case| (case, queue.clone())));
    let checks = all.map(|(case, queue)| Check::new(format!("{}, {:?}", case.name(), queue.real()), move || replay::equals(&case, queue)));
    survive::all("cuda::card::replays_equal_plain_runs", first, checks.collect());
}

#[test]
fn training_follows_the_cpu() {
    for real in [Dtype::F32, Dtype::Bf16] {
        if let Some(queue) = poisoned(real) {
            curves::follow(queue, if emulated() { curves::EMULATOR } else { curves::CARD });
        }
    }
}
