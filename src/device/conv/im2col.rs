//! Convolutions of any kernel, stride and padding as matrix products over copied windows (im2col).
//!
//! A window is a row of kernel² · channels floats (NHWC: kernel runs of kernel · channels). Some tens of rows at a time are
//! copied into a tile that stays in the cache, so each input is read from memory about
//! once. The copy moves one float per 2 · outputs operations of the product.

use std::ops::Range;

use rayon::prelude::*;

use super::Conv;
use crate::device::product::{self, Epilogue, Left, Right, Rows};

/// Columns of dw that one task sums.
const COLUMNS: usize = 256;
/// Outputs that are multiplied at a time for dw: their gradients stay in the L2 cache.
const OUTPUTS: usize = 96;
/// Floats of a panel of x that is multiplied for dw: half of the L1 cache.
const NUMBERS: usize = 4096;

pub(super) fn forward_len(c: &Conv) -> usize {
    product::packed_len(c.kernel * c.kernel * c.channels, c.outputs)
}

/// Packs the weights as [kernel · kernel · channels, outputs].
pub(super) fn pack_forward(c: &Conv, w: &[f32], out: &mut [f32]) {
    if c.kernel == 1 {
        return product::pack_columns(c.channels, c.outputs, out, |o| &w[o * c.channels..][..c.channels]);
    }
    let taps = c.kernel * c.kernel;
    product::pack(taps * c.channels, c.outputs, out, |k, o| {
        let (tap, i) = (k / c.channels, k % c.channels);
        w[(o * c.channels + i) * taps + tap]
    });
}

/// The windows of x, one row per output pixel.
struct Neighbourhoods<'a> {
    c: &'a Conv,
    x: &'a [f32],
}

impl Neighbourhoods<'_> {
    /// Writes the columns `from..from + out.len()` of one row.
    fn copy_row(&self, row: usize, from: usize, out: &mut [f32]) {
        let c = self.c;
        let (oh, ow) = (c.out_height(), c.out_width());
        let (image, oy, ox) = (row / (oh * ow), row / ow % oh, row % ow);
        let run = c.kernel * c.channels;
        let left = (c.pad.saturating_sub(ox * c.stride) * c.channels).min(run);
        let right = (c.width + c.pad).saturating_sub(ox * c.stride).min(c.kernel) * c.channels;
        let (mut at, end) = (from, from + out.len());
        let mut out = out;
        while at < end {
            let (ky, begin) = (at / run, at % run);
            let stop = run.min(begin + end - at);
            let (piece, rest) = out.split_at_mut(stop - begin);
            let y = oy * c.stride + ky;
            let (lo, hi) = (left.clamp(begin, stop), right.clamp(begin, stop));
            if y < c.pad || y >= c.height + c.pad || lo >= hi {
                piece.fill(0.0);
            } else {
                let line = (image * c.height + y - c.pad) * c.width;
                let first = (line + ox * c.stride) * c.channels + lo - c.pad * c.channels;
                piece[..lo - begin].fill(0.0);
                piece[lo - begin..hi - begin].copy_from_slice(&self.x[first..first + hi - lo]);
                piece[hi - begin..].fill(0.0);
            }
            at += stop - begin;
            out = rest;
        }
    }
}

impl Rows for Neighbourhoods<'_> {
    fn lend(&self, first: usize, count: usize) -> Option<Left<'_>> {
        let c = self.c;
        let lies = c.kernel == 1 && c.stride == 1 && c.pad == 0;
        lies.then(|| Left { data: &self.x[first * c.channels..(first + count) * c.channels], row_step: c.channels, depth_step: 1 })
    }

    fn copy(&self, first: usize, count: usize, tile: &mut [f32], stride: usize) {
        let depth = self.c.kernel * self.c.kernel * self.c.channels;
        for row in 0..count {
            self.copy_row(first + row, 0, &mut tile[row * stride..][..depth]);
        }
    }
}

/// `pre_activation` gets the activation's argument.
pub(super) fn forward(c: &Conv, x: &[f32], w: &[f32], epilogue: &Epilogue, pre_activation: Option<&mut [f32]>, y: &mut [f32]) {
    let rows = c.batch * c.out_height() * c.out_width();
    let depth = c.kernel * c.kernel * c.channels;
    let to = product::Output { y, add: false, pre_activation };
    product::rows_times(&Neighbourhoods { c, x }, [rows, depth], Right::packed(w, depth, c.outputs), epilogue, to);
}

