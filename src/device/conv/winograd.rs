//! 3x3 convolutions with stride 1 by Winograd's F(4x4, 3x3) (Lavin and Gray, CVPR 2016).
//!
//! A tile of 6x6 inputs gives 4x4 outputs: transform the inputs and the weights to 36 points, multiply
//! tiles x channels by channels x outputs at every point, transform back. Floor: 36 / 144 of the plain
//! operations in products, about 300 operations per tile and channel in transforms, and 36 / 16 numbers
//! written and read for each input and each output, which should not leave the cache.
//!
//! A task owns some rows of tiles, whose outputs lie together in y.

use multiversion::{multiversion, target::selected_target};
use rayon::prelude::*;

use super::Conv;
use super::transform::{self, Lanes};
use crate::device::product::{self, Epilogue, LANES, Left, PANEL, Right, panel_stride, with_scratch};

pub(super) const POINTS: usize = 36;

/// Whether Winograd computes this layer: whole vectors of channels, and maps that do not waste the tiles.
pub(super) fn fits(c: &Conv) -> bool {
    let (oh, ow) = (c.out_height(), c.out_width());
    let tiles = oh.div_ceil(4) * ow.div_ceil(4);
    let shape = c.kernel == 3 && c.stride == 1 && c.channels % LANES == 0 && c.outputs % LANES == 0;
    shape && c.channels > 0 && c.outputs > 0 && tiles * POINTS * 3 < oh * ow * 9 * 2
}

/// A layer's tiles: tile rows are numbered through the batch.
#[derive(Clone, Copy)]
pub(super) struct Tiling<'a> {
    pub c: &'a Conv,
    out_height: usize,
    pub out_width: usize,
    down: usize,
    pub across: usize,
}

impl Tiling<'_> {
    pub fn new(c: &Conv) -> Tiling<'_> {
        let (out_height, out_width) = (c.out_height(), c.out_width());
        Tiling { c, out_height, out_width, down: out_height.div_ceil(4), across: out_width.div_ceil(4) }
    }

    /// Tile rows of the whole batch.
    pub fn rows(&self) -> usize {
        self.c.batch * self.down
    }

    /// The number of a tile's first output pixel in y and how many lines and columns of it lie inside.
    pub fn outputs_of(&self, row: usize, column: usize) -> (usize, usize, usize) {
        let (y, x) = (row % self.down * 4, column * 4);
        let (height, width) = ((self.out_height - y).min(4), (self.out_width - x).min(4));
        (self.line(row) * self.out_width + x, height, width)
    }

    /// Output lines above a tile row, counted through the batch.
    fn line(&self, row: usize) -> usize {
        row / self.down * self.out_height + row % self.down * 4
    }
}

/// Points of one task: number `[point, tile, channel]` is at `point * step + tile * stride + channel`.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub step: usize,
    pub stride: usize,
}

impl Layout {
    /// Strides that are not multiples of a page, so that the rows of a tile fall into different cache sets.
    pub fn new(tiles: usize, channels: usize) -> Layout {
        let stride = channels + LANES;
        Layout { step: tiles * stride, stride }
    }
}

/// The weights at the 36 points as [panel, point, channel, column]; `at(output, channel)` lends nine weights,
/// which are turned by 180 degrees if `turned`.
pub(super) fn pack<'a>(
    channels: usize, outputs: usize, at: impl Fn(usize, usize) -> &'a [f32] + Sync, turned: bool,
) -> Vec<f32> {
    let stride = panel_stride(outputs);
    let mut packed = vec![0.0; outputs.div_ceil(PANEL) * POINTS * channels * stride];
    packed.par_chunks_mut(POINTS * channels * stride).enumerate().for_each(|(panel, packed)| {
        let first = panel * PANEL;
        let columns = stride.min(outputs - first);
        with_scratch(LANES * 9 * PANEL, |block| {
            for base in (0..channels).step_by(LANES) {
                for column in 0..columns {
                    for channel in 0..LANES {
                        for (tap, &weight) in at(first + column, base + channel).iter().enumerate() {
                            let tap = if turned { 8 - tap } else { tap };
                            block[(channel * 9 + tap) * PANEL + column] = weight;
                        }
                    }
                }
                for channel in 0..LANES {
                    let weights = &block[channel * 9 * PANEL..][..9 * PANEL];
                    transform_weights(weights, columns, &mut packed[(base + channel) * stride..], channels * stride);
                }
            }
        });
    });
    packed
}

/// Transforms the columns of `weights` ([tap, PANEL]); point p goes to `out[p * step ..]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_weights(weights: &[f32], columns: usize, out: &mut [f32], step: usize) {
    const FUSED: bool = selected_target!().supports_feature_str("fma");
    for column in (0..columns).step_by(LANES) {
        let mut half = [[Lanes::ZERO; 3]; 6];
        for kx in 0..3 {
            let g = [0, 1, 2].map(|ky| Lanes::load(&weights[(ky * 3 + kx) * PANEL + column..]));
            let points = transform::weight::<FUSED>(g);
            for i in 0..6 {
                half[i][kx] = points[i];
            }
        }
        for (i, half) in half.into_iter().enumerate() {
            for (j, point) in transform::weight::<FUSED>(half).into_iter().enumerate() {
                point.store(&mut out[(i * 6 + j) * step + column..]);
            }
        }
    }
}

