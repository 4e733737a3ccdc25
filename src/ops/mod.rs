//! What a network is made of. One op per file: its method of `Scope`, its meaning on the CPU, its gradient
//! and the cases that check it. [`ALL`] is the table that feeds every check.

pub mod alignment;
pub mod attention;
pub mod augment;

pub mod batch_norm;
pub mod contrast;
pub mod conv;
pub mod linear;
pub mod optimize;
pub mod pool;
mod product;
pub mod relu;
pub mod spread;
pub mod step;

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
    attention::CASES,
    batch_norm::CASES,
    contrast::CASES,
    conv::CASES,
    linear::CASES,
    pool::CASES,
    relu::CASES,
    spread::CASES,
];

/// Rows per chunk of a reduction over rows: about 64 KB. A function of the width alone, so that a sum never
/// depends on how many threads there are.
pub(crate) fn chunk_rows(cols: usize) -> usize {
    (16384 / cols).max(1)
}
