//! The ops that networks are made of. One op per file: its method of [`Scope`], its meaning on the CPU, its gradient
//! and the cases that check it. [`ALL`] is the table that feeds every check.
//!
//! Every method of `Scope` or `Tape` here records one op. Shapes are in row-major order, channels last; `rows` is the product of all
//! extents but the last, `cols` the last. Wrong shapes are faults of the code that records a network, so they panic; the message begins
//! with the scope's path. `*.cu` are files of `kernels/`.

mod add;
pub mod alignment;
pub mod attention;
pub mod augment;
pub mod batch_norm;
pub mod choose;
pub mod concat_rows;
pub mod conv;
pub mod cosine;
pub mod cross_entropy;
mod decorrelation;
pub mod dino_loss;
pub mod distance;
pub mod drop_path;
pub mod ema;
pub mod feature_std;
mod gelu;
pub mod interpolate;
mod l2_normalize;
pub mod layer_norm;
pub mod linear;
pub mod log_step;
pub mod mae_loss;
pub mod mask;
pub mod nt_xent;
pub mod optimize;
mod packs;
pub mod pool;
mod product;
mod reduce;
pub mod relu;
mod scaled_sum;
mod shortcut;
mod stem;
mod tokens;
mod tokens_mean;
mod weight_norm;
pub mod weighted_sum;

use crate::tape::{Mode, Scope};
use crate::var::Var;

/// One worked example of an op, which the checks iterate over. Inputs are f32, uniform in -1 to 1.
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
    concat_rows::CASES,
    conv::CASES,
    cosine::CASES,
    cross_entropy::CASES,
    decorrelation::BARLOW_TWINS,
    decorrelation::VICREG,
    dino_loss::CASES,
    distance::CASES,
    drop_path::CASES,
    feature_std::CASES,
    gelu::CASES,
    interpolate::CASES,
    l2_normalize::CASES,
    layer_norm::CASES,
    linear::CASES,
    mae_loss::CASES,
    mask::CASES,
    nt_xent::CASES,
    nt_xent::INFO_NCE,
    pool::CASES,
    relu::CASES,
    shortcut::CASES,
    tokens::patches::CASES,
    tokens::sequence::CASES,
    tokens::unmask::CASES,
    tokens_mean::CASES,
    weight_norm::CASES,
    weighted_sum::CASES,
];

/// Values per task of elementwise work on the CPU: 64 KiB.
pub(crate) const CHUNK: usize = 16384;

/// Rows per chunk of a reduction over rows, about 64 KiB. It depends on the width alone, so a sum does not depend on the number of
/// threads.
pub(crate) fn chunk_rows(cols: usize) -> usize {
    (16384 / cols).max(1)
}