/// Transforms the inputs of `count` tile rows from `first`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn transform_input(t: &Tiling, x: &[f32], first: usize, count: usize, out: &mut [f32], layout: Layout) {
    const FUSED: bool = selected_target!().supports_feature_str("fma");
    const OUTSIDE: usize = usize::MAX;
    let (c, channels) = (t.c, t.c.channels);
    for tile in 0..count * t.across {
        let row = first + tile / t.across;
        let (image, y, across) = (row / t.down, row % t.down * 4, tile % t.across * 4);
        let mut places = [[OUTSIDE; 6]; 6];
        for (i, places) in places.iter_mut().enumerate() {
            let y = (y + i).wrapping_sub(c.pad);
            for (j, place) in places.iter_mut().enumerate() {
                let x = (across + j).wrapping_sub(c.pad);
                if y < c.height && x < c.width {
                    *place = ((image * c.height + y) * c.width + x) * channels;
                }
            }
        }
        for channel in (0..channels).step_by(LANES) {
            let mut half = [[Lanes::ZERO; 6]; 6];
            for j in 0..6 {
                let mut d = [Lanes::ZERO; 6];
                for i in 0..6 {
                    if places[i][j] != OUTSIDE {
                        d[i] = Lanes::load(&x[places[i][j] + channel..]);
                    }
                }
                let points = transform::input::<FUSED>(d);
                for i in 0..6 {
                    half[i][j] = points[i];
                }
            }
            for (i, half) in half.into_iter().enumerate() {
                for (j, point) in transform::input::<FUSED>(half).into_iter().enumerate() {
                    point.store(&mut out[(i * 6 + j) * layout.step + tile * layout.stride + channel..]);
                }
            }
        }
    }
}

/// Where the outputs of a task go: whole lines of y from the first tile row's on.
struct Output<'a, 'b> {
    epilogue: &'a Epilogue<'b>,
    add: bool,
    y: &'a mut [f32],
}

/// Transforms the products of `count` tile rows from `first` back and applies the epilogue. `m` begins at
/// the first tile; the channels `columns` of y are written from its channel 0 on.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_output(
    t: &Tiling, m: &[f32], layout: Layout, first: usize, count: usize, columns: std::ops::Range<usize>,
    out: &mut Output,
) {
    const FUSED: bool = selected_target!().supports_feature_str("fma");
    let outputs = t.c.outputs;
    let top = t.line(first) * t.out_width;
    for tile in 0..count * t.across {
        let (start, height, width) = t.outputs_of(first + tile / t.across, tile % t.across);
        let start = (start - top) * outputs;
        for channel in columns.clone().step_by(LANES) {
            let mut half = [[Lanes::ZERO; 6]; 4];
            for j in 0..6 {
                let at = tile * layout.stride + channel - columns.start;
                let points = [0, 1, 2, 3, 4, 5].map(|i| Lanes::load(&m[(i * 6 + j) * layout.step + at..]));
                let values = transform::output::<FUSED>(points);
                for i in 0..4 {
                    half[i][j] = values[i];
                }
            }
            let scale = out.epilogue.scale.map(|s| Lanes::load(&s[channel..]));
            let shift = out.epilogue.shift.map_or(Lanes::ZERO, |s| Lanes::load(&s[channel..]));
            for (i, half) in half.into_iter().enumerate().take(height) {
                for (j, value) in transform::output::<FUSED>(half).into_iter().enumerate().take(width) {
                    let place = start + (i * t.out_width + j) * outputs + channel;
                    let mut value = scale.map_or(value, |s| value * s) + shift;
                    if let Some(residual) = out.epilogue.residual {
                        value = value + Lanes::load(&residual[top * outputs + place..]);
                    }
                    if out.add {
                        value = value + Lanes::load(&out.y[place..]);
                    }
                    if out.epilogue.relu {
                        value = value.at_least_zero();
                    }
                    value.store(&mut out.y[place..]);
                }
            }
        }
    }
}

/// Numbers of V and M together that a task's tiles may have: they should stay in a second cache of 1 MB.
const TASK: usize = 180_000;
/// Above this many numbers of weights at the points, a task's own read of all of them costs more than the
/// way of V and M through the third cache.
const SHARED_WEIGHTS: usize = 1_000_000;
/// Numbers of V and M together that the tasks share at a time in that case.
const SHARED: usize = 8_000_000;
/// Tiles that are at least transformed together there.
const TILE: usize = 24;

