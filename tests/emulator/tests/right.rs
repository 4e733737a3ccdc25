//! Kernels without a bug: right results, no alarm.

use crate::support::{matmul, reduce, tile};
use emulator::{Arrivals, Options, Order};

/// Every order with every arrival.
pub fn all() -> Vec<Options> {
    let mut all = vec![];
    for order in [Order::InOrder, Order::Reverse, Order::Random] {
        for arrivals in [Arrivals::Early, Arrivals::Late, Arrivals::Random] {
            all.push(Options { order, arrivals, seed: 5, ..Options::default() });
        }
    }
    all
}

fn check(tolerance: f64, run: impl Fn(Options) -> Result<f64, String>) {
    for options in all() {
        let distance = run(options).unwrap_or_else(|e| panic!("{e}"));
        assert!(distance < tolerance, "distance {distance} with {options:?}");
    }
}

#[test]
fn sums() {
    for n in [1, 3, 4, 1023, 5003] {
        check(1e-4, |o| reduce(o, "reduce_sum", n));
    }
}

#[test]
fn mma() {
    for kernel in ["gemm_mma_64", "gemm_mma_128"] {
        for size in [[64, 64, 64], [70, 66, 40], [1, 2, 8]] {
            check(1e-5, |o| matmul(o, kernel, size));
        }
    }
}

#[test]
fn wgmma() {
    for size in [[128, 128, 64], [130, 72, 200], [1, 2, 8], [128, 128, 640]] {
        check(5e-5, |o| matmul(o, "gemm_wgmma_128", size));
    }
}

#[test]
fn wgmma_descriptors_and_swizzles() {
    let plain = ["wgmma_st_k", "wgmma_st_mn"];
    let swizzled = ["var_128_k", "var_64_k", "var_32_k", "var_128_mn", "var_64_mn", "var_32_mn", "var_128_k_rs", "var_64_mn_rs"];
    for kernel in plain.into_iter().chain(swizzled) {
        check(1e-5, |o| tile(o, kernel));
    }
}
