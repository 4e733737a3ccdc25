//! What convolutions and linear layers share on a GPU: the launches of the kernels of `conv.cu`, `conv_bwd_w.cu` and those of both for
//! Hopper. Not an op: a linear layer is a convolution of maps of one pixel.

use super::stem;
use crate::device::conv::{Activation, Conv};
use crate::device::{Arg, Gpu, Launch, Matrix};
use crate::tape::{Grad, Tape};
use crate::var::{Dtype, Var};

/// Rows of a tile of the result: the pixels that one block makes, and that its statistics are of.
pub(crate) const TILE: usize = 128;
/// Shared memory of a block that makes so many rows and columns: as in `product.cuh` and `product_hopper.cuh`.
fn shared(hopper: bool, rows: usize, columns: usize) -> u32 {
    let (row, stages) = match (hopper, columns) {
        (true, 256) => (128, 4),
        (true, _) => (128, 3),
        (false, _) => (64, 4),
    };
    (stages * (rows + columns) * row) as u32
}

/// What happens to a result before it is written.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finish {
    /// What the activation is given, like the result.
    pub before: Option<Var>,
    pub moments: Option<Var>, // [tiles, 2, outputs] f32
    pub shift: Option<Var>,   // [outputs] f32
    pub residual: Option<Var>,
    pub add: bool,
    pub activation: Activation,
}

/// Where the pixels of a result lie in what is gathered and in memory: `Gather` in `conv.cu`.
struct Gather {
    batch: usize,
    from: [usize; 3], // height, width, channels of what is gathered
    outputs: usize,
    taps: [usize; 2],
    step: usize,
    start: [i32; 2],
    out: [usize; 2],
    map: [usize; 2],
    spread: usize,
    at: [usize; 2],
}

impl Gather {
    /// Pixel and neighbourhood are one: a product of two matrices.
    fn is_plain(&self) -> bool {
        let [height, width, _] = self.from;
        let one = self.taps == [1; 2] && self.step == 1 && self.start == [0; 2] && self.spread == 1 && self.at == [0; 2];
        one && self.out == [height, width] && self.map == self.out
    }

    /// Such a product by blocks that stay: `Wide` in `product_tma.cuh`.
    fn launch_by_tma(&self, g: &Gpu, [y, x, w]: [Var; 3], first_weight: usize, to: &Finish, (names, more): WayOut) {
        let (rows, [.., depth], outputs) = (self.batch * self.out[0] * self.out[1], self.from, self.outputs);
        let tiles = |columns: usize| rows.div_ceil(TILE) * outputs.div_ceil(columns);
        let blocks = g.multiprocessors();
        // A tile of half as many columns takes about three fifths of the time, and leaves fewer multiprocessors idle at the end.
        let wide = 5 * tiles(256).div_ceil(blocks) <= 3 * tiles(128).div_ceil(blocks);
        let (columns, stages) = if wide { (256, 4) } else { (128, 6) };
        let shared = stages * (TILE + columns) * 128 + 8 * 4096 + stages * 16;
        let grid = [tiles(columns).min(blocks) as u32, 1, 1];
        let launch = Launch { kernel: names[wide as usize], grid, block: [384, 1, 1], shared: shared as u32 };
        let map = |v, first, rows, high| Arg::Map(v, first, Matrix { rows, columns: depth, high });
        let args = [
            y.into(),
            to.before.into(),
            map(x, 0, rows, TILE),
            map(w, first_weight, outputs, columns),
            to.shift.into(),
            more.into(),
            rows.into(),
            depth.into(),
            outputs.into(),
        ];
        g.launch(&launch, &args);
    }