/// `y = epilogue(x * w)`, or `y += x * w`, for weights from [`pack`].
pub(super) fn forward(c: &Conv, x: &[f32], w: &[f32], epilogue: &Epilogue, add: bool, y: &mut [f32]) {
    let t = Tiling::new(c);
    let tile = POINTS * (c.channels + c.outputs + 2 * LANES);
    let share = t.rows().div_ceil(rayon::current_num_threads());
    if POINTS * c.channels * c.outputs <= SHARED_WEIGHTS {
        let rows = (TASK / tile / t.across).clamp(1, share.max(1));
        split(&t, 0, t.rows(), rows, y).into_par_iter().for_each(|(first, y)| {
            let count = rows.min(t.rows() - first);
            let tiles = count * t.across;
            let (from, to) = (Layout::new(tiles, c.channels), Layout::new(tiles, c.outputs));
            with_scratch(POINTS * (from.step + to.step), |scratch| {
                let (v, m) = scratch.split_at_mut(POINTS * from.step);
                transform_input(&t, x, first, count, v, from);
                for point in 0..POINTS {
                    let left = Left { data: &v[point * from.step..], row_step: from.stride, depth_step: 1 };
                    let m = &mut m[point * to.step..];
                    product::multiply(left, tiles, c.channels, weights(c, w, point), m, to.stride, false);
                }
                let out = &mut Output { epilogue, add, y };
                transform_output(&t, m, to, first, count, 0..c.outputs, out);
            });
        });
        return;
    }
    let group = (SHARED / tile / t.across).max(1);
    for begin in (0..t.rows()).step_by(group) {
        let end = (begin + group).min(t.rows());
        shared(&t, x, w, begin..end, epilogue, add, y);
    }
}

/// The matrix of one point of packed weights.
fn weights<'a>(c: &Conv, w: &'a [f32], point: usize) -> Right<'a> {
    let stride = panel_stride(c.outputs);
    let size = c.channels * stride;
    Right { data: &w[point * size..], width: c.outputs, panel_step: POINTS * size, stride }
}

/// Splits the lines of y that belong to tile rows `begin..end` into pieces of `rows` tile rows, each with
/// the number of its first.
fn split<'a>(
    t: &Tiling, begin: usize, end: usize, rows: usize, y: &'a mut [f32],
) -> Vec<(usize, &'a mut [f32])> {
    let line = t.out_width * t.c.outputs;
    let mut rest = &mut y[t.line(begin) * line..t.line(end) * line];
    let mut pieces = Vec::with_capacity((end - begin).div_ceil(rows));
    for first in (begin..end).step_by(rows) {
        let last = (first + rows).min(end);
        let (piece, tail) = rest.split_at_mut((t.line(last) - t.line(first)) * line);
        pieces.push((first, piece));
        rest = tail;
    }
    pieces
}

/// Tile rows `range` in three steps, each in parallel: V by tile rows, M by points and panels, y by tile rows.
fn shared(
    t: &Tiling, x: &[f32], w: &[f32], range: std::ops::Range<usize>, epilogue: &Epilogue, add: bool, y: &mut [f32],
) {
    let c = t.c;
    let total = range.len() * t.across;
    let rows = range.len().div_ceil(4 * rayon::current_num_threads()).max(TILE / t.across).max(1);
    let (from, to) = (Layout::new(rows * t.across, c.channels), Layout::new(total, PANEL));
    let pieces = range.len().div_ceil(rows);
    with_scratch(pieces * POINTS * from.step + c.outputs.div_ceil(PANEL) * POINTS * to.step, |scratch| {
        let (v, m) = scratch.split_at_mut(pieces * POINTS * from.step);
        v.par_chunks_mut(POINTS * from.step).enumerate().for_each(|(piece, v)| {
            let first = range.start + piece * rows;
            transform_input(t, x, first, rows.min(range.end - first), v, from);
        });
        m.par_chunks_mut(to.step).enumerate().for_each(|(matrix, m)| {
            let (panel, point) = (matrix / POINTS, matrix % POINTS);
            let stride = panel_stride(c.outputs);
            let right = Right {
                data: &w[matrix * c.channels * stride..],
                width: PANEL.min(c.outputs - panel * PANEL),
                panel_step: 0,
                stride,
            };
            for (piece, m) in m.chunks_mut(rows * t.across * to.stride).enumerate() {
                let data = &v[(piece * POINTS + point) * from.step..];
                let left = Left { data, row_step: from.stride, depth_step: 1 };
                product::multiply(left, m.len() / to.stride, c.channels, right, m, to.stride, false);
            }
        });
        split(t, range.start, range.end, rows, y).into_par_iter().enumerate().for_each(|(piece, (first, y))| {
            let out = &mut Output { epilogue, add, y };
            let count = rows.min(range.end - first);
            for panel in 0..c.outputs.div_ceil(PANEL) {
                let m = &m[panel * POINTS * to.step + piece * rows * t.across * to.stride..];
                let columns = panel * PANEL..(panel * PANEL + PANEL).min(c.outputs);
                transform_output(t, m, to, first, count, columns, out);
            }
        });
    });
}
