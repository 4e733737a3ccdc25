//! The emulator's counts for each kernel, with bounds: bytes against the floor, sectors per request of global memory, passes over the banks
//! of shared memory, matrix instructions against the operations of the op. The counts are exact, so a change of a kernel that costs
//! bandwidth fails here, on a machine without a GPU. `cargo test --release counts -- --nocapture` prints the tables.

use crate::emulated::Emulated;
use crate::kernels::record;
use emulator::{Access, LaunchCounts, Options};
use sslmem::device::Device;
use sslmem::ops::Case;
use sslmem::ops::alignment::Pairs;
use sslmem::ops::conv::Filter;
use sslmem::tape::Mode;
use sslmem::var::Dtype;
use std::rc::Rc;

/// Shapes that fill the tiles, in bf16.
const CASES: &[Case] = &[
    Case { name: "linear 256 x 128 to 512", mode: Mode::Train, inputs: &[&[256, 128]], build: |s, x| s.linear(x[0], 512, false) },
    Case {
        name: "conv 3x3, 64 to 64, 2 x 16 x 16",
        mode: Mode::Train,
        inputs: &[&[2, 16, 16, 64]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(64, 3, 1), None, true),
    },
    Case {
        name: "conv 3x3 stride 2, 64 to 128, 2 x 16 x 16",
        mode: Mode::Train,
        inputs: &[&[2, 16, 16, 64]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(128, 3, 2), None, true),
    },
    Case {
        name: "conv 1x1 folded, 64 to 256 with residual, 2 x 8 x 8",
        mode: Mode::Eval,
        inputs: &[&[2, 8, 8, 64], &[2, 8, 8, 256]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(256, 1, 1), Some(x[1]), true),
    },
    Case {
        name: "stem 7x7, 3 to 64, 2 x 32 x 32",
        mode: Mode::Train,
        inputs: &[&[2, 32, 32, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(64, 7, 2), None, true),
    },
    Case {
        name: "stem 3x3, 3 to 64, 2 x 16 x 32",
        mode: Mode::Train,
        inputs: &[&[2, 16, 32, 3]],
        build: |s, x| s.conv_norm(["conv", "bn"], x[0], Filter::same(64, 3, 1), None, true),
    },
    Case { name: "nt_xent 128 x 128", mode: Mode::Train, inputs: &[&[128, 128]], build: |s, x| s.nt_xent(x[0], 0.5) },
    Case {
        name: "alignment 8 samples, 5 views, 512",
        mode: Mode::Eval,
        inputs: &[&[40, 512]],
        build: |s, x| s.alignment(x[0], 5, Pairs::All),
    },
];

pub fn counted(case: &Case) -> Vec<LaunchCounts> {
    counted_on(Emulated::new(Dtype::Bf16, Options { counts: true, ..Options::default() }), case)
}

/// With the kernels for Hopper.
fn on_hopper(case: &Case) -> Vec<LaunchCounts> {
    counted_on(Emulated::hopper(Options { counts: true, ..Options::default() }), case)
}

fn counted_on(gpu: Rc<Emulated>, case: &Case) -> Vec<LaunchCounts> {
    record(case, false, Device::Gpu(gpu.clone())).run().unwrap();
    gpu.take_counts()
}

fn case(name: &str) -> &'static Case {
    CASES.iter().find(|c| c.name.starts_with(name)).unwrap()
}

/// Places of a kind that take more passes than they must, by over a hundredth of what all of that kind take together. (Statistics go out
/// three numbers at a time, once per tile, which is below that.)
pub fn wasteful(launch: &LaunchCounts, kinds: &[Access]) -> Vec<String> {
    let all: u64 = launch.sites.iter().filter(|s| kinds.contains(&s.access)).map(|s| s.passes).sum();
    let chosen = launch.sites.iter().filter(|s| kinds.contains(&s.access) && 100 * (s.passes - s.ideal) > all);
    chosen.map(|s| format!("{} {}: {} passes, {} would do", launch.kernel, s.place, s.passes, s.ideal)).collect()
}

#[test]
fn tables_of_all_shapes() {
    if crate::emulated::missing() {
        return;
    }
    for case in CASES {
        println!("\n== {}", case.name);
        for launch in counted(case) {
            println!("{launch}");
        }
    }
}

