//! What a network is made of. One op per file: its method of `Scope`, its meaning on the CPU, its gradient
//! and the cases that check it. [`ALL`] is the table that feeds every check.

mod add;
pub mod alignment;
pub mod attention;
pub mod augment;
pub mod average;
pub mod batch_norm;
pub mod choose;
pub mod conv;
pub mod cosine;
pub mod cross_entropy;
mod decorrelation;
pub mod dino_loss;
pub mod distance;
pub mod drop_path;
mod gelu;
pub mod interpolate;
pub mod layer_norm;
pub mod linear;
pub mod mae_loss;
pub mod mask;
pub mod nt_xent;
pub mod optimize;
mod packs;
pub mod pool;
mod product;
pub mod relu;
mod shortcut;
pub mod spread;
pub mod stack;
mod stem;
pub mod step;
mod sums;
mod tokens;
mod tokens_mean;
mod total;
mod unit;
mod weight_norm;
pub mod weighted_sum;

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
    nt_xent::CASES,
    nt_xent::INFO_NCE,
    conv::CASES,
    cosine::CASES,
    cross_entropy::CASES,
    distance::CASES,
    dino_loss::CASES,
    drop_path::CASES,
    gelu::CASES,
    interpolate::CASES,
    layer_norm::CASES,
    linear::CASES,
    mask::CASES,
    pool::CASES,
    mae_loss::CASES,
    decorrelation::BARLOW_TWINS,
    decorrelation::VICREG,
    relu::CASES,
    shortcut::CASES,
    spread::CASES,
    stack::CASES,
    tokens::patches::CASES,
    tokens::restore::CASES,
    tokens::sequence::CASES,
    tokens_mean::CASES,
    unit::CASES,
    weight_norm::CASES,
    weighted_sum::CASES,
];

/// Values of a chunk of elementwise work: about 64 KB.
pub(crate) const CHUNK: usize = 16384;

/// Rows per chunk of a reduction over rows: about 64 KB. A function of the width alone, so that a sum never
/// depends on how many threads there are.
pub(crate) fn chunk_rows(cols: usize) -> usize {
    (16384 / cols).max(1)
}