    fn launch(&self, g: &Gpu, y: Var, x: Var, w: Var, first_weight: usize, to: &Finish) {
        // The ways out of `conv.cuh`: one that makes statistics does nothing else, one that applies GELU adds nothing.
        let adds = to.residual.is_some() || to.add;
        let alone = !adds && to.shift.is_none() && to.before.is_none() && to.activation == Activation::Nothing;
        assert!(to.moments.is_none() || alone, "statistics are made of a product that nothing follows");
        assert!(to.activation != Activation::Gelu || !adds, "GELU follows a product to which nothing is added");
        let rows = self.batch * self.out[0] * self.out[1];
        if rows == 0 {
            return;
        }
        // Copies and stores go 16 bytes at a time where both sides allow it.
        let vector = 16 / g.real().bytes();
        let whole = self.from[2].is_multiple_of(vector) && self.outputs.is_multiple_of(vector);
        let products = g.products();
        let by_tma = products.tma && whole && self.outputs > 64 && self.is_plain();
        if let Some(way) = way_out(y, to).filter(|_| by_tma) {
            return self.launch_by_tma(g, [y, x, w], first_weight, to, way);
        }
        let depth = self.taps[0] * self.taps[1] * self.from[2];
        let wide = |from: usize| self.outputs >= 256 && rows.div_ceil(TILE) * self.outputs.div_ceil(256) >= from;
        let (kernel, columns, threads) = match self.outputs {
            _ if !whole => ("conv_any", 64, 128),
            ..=64 => ("conv_128x64", 64, 128),
            _ if products.hopper && depth >= products.deep && wide(products.wide) => ("conv_hopper_wide", 256, 256),
            _ if products.hopper => ("conv_hopper", 128, 256),
            _ if wide(products.wide) => ("conv_128x256", 256, 256),
            _ => ("conv_128x128", 128, 128),
        };
        let tiles = rows.div_ceil(TILE) * self.outputs.div_ceil(columns);
        let shared = shared(kernel.contains("hopper"), TILE, columns);
        let launch = Launch { kernel, grid: [tiles as u32, 1, 1], block: [threads, 1, 1], shared };
        let i = |n: usize| Arg::from(n);
        let args = [
            y.into(),
            to.before.into(),
            to.moments.into(),
            x.into(),
            Arg::Part(w, first_weight),
            to.shift.into(),
            to.residual.into(),
            to.add.into(),
            i(to.activation as usize),
            i(self.batch),
            i(self.from[0]),
            i(self.from[1]),
            i(self.from[2]),
            i(self.outputs),
            i(self.taps[0]),
            i(self.taps[1]),
            i(self.step),
            Arg::I32(self.start[0]),
            Arg::I32(self.start[1]),
            i(self.out[0]),
            i(self.out[1]),
            i(self.map[0]),
            i(self.map[1]),
            i(self.spread),
            i(self.at[0]),
            i(self.at[1]),
        ];
        g.launch(&launch, &args);
    }
}