/// The input pixels with one remainder of (y + pad, x + pad) by the stride: their gradient is a dense
/// product over the few taps of the kernel that reach them.
struct Residue {
    y: usize,
    x: usize,
    taps: Vec<(usize, usize)>,
}

impl Residue {
    fn all(c: &Conv) -> impl Iterator<Item = Residue> {
        let Conv { kernel, stride, .. } = *c;
        (0..stride * stride).map(move |residue| {
            let (y, x) = (residue / stride, residue % stride);
            let taps = |ky| (x..kernel).step_by(stride).map(move |kx| (ky, kx));
            Residue { y, x, taps: (y..kernel).step_by(stride).flat_map(taps).collect() }
        })
    }

    fn depth(&self, c: &Conv) -> usize {
        self.taps.len() * c.outputs
    }

    fn packed_len(&self, c: &Conv) -> usize {
        product::packed_len(self.depth(c), c.channels)
    }
}

pub(super) fn backward_len(c: &Conv) -> usize {
    Residue::all(c).map(|residue| residue.packed_len(c)).sum()
}

/// Packs the weights as one [taps · outputs, channels] matrix for each residue.
pub(super) fn pack_backward(c: &Conv, w: &[f32], mut out: &mut [f32]) {
    for residue in Residue::all(c) {
        let (matrix, rest) = out.split_at_mut(residue.packed_len(c));
        if c.kernel == 1 {
            product::pack_rows(residue.depth(c), c.channels, matrix, |o| &w[o * c.channels..][..c.channels]);
        } else {
            product::pack(residue.depth(c), c.channels, matrix, |k, i| {
                let (ky, kx) = residue.taps[k / c.outputs];
                w[((k % c.outputs * c.channels + i) * c.kernel + ky) * c.kernel + kx]
            });
        }
        out = rest;
    }
}

/// Gathers: each input pixel collects the gradients that reach it, so no two tasks write the same element.
pub(super) fn backward_data(c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    if c.kernel == 1 && c.stride == 1 && c.pad == 0 {
        let reversed = c.reversed();
        let rows = Neighbourhoods { c: &reversed, x: dy };
        let right = Right::packed(w, c.outputs, c.channels);
        let to = product::Output { y: dx, add, pre_activation: None };
        product::rows_times(&rows, [c.batch * c.height * c.width, c.outputs], right, &Epilogue::default(), to);
        return;
    }
    let residues: Vec<_> = Residue::all(c).collect();
    let deepest = residues.iter().map(|r| r.depth(c)).max().unwrap_or(0) + product::LANES;
    let most = (131_072 / deepest).clamp(24, 96) * c.stride * c.stride / c.width;
    let lines = product::rows_per_task(c.batch * c.height, most.max(c.stride));
    let line = c.width * c.channels;
    dx.par_chunks_mut(lines * line).enumerate().for_each(|(task, dx)| {
        let mut pixels = Vec::new();
        let mut w = w;
        for residue in &residues {
            let (matrix, rest) = w.split_at(residue.packed_len(c));
            w = rest;
            pixels.clear();
            for (index, number) in (task * lines..).take(dx.len() / line).enumerate() {
                let y = number % c.height;
                if (y + c.pad) % c.stride == residue.y {
                    let columns = (0..c.width).filter(|x| (x + c.pad) % c.stride == residue.x);
                    pixels.extend(columns.map(|x| (number / c.height, y, x, (index * c.width + x) * c.channels)));
                }
            }
            collect(c, dy, residue, matrix, &pixels, dx, add);
        }
    });
}

