//! Each planted bug and what is said about it.

use crate::right::all;
use crate::support::{matmul, reduce, tile};
use emulator::{Arrivals, Options};

/// The bug is found in every schedule, by one of these messages.
fn found(run: impl Fn(Options) -> Result<f64, String>, messages: &[&str]) {
    for options in all() {
        match run(options) {
            Ok(distance) => panic!("not found, distance {distance}, with {options:?}"),
            Err(e) => assert!(messages.iter().any(|m| e.contains(m)), "{e}"),
        }
    }
}

/// Nothing is wrong but the numbers.
fn wrong(run: impl Fn(Options) -> Result<f64, String>, late_only: bool) {
    for options in all() {
        let distance = run(options).unwrap_or_else(|e| panic!("{e}"));
        let expected = !late_only || options.arrivals != Arrivals::Early;
        assert_eq!(distance > 1e-3, expected, "distance {distance} with {options:?}");
    }
}

const RAGGED: [usize; 3] = [70, 66, 136];
const RING: [usize; 3] = [130, 72, 520];

#[test]
fn missing_syncthreads() {
    let messages = ["load: race on 4 bytes of shared memory (part+", "uninitialised shared memory (part+"];
    found(|o| reduce(o, "reduce_sum__BUG_MISSING_SYNC", 5003), &messages);
}

#[test]
fn read_out_of_bounds() {
    found(|o| reduce(o, "reduce_sum__BUG_OOB_READ", 5003), &["0 bytes past the end of the allocation"]);
}

#[test]
fn write_out_of_bounds() {
    found(|o| matmul(o, "gemm_mma_64__BUG_OOB_WRITE", RAGGED), &["bytes past the end of the allocation"]);
}

#[test]
fn shuffle_in_divergent_code() {
    found(|o| reduce(o, "reduce_sum__BUG_DIVERGENT", 5003), &["threads 0-19 wait in __shfl_sync (mask ffffffff) at reduce.cu:"]);
}

#[test]
fn misaligned_vector() {
    found(|o| reduce(o, "reduce_sum__BUG_ALIGN", 5003), &["misaligned access to 0x"]);
}

#[test]
fn index_past_a_register_array() {
    found(|o| matmul(o, "gemm_mma_64__BUG_INDEX", RAGGED), &["index 4 out of bounds of an array at gemm_mma.cu:"]);
}

#[test]
fn wrong_fragment() {
    wrong(|o| matmul(o, "gemm_mma_64__BUG_FRAGMENT", RAGGED), false);
}

#[test]
fn wait_for_the_wrong_group() {
    found(|o| matmul(o, "gemm_mma_64__BUG_WAIT", RAGGED), &["ldmatrix: race on 16 bytes", "cp.async: race on 16 bytes"]);
}

#[test]
fn missing_trailing_syncthreads() {
    found(|o| matmul(o, "gemm_mma_64__BUG_WAR", RAGGED), &["cp.async: race on 16 bytes", "ldmatrix: race on 16 bytes"]);
}

#[test]
fn overlapping_tiles() {
    found(|o| matmul(o, "gemm_mma_64__BUG_TILE", RAGGED), &["race in global memory: write of 8 bytes that block ("]);
}

#[test]
fn no_wait_for_an_empty_slot() {
    let messages = ["more arrivals than its count", "deadlock in block", "TMA load: race on"];
    found(|o| matmul(o, "gemm_wgmma_128__BUG_EMPTY", RING), &messages);
}

#[test]
fn wrong_number_of_bytes_expected() {
    let messages = ["is not ordered after the write by a TMA load on mbarrier", "deadlock in block", "TMA load: race on"];
    found(|o| matmul(o, "gemm_wgmma_128__BUG_TX", RING), &messages);
}

#[test]
fn wrong_stride_in_a_descriptor() {
    wrong(|o| matmul(o, "gemm_wgmma_128__BUG_DESC", RING), false);
}

#[test]
fn slot_freed_before_it_was_read() {
    found(
        |o| matmul(o, "gemm_wgmma_128__BUG_WGWAIT", RING),
        &["is not ordered after the read by a wgmma of warpgroup", "wgmma at gemm_wgmma.cu"],
    );
}

#[test]
fn no_proxy_fence() {
    found(|o| tile(o, "wgmma_st_k__BUG_FENCE"), &["without a fence.proxy.async after them"]);
}

#[test]
fn no_proxy_fence_before_a_store() {
    found(|o| tile(o, "var_128_k__BUG_STORE_FENCE"), &["TMA store at wgmma_var.cu:", "without a fence.proxy.async after them"]);
}

#[test]
fn accumulators_read_too_early() {
    wrong(|o| tile(o, "wgmma_st_k__BUG_READ_EARLY"), true);
}
