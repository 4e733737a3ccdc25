//! The GPU launches that convolutions and linear layers share: `conv.cu`, `conv_bwd_w.cu` and their Hopper versions. Not an op.
//!
//! A linear layer is a convolution of maps of one pixel, so one set of kernels serves both. `docs/kernels.md` explains them.

use super::choose::{self, EpilogueKind, TILE};
use super::stem;
use crate::device::conv::{Activation, Conv};
use crate::device::{Arg, Gpu, Launch, Matrix, by_value};
use crate::tape::{Grad, Tape};
use crate::var::{Dtype, Var};

/// The epilogue, fused so that the result crosses memory once: y = activation(product + shift + residual + old y if `add`).
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue {
    /// The activation's argument, which its gradient needs; like y.
    pub pre_activation: Option<Var>,
    pub moments: Option<Var>,  // [tiles, 2, outputs] f32: mean and sum of squared deviations of each tile's rows
    pub shift: Option<Var>,    // [outputs] f32: a bias, or a folded norm
    pub residual: Option<Var>, // like y
    pub add: bool,
    pub activation: Activation,
}

by_value! {
    /// The geometry of one launch: `Gather` in `conv.cuh`. Pixel (i, j) of the result reads a window of x and is written to one pixel of y.
    struct Gather {
        batch: usize,
        height: usize, // x [batch, height, width, channels]
        width: usize,
        channels: usize,
        outputs: usize, // w [outputs, taps_h, taps_w, channels]
        taps_h: usize,  // the window, pixels
        taps_w: usize,
        stride: usize, // the window of pixel (i, j) begins at (i stride + from_h, j stride + from_w) of x
        from_h: i32,   // negative: padding
        from_w: i32,
        out_h: usize, // pixels per image that this launch computes
        out_w: usize,
        map_h: usize, // y [batch, map_h, map_w, outputs]
        map_w: usize,
        out_stride: usize, // pixel (i, j) is written to (i out_stride + at_h, j out_stride + at_w) of y
        at_h: usize,
        at_w: usize,
    }
}

by_value! {
    /// [`Epilogue`] with its result, as kernels take it: `EpilogueParams` in `conv.cuh`.
    struct EpilogueParams {
        y: Var,                      // [batch, map_h, map_w, outputs]
        pre_activation: Option<Var>, // like y
        moments: Option<Var>,        // [tiles, 2, outputs] f32
        shift: Option<Var>,          // [outputs] f32
        residual: Option<Var>,       // like y
        add: bool,
        activation: usize,
    }
}

impl Gather {
    fn product(&self) -> choose::Product {
        let Gather { batch, height, width, channels, outputs, taps_h, taps_w, out_h, out_w, .. } = *self;
        // Each window is its own pixel: a product of two plain matrices, which TMA can copy.
        let one = [taps_h, taps_w, self.stride, self.out_stride] == [1; 4]
            && [self.from_h, self.from_w] == [0; 2]
            && [self.at_h, self.at_w] == [0; 2];
        let plain = one && [out_h, out_w] == [height, width] && [self.map_h, self.map_w] == [out_h, out_w];
        choose::Product { rows: batch * out_h * out_w, outputs, channels, taps: taps_h * taps_w, plain }
    }

    fn launch(&self, g: &Gpu, y: Var, x: Var, w: Var, first_weight: usize, to: &Epilogue) {
        // `conv.cuh` compiles three epilogues. The one with statistics does nothing else, the one with GELU adds nothing.
        let adds = to.residual.is_some() || to.add;
        let alone = !adds && to.shift.is_none() && to.pre_activation.is_none() && to.activation == Activation::Nothing;
        assert!(to.moments.is_none() || alone, "statistics are made of a product that nothing follows");
        assert!(to.activation != Activation::Gelu || !adds, "GELU follows a product to which nothing is added");
        let product = self.product();
        if product.rows == 0 {
            return;
        }
        let (on, dtype) = (g.capabilities(), g.dtype());
        // The TMA kernels add at most one tensor and make no statistics.
        if to.moments.is_none() && !(to.residual.is_some() && to.add) {
            let kind = EpilogueKind { activation: to.activation, adds, keeps: to.pre_activation.is_some() };
            if let Some((launch, columns)) = choose::by_tma(&on, dtype, &product, kind) {
                let (rows, outputs, depth) = (product.rows, product.outputs, product.channels);
                let map = |v, first, rows, high| Arg::Map(v, first, Matrix { rows, columns: depth, high });
                let more = to.residual.or(to.add.then_some(y));
                let out = [y.into(), to.pre_activation.into(), map(x, 0, rows, TILE), map(w, first_weight, outputs, columns)];
                let rest = [to.shift.into(), more.into(), rows.into(), depth.into(), outputs.into()];
                return g.launch(&launch, &[&out[..], &rest].concat());
            }
        }
        let Epilogue { pre_activation, moments, shift, residual, add, activation } = *to;
        let to = EpilogueParams { y, pre_activation, moments, shift, residual, add, activation: activation as usize };
        let launch = choose::product(&on, dtype, &product);
        g.launch(&launch, &[to.into(), x.into(), Arg::Element(w, first_weight), (*self).into()]);
    }
}

