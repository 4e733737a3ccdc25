//! Bugs planted in our own kernels, one of each kind (`tests/emulator/planted.txt`): the emulator must catch each and name its kind.

use crate::emulated::Emulated;
use crate::kernels::{compare, record};
use emulator::Options;
use sslmem::device::Device;
use sslmem::ops::ALL;
use sslmem::var::Dtype;

/// The bug, a case that launches its kernel, whether gradients hold something already, and what the message must say.
const CAUGHT: &[(&str, &str, bool, &str)] = &[
    ("waits_for_too_little", "linear/no_bias", false, "race"),
    ("no_barrier_between_steps", "linear/no_bias", false, "race"),
    ("no_barrier_of_the_warp", "nt_xent/cold", false, "race"),
    ("fragment_of_other_rows", "nt_xent/cold", false, "is off by"),
    ("writes_past_the_end", "linear/ragged", false, "out of bounds"),
    ("reads_past_the_end", "nt_xent/cold", false, "out of bounds"),
    ("misaligned", "linear/no_bias", false, "misaligned"),
    ("barrier_in_a_branch", "linear/ragged", false, "wait"),
    ("shared_memory_never_written", "linear/ragged", false, "uninitialised"),
    ("loss_never_written", "nt_xent/cold", false, "hold no value"),
    ("blocks_overlap", "linear/ragged", false, "block"),
    ("outside_the_register_array", "linear/ragged", false, "index"),
    ("overwrites_a_gradient", "nt_xent/cold", true, "is off by"),
    ("writes_its_input", "nt_xent/cold", false, "const"),
    ("copies_unfenced", "linear/wide", false, "fence.proxy.async"),
    ("products_not_waited_for", "linear/wide", false, "is off by"),
    ("swizzle_of_another_row", "linear/wide", false, "is off by"),
    ("tma_slot_freed_too_early", "linear/wide", false, "race"),
];

#[test]
fn every_planted_bug_is_caught_for_what_it_is() {
    if crate::emulated::missing() {
        return;
    }
    let mut missed = vec![];
    for &(bug, name, seeded, says) in CAUGHT {
        let case = ALL.iter().copied().flatten().find(|c| c.name == name).unwrap();
        let options = Options { bug: Some(bug), ..Options::default() };
        let gpu = if bug.starts_with("tma_") { Emulated::tma(options) } else { Emulated::hopper(options) };
        let run = compare(name, &mut record(case, seeded, Device::Cpu), &mut record(case, seeded, Device::Gpu(gpu)), Dtype::Bf16);
        match run {
            Ok(_) => missed.push(format!("{bug}: nothing was seen")),
            Err(message) if message.contains(says) => println!("{bug}: {message}"),
            Err(message) => missed.push(format!("{bug}: not `{says}` but {message}")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
