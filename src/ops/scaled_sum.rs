//! The last step of a loss on a GPU: the sum of its parts. Not an op.

use crate::device::{Arg, Gpu, Launch};
use crate::var::Var;

/// y `[1]` = the sum of the first `count` of `values`, times `scale`.
pub(crate) fn launch(g: &Gpu, y: Var, values: Arg, count: usize, scale: f32) {
    let launch = Launch { kernel: "scaled_sum", grid: [1; 3], block: [1024, 1, 1], shared: 0 };
    g.launch(&launch, &[y.into(), values, count.into(), Arg::F32(scale)]);
}
