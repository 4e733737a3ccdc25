//! What a network is made of. One op per file: its method of `Scope`, its meaning on the CPU, its gradient
//! and the cases that check it. [`ALL`] is the table that feeds every check.

pub mod alignment;
pub mod augment;
pub mod average;
pub mod batch_norm;
pub mod contrast;
pub mod conv;
pub mod cosine;
pub mod distance;
pub mod distill;
mod exp;
pub mod linear;
pub mod mask;
pub mod optimize;
pub mod pool;
mod product;
pub mod reconstruct;
mod redundancy;
pub mod relu;
pub mod spread;
pub mod step;
mod total;
pub mod weighted_sum;

pub use mask::Chosen;

use crate::tape::{Mode, Scope};
use crate::var::Var;

/// One worked example of an op: what the checks and the benchmarks iterate over. Inputs are f32 in [-1, 1).
pub struct Case {
    pub name: &'static str,
    pub mode: Mode,
    pub inputs: &'static [&'static [usize]],
    pub build: fn(&mut Scope, &[Var]) -> Var,
}

/// Every op's cases.
pub static ALL: &[&[Case]] = &[
    alignment::CASES,
    batch_norm::CASES,
    contrast::CASES,
    contrast::INFO_NCE,
    conv::CASES,
    cosine::CASES,
    distance::CASES,
    distill::CASES,
    linear::CASES,
    pool::CASES,
    reconstruct::CASES,
    redundancy::DECORRELATE,
    redundancy::VARIANCE_COVARIANCE,
    relu::CASES,
    spread::CASES,
    weighted_sum::CASES,
];

/// Values of a slice that a task takes where each stands alone.
pub(crate) const CHUNK: usize = 16384;

/// Rows per chunk of a reduction over rows: about 64 KB. A function of the width alone, so that a sum never
/// depends on how many threads there are.
pub(crate) fn chunk_rows(cols: usize) -> usize {
    (16384 / cols).max(1)
}
