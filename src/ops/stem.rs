//! The launches of `conv_stem.cu` and `conv_stem_bwd_w.cu`: convolutions of images, whose three channels do not fill 16 bytes. Not an op.

use super::product::{Finish, TILE};
use crate::device::conv::{Activation, Conv};
use crate::device::{Arg, Gpu, Launch};
use crate::tape::Grad;
use crate::var::Var;

/// Outputs that a block makes.
const OUTPUTS: usize = 64;
/// Tiles of a block of the forward kernel at most: weights are arranged once for them.
const TILES: usize = 8;

/// A convolution that these kernels make.
struct Stem<'a> {
    c: &'a Conv,
    bytes: usize, // of an activation
}

/// The kernels exist for the first layers of networks, with 7x7 or 3x3 taps.
fn fits(c: &Conv) -> bool {
    let shape = matches!((c.kernel, c.stride), (7, 2) | (3, 1)) && c.pad == c.kernel / 2;
    shape && c.channels == 3 && c.outputs.is_multiple_of(8) && c.out_height() > 1 && c.batch > 0
}

impl Stem<'_> {
    fn of<'a>(g: &Gpu, c: &'a Conv) -> Option<Stem<'a>> {
        fits(c).then(|| Stem { c, bytes: g.real().bytes() })
    }

    /// Bytes before the image in a copied row, and those of a row whose last window, `wide` values, is that of column `last`. `bank`: the bank of
    /// shared memory, of 32, where each row begins after the one before.
    fn pitch(&self, last: usize, wide: usize, bank: usize) -> usize {
        let lead = ((3 * self.c.pad + 1) * self.bytes).next_multiple_of(16);
        let window = (3 * last * self.c.stride + wide) * self.bytes + lead - (3 * self.c.pad) * self.bytes;
        let words = window.max(lead + 3 * self.c.width * self.bytes).div_ceil(4);
        4 * (words + (bank + 32 - words % 32) % 32)
    }

    /// Rows of images that `run` tiles of pixels see at most.
    fn rows(&self, run: usize) -> usize {
        let (c, pixels) = (self.c, self.c.batch * self.c.out_height() * self.c.out_width());
        let lines = (((run * TILE).min(pixels) + c.out_width() - 2) / c.out_width() + 1).min(c.batch * c.out_height());
        let images = (lines - 1).div_ceil(c.out_height()).min(c.batch - 1);
        (lines - 1) * c.stride + c.kernel + images * (c.kernel - c.stride)
    }

    /// Shared memory of a block that makes `run` tiles, as in `conv_stem.cu`.
    fn shared(&self, run: usize, pitch: usize) -> usize {
        self.bytes * OUTPUTS * 3 * self.c.kernel * self.c.kernel + 4 * (OUTPUTS + run * TILE) + self.rows(run) * pitch
    }
}

/// Launches the forward kernel, if there is one for this.
pub(super) fn forward(g: &Gpu, c: &Conv, y: Var, x: Var, packed: Var, to: &Finish) -> bool {
    let Some(stem) = Stem::of(g, c) else { return false };
    let simple = to.before.is_none() && to.residual.is_none() && !to.add && to.activation != Activation::Gelu;
    let (kernel, wide) = if c.kernel == 7 { ("conv_stem_7x7", 24) } else { ("conv_stem_3x3", 10) };
    // Columns that begin at an odd value are told apart by their place in y.
    let even = c.stride > 1 || c.out_width().is_multiple_of(2);
    let pitch = stem.pitch(c.out_width() - 1, wide, 24);
    // Three blocks on a multiprocessor, or what there is room for.
    let fits = |run: usize, room: usize| stem.shared(run, pitch) <= room;
    let run = [TILES, TILES / 2, TILES / 4, 1].into_iter().find(|&run| fits(run, g.shared() / 3));
    let Some(run) = run.or(fits(1, g.shared()).then_some(1)).filter(|_| simple && even) else { return false };
    let tiles = (c.batch * c.out_height() * c.out_width()).div_ceil(TILE);
    let grid = [tiles.div_ceil(run) as u32, c.outputs.div_ceil(OUTPUTS) as u32, 1];
    let launch = Launch { kernel, grid, block: [128, 1, 1], shared: stem.shared(run, pitch) as u32 };
    let mut args: Vec<Arg> = vec![y.into(), to.moments.into(), x.into(), packed.into(), to.shift.into()];
    args.push((to.activation == Activation::Relu).into());
    args.extend([c.batch, c.height, c.width, c.outputs, c.out_height(), c.out_width(), run, pitch].map(Arg::from));
    g.launch(&launch, &args);
    true
}

/// Rows of dy that a block of the gradient of weights sums up, decided by the shape alone: enough blocks for three on every multiprocessor of a
/// large card, none with fewer than 512 pixels or more than 8192.
fn run(c: &Conv) -> usize {
    let at_least = 512usize.div_ceil(c.out_width());
    (c.batch * c.out_height()).div_ceil(396).clamp(at_least, (8192 / c.out_width()).max(at_least))
}

/// Parts of the sum that the kernel leaves; none if there is no kernel for this.
pub(super) fn parts(c: &Conv) -> usize {
    if fits(c) { (c.batch * c.out_height()).div_ceil(run(c)) } else { 0 }
}

/// Launches the gradient of weights through `partial` [parts, outputs, taps, 3], if there is a kernel for this.
pub(super) fn backward_weight(g: &Gpu, c: &Conv, dw: Grad, dy: Var, x: Var, partial: Var) -> bool {
    let Some(stem) = Stem::of(g, c) else { return false };
    // As in `conv_stem_bwd_w.cu`: columns of a step, rows of dy and of x that are kept, values of a window, kinds of columns.
    let (kernel, group, stages, ring, wide, kinds) = match c.kernel {
        7 => ("conv_stem_bwd_w_7x7", 16, 3, 16, 22, 1),
        _ => ("conv_stem_bwd_w_3x3", 32, 8, 32, 10, 2),
    };
    let columns = c.out_width().next_multiple_of(group);
    let pitch = stem.pitch(columns - 1, wide, 20);
    let sums = 4 * kinds * OUTPUTS * 3 * c.kernel * c.kernel;
    let shared = (stages * columns * OUTPUTS * stem.bytes + ring * pitch).max(sums);
    if shared > g.shared() {
        return false;
    }
    let grid = [c.outputs.div_ceil(OUTPUTS) as u32, parts(c) as u32, 1];
    let launch = Launch { kernel, grid, block: [128, 1, 1], shared: shared as u32 };
    let sizes = [c.batch, c.height, c.width, c.outputs, c.out_height(), c.out_width(), run(c), pitch].map(Arg::from);
    g.launch(&launch, &[&[partial.into(), dy.into(), x.into()][..], &sizes].concat());

    let launch = Launch { kernel: "conv_stem_bwd_w_sum", grid: [c.weight_len().div_ceil(32) as u32, 1, 1], block: [1024, 1, 1], shared: 0 };
    let sizes = [parts(c), c.outputs, c.kernel * c.kernel].map(Arg::from);
    g.launch(&launch, &[&[dw.var.into(), partial.into(), dw.add.into()][..], &sizes].concat());
    true
}