/// Neighbourhoods are gathered again for every tap, but from the same bytes: a forward product touches each input, weight, shift and
/// residual once and writes its result and the statistics of its tiles, nothing more.
#[test]
fn forward_products_touch_the_bytes_of_their_floor() {
    if crate::emulated::missing() {
        return;
    }
    let (t, f) = (2, 4); // bytes of bf16 and f32
    let expected = [
        ("linear", t * (256 * 128 + 512 * 128), t * 256 * 512),
        ("conv 3x3, 64", t * (512 * 64 + 9 * 64 * 64), t * 512 * 64 + f * 4 * 2 * 64),
        ("conv 3x3 stride 2", t * (512 * 64 + 9 * 64 * 128), t * 128 * 128 + f * 2 * 128),
        ("conv 1x1 folded", t * (128 * 64 + 64 * 256 + 128 * 256) + f * 256, t * 128 * 256),
        ("stem 7x7", t * (2048 * 3 + 147 * 64), t * 512 * 64 + f * 4 * 2 * 64),
        ("stem 3x3", t * (1024 * 3 + 27 * 64), t * 1024 * 64 + f * 8 * 2 * 64),
    ];
    for (name, read, written) in expected {
        for launches in [counted(case(name)), on_hopper(case(name))] {
            let forward = launches.iter().find(|l| l.kernel.starts_with("conv_")).unwrap();
            assert_eq!((forward.unique_read, forward.unique_written), (read, written), "{name}: {forward}");
        }
    }
}

#[test]
fn products_read_fragments_without_bank_conflicts_and_memory_in_whole_sectors() {
    if crate::emulated::missing() {
        return;
    }
    let names = ["linear", "conv 3x3, 64", "conv 3x3 stride 2", "conv 1x1 folded"];
    for (name, launches) in names.map(|name| [(name, counted(case(name))), (name, on_hopper(case(name)))]).into_iter().flatten() {
        let products: Vec<_> = launches.iter().filter(|l| l.kernel.starts_with("conv_") && l.kernel != "conv_bwd_w_sum").collect();
        assert!(products.len() >= if name == "conv 1x1 folded" { 1 } else { 3 }, "{name}");
        for launch in products {
            let shared = [Access::CopyTo, Access::Ldmatrix, Access::SharedLoad, Access::SharedStore];
            for kinds in [&shared[..], &[Access::CopyFrom, Access::GlobalStore]] {
                let wasted = wasteful(launch, kinds);
                assert!(wasted.is_empty(), "{name}: {wasted:#?}");
            }
        }
    }
}

/// The first convolution of a network and the gradient of its weights: K of 147 taps is 176 and 160, of 27 it is 32. What a block does once,
/// weights into registers and sums out of them, is left out.
#[test]
fn images_are_read_without_bank_conflicts_and_multiplied_with_few_zeros() {
    if crate::emulated::missing() {
        return;
    }
    for (name, pixels, depth) in [("stem 7x7", 512, [176, 160]), ("stem 3x3", 1024, [32, 32])] {
        let launches = counted(case(name));
        let products: Vec<_> = launches.iter().filter(|l| l.kernel.starts_with("conv_stem") && l.mma > 0).collect();
        assert_eq!(products.len(), 2, "{name}");
        for (launch, depth) in products.into_iter().zip(depth) {
            let steady = [Access::CopyFrom, Access::CopyTo, Access::Ldmatrix, Access::SharedLoad, Access::GlobalStore];
            for site in launch.sites.iter().filter(|s| s.size > 2 && steady.contains(&s.access)) {
                assert_eq!(site.passes, site.ideal, "{name}: {} {}", launch.kernel, site.place);
            }
            assert_eq!(launch.mma_flops, 2 * 64 * pixels * depth, "{name}: {launch}");
        }
    }
}

#[test]
fn matrix_instructions_do_the_operations_of_the_op_and_no_more() {
    if crate::emulated::missing() {
        return;
    }
    let launches = counted(case("linear"));
    let flops: Vec<(&str, u64)> = launches.iter().filter(|l| l.mma > 0).map(|l| (&l.kernel[..], l.mma_flops)).collect();
    let one = 2 * 256 * 128 * 512;
    assert_eq!(flops, [("conv_128x128", one), ("conv_128x128", one), ("conv_bwd_w_128x128", one)]);
    let launches = on_hopper(case("linear"));
    let flops: Vec<(&str, u64)> = launches.iter().filter(|l| l.mma > 0).map(|l| (&l.kernel[..], l.mma_flops)).collect();
    assert_eq!(flops, [("conv_hopper", one), ("conv_hopper", one), ("conv_bwd_w_hopper", one)]);
    // Each parity of the pixel has the taps that reach it: none is multiplied by a zero that a stride puts in.
    let launches = counted(case("conv 3x3 stride 2"));
    let data: u64 = launches.iter().filter(|l| l.kernel == "conv_128x64").map(|l| l.mma_flops).sum();
    assert_eq!(data, 2 * 2 * 8 * 8 * 9 * 64 * 128);
}
