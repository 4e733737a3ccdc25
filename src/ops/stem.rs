//! The launches of `conv_stem.cu` and `conv_stem_bwd_w.cu`. The first convolution needs kernels of its own because three channels do not fill
//! 16 bytes. Not an op.

use super::choose::{self, Stem};
use super::product::Epilogue;
use crate::device::conv::{Activation, Conv};
use crate::device::{Arg, Gpu, Launch};
use crate::tape::Grad;
use crate::var::Var;

/// Launches the forward kernel if one fits shape and epilogue; says whether it did.
pub(super) fn forward(g: &Gpu, c: &Conv, y: Var, x: Var, packed: Var, to: &Epilogue) -> bool {
    let simple = to.pre_activation.is_none() && to.residual.is_none() && !to.add && to.activation != Activation::Gelu;
    let stem = choose::stem(&g.capabilities(), g.dtype(), c).filter(|_| simple);
    let Some(Stem { launch, run, pitch }) = stem else { return false };
    let mut args: Vec<Arg> = vec![y.into(), to.moments.into(), x.into(), packed.into(), to.shift.into()];
    args.push((to.activation == Activation::Relu).into());
    args.extend([c.batch, c.height, c.width, c.outputs, c.out_height(), c.out_width(), run, pitch].map(Arg::from));
    g.launch(&launch, &args);
    true
}

/// Launches the weight gradient through `partial` [parts, outputs, taps, 3] if a kernel fits; says whether it did.
pub(super) fn backward_weight(g: &Gpu, c: &Conv, dw: Grad, dy: Var, x: Var, partial: Var) -> bool {
    let Some(Stem { launch, run, pitch }) = choose::stem_weights(&g.capabilities(), g.dtype(), c) else { return false };
    let sizes = [c.batch, c.height, c.width, c.outputs, c.out_height(), c.out_width(), run, pitch].map(Arg::from);
    g.launch(&launch, &[&[partial.into(), dy.into(), x.into()][..], &sizes].concat());

    let launch = Launch { kernel: "conv_stem_bwd_w_sum", grid: [c.weight_len().div_ceil(32) as u32, 1, 1], block: [1024, 1, 1], shared: 0 };
    let sizes = [choose::stem_parts(c), c.outputs, c.kernel * c.kernel].map(Arg::from);
    g.launch(&launch, &[&[dw.var.into(), partial.into(), dw.add.into()][..], &sizes].concat());
    true
}