/// The ways out of the kernels of `linear_hopper.cu`: their names for tiles of 128 and of 256 columns, and what is added.
type WayOut = ([&'static str; 2], Option<Var>);

/// The one that does what `to` says; none if no kernel does.
fn way_out(y: Var, to: &Finish) -> Option<WayOut> {
    let more = match (to.residual, to.add) {
        (residual, false) => residual,
        (None, true) => Some(y),
        (Some(_), true) => return None,
    };
    let names = match (to.activation, more, to.before) {
        _ if to.moments.is_some() => return None,
        (Activation::Nothing, None, _) => ["linear_128", "linear_256"],
        (Activation::Nothing, Some(_), _) => ["linear_128_more", "linear_256_more"],
        (Activation::Relu, None, _) => ["linear_128_relu", "linear_256_relu"],
        (Activation::Relu, Some(_), _) => ["linear_128_relu_more", "linear_256_relu_more"],
        (Activation::Gelu, None, None) => ["linear_128_gelu", "linear_256_gelu"],
        (Activation::Gelu, None, Some(_)) => ["linear_128_gelu_keep", "linear_256_gelu_keep"],
        (Activation::Gelu, Some(_), _) => return None,
    };
    Some((names, more))
}

/// y = the product of the neighbourhoods of x and the packed weights.
pub(crate) fn forward(g: &Gpu, c: &Conv, y: Var, x: Var, packed: Var, to: &Finish) {
    if stem::forward(g, c, y, x, packed, to) {
        return;
    }
    let out = [c.out_height(), c.out_width()];
    let gather = Gather {
        batch: c.batch,
        from: [c.height, c.width, c.channels],
        outputs: c.outputs,
        taps: [c.kernel; 2],
        step: c.stride,
        start: [-(c.pad as i32); 2],
        out,
        map: out,
        spread: 1,
        at: [0; 2],
    };
    gather.launch(g, y, x, packed, 0, to);
}

/// The gradient of x: for every residue of a pixel by the stride a gather over dy with the taps that reach it.
pub(crate) fn backward_data(g: &Gpu, c: &Conv, dx: Grad, dy: Var, packed: Var) {
    let taps = |residue: usize| (c.kernel + c.stride - 1 - residue) / c.stride;
    let before = |residue: usize| (0..residue).map(taps).sum::<usize>();
    for residue in 0..c.stride * c.stride {
        let [ri, rj] = [residue / c.stride, residue % c.stride];
        let count = [taps(ri), taps(rj)];
        if dx.add && count.contains(&0) {
            continue;
        }
        // The pixels that see these taps: (pixel + pad) % stride = residue.
        let at = [ri, rj].map(|r| (r + c.stride * c.pad - c.pad) % c.stride);
        let start = [0, 1].map(|k| ((at[k] + c.pad) / c.stride) as i32 - (count[k] as i32 - 1));
        let out =
            [(c.height, at[0]), (c.width, at[1])].map(|(extent, at)| (extent + c.stride - 1 - at.min(extent + c.stride - 1)) / c.stride);
        let gather = Gather {
            batch: c.batch,
            from: [c.out_height(), c.out_width(), c.outputs],
            outputs: c.channels,
            taps: count,
            step: 1,
            start,
            out,
            map: [c.height, c.width],
            spread: c.stride,
            at,
        };
        let first = (before(ri) * c.kernel + count[0] * before(rj)) * c.channels * c.outputs;
        gather.launch(g, dx.var, dy, packed, first, &Finish { add: dx.add, ..Finish::default() });
    }
}

/// Partial sums of the gradient of weights: how many is decided by the shape alone, so that every card adds alike. The least time of a model of
/// an H200 decides: tiles of 128 x 128 go through 264 places, two on each multiprocessor, at 2 TFLOP/s each, and the parts are written and
/// read again at 4 TB/s. None has fewer than 512 pixels.
fn splits(c: &Conv) -> usize {
    let pixels = c.batch * c.out_height() * c.out_width();
    let tiles = c.outputs.div_ceil(128) * (c.channels * c.kernel * c.kernel).div_ceil(128);
    let seconds = |parts: usize| {
        let rounds = (tiles * parts).div_ceil(264) as f64;
        rounds * (pixels.div_ceil(parts) * 2 * 128 * 128) as f64 / 2e12 + (parts * c.weight_len() * 8) as f64 / 4e12
    };
    (1..=pixels.div_ceil(512).min(528)).min_by(|&a, &b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
}

/// Pixels of each part of the sum, a multiple of the steps of both types.
fn pixels_per_split(c: &Conv) -> usize {
    (c.batch * c.out_height() * c.out_width()).div_ceil(splits(c)).next_multiple_of(32)
}

fn parts(c: &Conv) -> usize {
    (c.batch * c.out_height() * c.out_width()).div_ceil(pixels_per_split(c))
}

/// Scratch for [`backward_weight`].
pub(crate) fn partial_sums(t: &mut Tape, c: &Conv) -> Var {
    t.scratch([parts(c).max(stem::parts(c)), c.weight_len()], Dtype::F32)
}

/// The gradient of the weights, through `partial` [parts, outputs, kernel, kernel, channels].
pub(crate) fn backward_weight(g: &Gpu, c: &Conv, dw: Grad, dy: Var, x: Var, partial: Var) {
    if stem::backward_weight(g, c, dw, dy, x, partial) {
        return;
    }
    let vector = 16 / g.real().bytes();
    let whole = c.channels.is_multiple_of(vector) && c.outputs.is_multiple_of(vector);
    let (kernel, rows, columns, threads) = match c.outputs {
        _ if !whole => ("conv_bwd_w_any", 64, 64, 128),
        ..=64 => ("conv_bwd_w_64x128", 64, 128, 128),
        _ if g.products().hopper => ("conv_bwd_w_hopper", 128, 128, 256),
        _ => ("conv_bwd_w_128x128", 128, 128, 128),
    };
    let (taps, depth) = (c.kernel * c.kernel, c.channels * c.kernel * c.kernel);
    let tiles = c.outputs.div_ceil(rows) * depth.div_ceil(columns);
    let grid = [tiles as u32, parts(c) as u32, 1];
    let shared = shared(kernel == "conv_bwd_w_hopper", rows, columns);
    let launch = Launch { kernel, grid, block: [threads, 1, 1], shared };
    let sizes = [c.batch, c.height, c.width, c.channels, c.outputs, c.kernel, c.stride, c.pad, c.out_height(), c.out_width()];
    let mut args: Vec<Arg> = vec![partial.into(), dy.into(), x.into()];
    args.extend(sizes.map(Arg::from));
    args.push(pixels_per_split(c).into());
    g.launch(&launch, &args);

    let run = c.channels.min(128);
    let grid = [c.outputs as u32, c.channels.div_ceil(run) as u32, 1];
    let launch = Launch { kernel: "conv_bwd_w_sum", grid, block: [256, 1, 1], shared: (4 * taps * run) as u32 };
    let sizes = [parts(c), c.outputs, c.channels, taps, run].map(Arg::from);
    g.launch(&launch, &[&[dw.var.into(), partial.into(), dw.add.into()][..], &sizes].concat());
}
