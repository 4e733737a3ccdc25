//! How the parts of a loss become one number, on a GPU and on the CPU. Not an op.

use crate::device::{Arg, Gpu, Launch};
use crate::var::Var;

/// y `[1]` = the sum of the first `count` of `values`, times `scale`.
pub(crate) fn launch(g: &Gpu, y: Var, values: Arg, count: usize, scale: f32) {
    let launch = Launch { kernel: "total", grid: [1; 3], block: [1024, 1, 1], shared: 0 };
    g.launch(&launch, &[y.into(), values, count.into(), Arg::F32(scale)]);
}

/// Sixteen running sums of `len` values, added up in f64: the same bits on every machine.
pub(crate) fn sum(len: usize, value: impl Fn(usize) -> f32) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let whole = len / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += value(at + l);
        }
    }
    (whole..len).for_each(|i| lanes[i - whole] += value(i));
    lanes.iter().map(|v| *v as f64).sum()
}

/// A row of zeros has no direction; like PyTorch's normalize, its length counts as 1e-12.
pub(crate) fn inverse_length(row: &[f32]) -> f32 {
    (1.0 / sum(row.len(), |i| row[i] * row[i]).sqrt().max(1e-12)) as f32
}