/// y `[batch, out_h, out_w, outputs]` = epilogue(conv(x)), with the weights as [`super::packs`] packs them for the forward.
pub(crate) fn forward(g: &Gpu, c: &Conv, y: Var, x: Var, packed: Var, to: &Epilogue) {
    if stem::forward(g, c, y, x, packed, to) {
        return;
    }
    let (out_h, out_w, from) = (c.out_height(), c.out_width(), -(c.pad as i32));
    let gather = Gather {
        batch: c.batch,
        height: c.height,
        width: c.width,
        channels: c.channels,
        outputs: c.outputs,
        taps_h: c.kernel,
        taps_w: c.kernel,
        stride: c.stride,
        from_h: from,
        from_w: from,
        out_h,
        out_w,
        map_h: out_h,
        map_w: out_w,
        out_stride: 1,
        at_h: 0,
        at_w: 0,
    };
    gather.launch(g, y, x, packed, 0, to);
}

/// The gradient of x: a convolution of dy with reversed taps. A stride of s takes s² launches, one per residue of the pixel, because each
/// residue is reached by other taps. This way no tap is multiplied by the zeros that a stride puts between pixels.
pub(crate) fn backward_data(g: &Gpu, c: &Conv, dx: Grad, dy: Var, packed: Var) {
    let taps = |residue: usize| (c.kernel + c.stride - 1 - residue) / c.stride;
    let before = |residue: usize| (0..residue).map(taps).sum::<usize>();
    for residue in 0..c.stride * c.stride {
        let [ri, rj] = [residue / c.stride, residue % c.stride];
        let count = [taps(ri), taps(rj)];
        if dx.add && count.contains(&0) {
            continue;
        }
        // These taps reach the pixels with (pixel + pad) % stride = residue.
        let at = [ri, rj].map(|r| (r + c.stride * c.pad - c.pad) % c.stride);
        let start = [0, 1].map(|k| ((at[k] + c.pad) / c.stride) as i32 - (count[k] as i32 - 1));
        let out =
            [(c.height, at[0]), (c.width, at[1])].map(|(extent, at)| (extent + c.stride - 1 - at.min(extent + c.stride - 1)) / c.stride);
        let gather = Gather {
            batch: c.batch,
            height: c.out_height(),
            width: c.out_width(),
            channels: c.outputs,
            outputs: c.channels,
            taps_h: count[0],
            taps_w: count[1],
            stride: 1,
            from_h: start[0],
            from_w: start[1],
            out_h: out[0],
            out_w: out[1],
            map_h: c.height,
            map_w: c.width,
            out_stride: c.stride,
            at_h: at[0],
            at_w: at[1],
        };
        let first = (before(ri) * c.kernel + count[0] * before(rj)) * c.channels * c.outputs;
        gather.launch(g, dx.var, dy, packed, first, &Epilogue { add: dx.add, ..Epilogue::default() });
    }
}

/// Scratch `[parts, outputs * kernel * kernel * channels]` for [`backward_weight`], large enough for either of its kernels.
pub(crate) fn partial_sums(t: &mut Tape, c: &Conv) -> Var {
    t.scratch([choose::parts(c).max(choose::stem_parts(c)), c.weight_len()], Dtype::F32)
}

by_value! {
    /// A convolution and the sizes of its maps: `Window` in `conv_bwd_w.cuh`.
    struct Window {
        batch: usize,
        height: usize,
        width: usize,
        channels: usize,
        outputs: usize,
        taps: usize,
        stride: usize,
        pad: usize,
        out_h: usize,
        out_w: usize,
    }
}

/// The gradient of the weights by split-K: partial sums to `partial` [parts, outputs, kernel, kernel, channels], then their sum in order.
pub(crate) fn backward_weight(g: &Gpu, c: &Conv, dw: Grad, dy: Var, x: Var, partial: Var) {
    if stem::backward_weight(g, c, dw, dy, x, partial) {
        return;
    }
    let size = Window {
        batch: c.batch,
        height: c.height,
        width: c.width,
        channels: c.channels,
        outputs: c.outputs,
        taps: c.kernel,
        stride: c.stride,
        pad: c.pad,
        out_h: c.out_height(),
        out_w: c.out_width(),
    };
    let launch = choose::weights(&g.capabilities(), g.dtype(), c);
    g.launch(&launch, &[partial.into(), dy.into(), x.into(), size.into(), choose::pixels_per_split(c).into()]);

    let (taps, parts) = (c.kernel * c.kernel, choose::parts(c));
    let run = c.channels.min(128);
    let grid = [c.outputs as u32, c.channels.div_ceil(run) as u32, 1];
    let launch = Launch { kernel: "conv_bwd_w_sum", grid, block: [256, 1, 1], shared: (4 * taps * run) as u32 };
    let sizes = [parts, c.outputs, c.channels, taps, run].map(Arg::from);
    g.launch(&launch, &[&[dw.var.into(), partial.into(), dw.add.into()][..], &sizes].concat());
}