/// The gradient of some pixels of one residue: (image, y, x, place in dx).
fn collect(c: &Conv, dy: &[f32], residue: &Residue, w: &[f32], pixels: &[(usize, usize, usize, usize)], dx: &mut [f32], add: bool) {
    let depth = residue.depth(c);
    let stride = depth.next_multiple_of(product::LANES) + product::LANES;
    let (oh, ow) = (c.out_height(), c.out_width());
    product::with_scratch(pixels.len() * (stride + c.channels), |scratch| {
        let (tile, result) = scratch.split_at_mut(pixels.len() * stride);
        for (row, &(image, y, x, _)) in tile.chunks_exact_mut(stride).zip(pixels) {
            for (part, &(ky, kx)) in row.chunks_exact_mut(c.outputs).zip(&residue.taps) {
                let oy = (y + c.pad).wrapping_sub(ky) / c.stride;
                let ox = (x + c.pad).wrapping_sub(kx) / c.stride;
                if y + c.pad >= ky && x + c.pad >= kx && oy < oh && ox < ow {
                    part.copy_from_slice(&dy[((image * oh + oy) * ow + ox) * c.outputs..][..c.outputs]);
                } else {
                    part.fill(0.0);
                }
            }
        }
        let left = Left { data: tile, row_step: stride, depth_step: 1 };
        product::multiply(left, pixels.len(), depth, Right::packed(w, depth, c.channels), result, c.channels, false);
        for (from, &(.., place)) in result.chunks_exact(c.channels).zip(pixels) {
            let to = &mut dx[place..place + c.channels];
            if add {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            } else {
                to.copy_from_slice(from);
            }
        }
    });
}

/// `dw = dyᵀ · windows`, in a number of parts that the shape alone decides.
pub(super) fn backward_weight(c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], add: bool) {
    let rows = c.batch * c.out_height() * c.out_width();
    let width = c.kernel * c.kernel * c.channels;
    let chunks = width.div_ceil(COLUMNS);
    let parts = 16usize.div_ceil(chunks).min(rows.div_ceil(512)).max(1);
    let per_part = rows.div_ceil(parts).next_multiple_of(64);
    let columns = COLUMNS.min(width);
    let size = c.outputs * columns;
    product::with_scratch(chunks * parts * size, |sums| {
        sums.par_chunks_mut(size).enumerate().for_each(|(task, sums)| {
            let (chunk, part) = (task / parts, task % parts);
            let from = chunk * columns;
            let part = (part * per_part).min(rows)..((part + 1) * per_part).min(rows);
            sum_part(c, x, dy, part, from..(from + columns).min(width), columns, sums);
        });
        let taps = c.kernel * c.kernel;
        dw.par_chunks_mut(c.channels * taps).enumerate().for_each(|(o, dw)| {
            if !add {
                dw.fill(0.0);
            }
            for (task, sums) in sums.chunks_exact(size).enumerate() {
                let from = task / parts * columns;
                for (k, sum) in (from..width).zip(&sums[o * columns..][..columns]) {
                    dw[k % c.channels * taps + k / c.channels] += sum;
                }
            }
        });
    });
}

/// Sums `columns` of dw over `rows` of dy into `sums`: [outputs, stride]. The rows come some at a time, copied into the
/// order in which they are read.
fn sum_part(c: &Conv, x: &[f32], dy: &[f32], rows: Range<usize>, columns: Range<usize>, stride: usize, sums: &mut [f32]) {
    let source = Neighbourhoods { c, x };
    let width = columns.len();
    let panel = product::panel(width);
    let depth = NUMBERS / panel;
    // A stride that is no multiple of a page, so that an output's values fall into different cache sets.
    let left_step = OUTPUTS + product::LANES;
    sums.fill(0.0);
    let sizes = (c.outputs.div_ceil(OUTPUTS) * depth * left_step, product::packed_len(depth, width));
    product::with_scratch(sizes.0 + sizes.1 + width, |scratch| {
        let (left, scratch) = scratch.split_at_mut(sizes.0);
        let (right, line) = scratch.split_at_mut(sizes.1);
        for first in rows.clone().step_by(depth) {
            let count = depth.min(rows.end - first);
            for row in 0..count {
                let dy = &dy[(first + row) * c.outputs..][..c.outputs];
                for (block, dy) in dy.chunks(OUTPUTS).enumerate() {
                    left[(block * depth + row) * left_step..][..dy.len()].copy_from_slice(dy);
                }
                source.copy_row(first + row, columns.start, line);
                for (number, line) in line.chunks(panel).enumerate() {
                    right[(number * depth + row) * panel..][..line.len()].copy_from_slice(line);
                }
            }
            let right = Right::packed(right, depth, width);
            for (block, sums) in sums.chunks_mut(OUTPUTS * stride).enumerate() {
                let left = Left { data: &left[block * depth * left_step..], row_step: 1, depth_step: left_step };
                product::multiply(left, sums.len() / stride, count, right, sums, stride, true);
            }
        }
    });
}
