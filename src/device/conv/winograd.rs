//! 3x3 convolutions with stride 1 by Winograd's F(4x4, 3x3) (Lavin and Gray, CVPR 2016).
//!
//! A tile of 6x6 inputs gives 4x4 outputs: transform the inputs and the weights to 36 points, multiply
//! tiles x channels by channels x outputs at every point, transform back. Floor: 36 / 144 of the plain
//! operations in products, about 300 operations per tile and channel in transforms, and 36 / 16 numbers
//! written and read for each input and each output, which should not leave the cache.
//!
//! A task owns some rows of tiles, whose outputs lie together in y.

use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

use super::Conv;
use super::tiles::{OUTSIDE, POINTS, TileLayout, Tiling, ZEROS, channels, odd_lines};
use super::transform::{self, Vector};
use crate::device::product::{self, Epilogue, LANES, Left, PANEL, Right, TILE_ROWS, panel, with_scratch};

/// Whether Winograd computes this layer: its channels fill vectors, and its maps do not waste much of the tiles.
pub(super) fn fits(c: &Conv) -> bool {
    let (oh, ow) = (c.out_height(), c.out_width());
    let tiles = oh.div_ceil(4) * ow.div_ceil(4);
    let shape = c.kernel == 3 && c.stride == 1 && c.channels.is_multiple_of(LANES) && c.outputs.is_multiple_of(LANES);
    shape && c.channels > 0 && c.outputs > 0 && tiles * POINTS * 3 < oh * ow * 9 * 2
}

pub(super) fn packed_len(c: &Conv) -> usize {
    let panel = panel(c.outputs);
    c.outputs.div_ceil(panel) * POINTS * odd_lines(c.channels * panel)
}

/// Writes the weights at the 36 points as [panel, point, channel, column]. `at(output, channel)` lends nine
/// weights; `turned` rotates them by 180 degrees, as the gradient of x needs.
pub(super) fn pack<'a>(c: &Conv, at: impl Fn(usize, usize) -> &'a [f32] + Sync, turned: bool, out: &mut [f32]) {
    let (channels, outputs) = (c.channels, c.outputs);
    let stride = panel(outputs);
    let step = odd_lines(channels * stride);
    out.par_chunks_mut(POINTS * step).enumerate().for_each(|(panel, packed)| {
        let first = panel * stride;
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
                    transform_weights(weights, columns, &mut packed[(base + channel) * stride..], step);
                }
            }
        });
    });
}

/// Transforms the columns of `weights` ([tap, PANEL]); point p goes to `out[p * step ..]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_weights(weights: &[f32], columns: usize, out: &mut [f32], step: usize) {
    const FUSED: bool = match_target! { "x86_64+fma" => true, "aarch64+neon" => true, _ => false };
    let mut half = transform::half();
    for column in (0..columns).step_by(LANES) {
        let at = |i: usize, j: usize| channels::<LANES>(weights, (i * 3 + j) * PANEL + column);
        transform::columns(&mut half, at, transform::weight::<FUSED>);
        for i in 0..6 {
            let points = transform::line(&half, i, 0, transform::weight::<FUSED>);
            for (j, point) in points.0.iter().enumerate() {
                out[(i * 6 + j) * step + column..][..LANES].copy_from_slice(point);
            }
        }
    }
}

/// Transforms the inputs of `count` tile rows from `first`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn transform_input(t: &Tiling, x: &[f32], first: usize, count: usize, out: &mut [f32], layout: TileLayout) {
    const FUSED: bool = match_target! { "x86_64+fma" => true, "aarch64+neon" => true, _ => false };
    let channels = t.c.channels;
    let mut half = transform::half();
    for tile in 0..count * t.across {
        let places = t.inputs_of(first + tile / t.across, tile % t.across);
        let wide = channels / PANEL * PANEL;
        for channel in (0..wide).step_by(PANEL) {
            let out = &mut out[tile * layout.stride + channel..];
            input_square::<FUSED, PANEL>(x, &places, channel, &mut half, out, layout.step);
        }
        for channel in (wide..channels).step_by(LANES) {
            let out = &mut out[tile * layout.stride + channel..];
            input_square::<FUSED, LANES>(x, &places, channel, &mut half, out, layout.step);
        }
    }
}

#[inline(always)]
fn input_square<const FUSED: bool, const W: usize>(
    x: &[f32],
    places: &[[usize; 6]; 6],
    channel: usize,
    half: &mut transform::Half<6, 6>,
    out: &mut [f32],
    step: usize,
) {
    let at = |i: usize, j: usize| {
        if places[i][j] == OUTSIDE { channels::<W>(&ZEROS, 0) } else { channels(x, places[i][j] + channel) }
    };
    transform::columns(half, at, transform::input::<FUSED>);
    for i in 0..6 {
        for v in 0..W / LANES {
            let points = transform::line(half, i, v, transform::input::<FUSED>);
            for (j, point) in points.0.iter().enumerate() {
                out[(i * 6 + j) * step + v * LANES..][..LANES].copy_from_slice(point);
            }
        }
    }
}

/// The destination of a task: whole lines of y from the first tile row's on.
struct Output<'a, 'b> {
    epilogue: &'a Epilogue<'b>,
    add: bool,
    y: &'a mut [f32],
}

/// Transforms the products of `count` tile rows from `first` back and applies the epilogue. `m` begins at
/// the first tile and at channel `columns.start` of y.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_output(
    t: &Tiling,
    m: &[f32],
    layout: TileLayout,
    first: usize,
    count: usize,
    columns: std::ops::Range<usize>,
    out: &mut Output,
) {
    const FUSED: bool = match_target! { "x86_64+fma" => true, "aarch64+neon" => true, _ => false };
    let mut half = transform::half();
    let wide = columns.start + columns.len() / PANEL * PANEL;
    for tile in 0..count * t.across {
        let place = t.outputs_of(first + tile / t.across, tile % t.across);
        let m = &m[tile * layout.stride..];
        for channel in (columns.start..wide).step_by(PANEL) {
            let m = &m[channel - columns.start..];
            output_square::<FUSED, PANEL>(t, first, m, layout.step, place, channel, &mut half, out);
        }
        for channel in (wide..columns.end).step_by(LANES) {
            let m = &m[channel - columns.start..];
            output_square::<FUSED, LANES>(t, first, m, layout.step, place, channel, &mut half, out);
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn output_square<const FUSED: bool, const W: usize>(
    t: &Tiling,
    first: usize,
    m: &[f32],
    step: usize,
    place: (usize, usize, usize),
    channel: usize,
    half: &mut transform::Half<6, 4>,
    out: &mut Output,
) {
    let (pixel, height, width) = place;
    let outputs = t.c.outputs;
    let top = t.line(first) * t.out_width * outputs;
    let Epilogue { scale, shift, residual, activation } = *out.epilogue;
    let at = |i: usize, j: usize| channels::<W>(m, (i * 6 + j) * step);
    transform::columns(half, at, transform::output::<FUSED>);
    for i in 0..height {
        for v in 0..W / LANES {
            let values = transform::line(half, i, v, transform::output::<FUSED>);
            let channel = channel + v * LANES;
            for (j, value) in values.0.iter().enumerate().take(width) {
                let place = (pixel + i * t.out_width + j) * outputs + channel;
                let y: &mut Vector = out.y[place - top..].first_chunk_mut().expect("whole vectors of channels");
                let mut value = *value;
                if let Some(scale) = scale {
                    let scale: &Vector = channels(scale, channel);
                    for lane in 0..LANES {
                        value[lane] *= scale[lane];
                    }
                }
                if let Some(shift) = shift {
                    let shift: &Vector = channels(shift, channel);
                    for lane in 0..LANES {
                        value[lane] += shift[lane];
                    }
                }
                if let Some(residual) = residual {
                    let residual: &Vector = channels(residual, place);
                    for lane in 0..LANES {
                        value[lane] += residual[lane];
                    }
                }
                activation.apply(&mut value);
                if out.add {
                    for lane in 0..LANES {
                        y[lane] += value[lane];
                    }
                } else {
                    *y = value;
                }
            }
        }
    }
}

/// Floats of V (the transformed inputs) per task: 520 KB, which stay in an L2 cache of 1 MB.
const TASK: usize = 130_000;
/// Floats of weights at the points above which tasks share them: for every task to read them all would cost more than V and M
/// (the products) passing through the L3 cache.
const SHARED_WEIGHTS: usize = 1_000_000;
/// Floats of V and M together that the tasks share at a time in that case.
const SHARED: usize = 8_000_000;

/// About `tiles` tiles as tile rows, in whole register tiles where there are enough.
fn rows_of(tiles: usize, across: usize) -> usize {
    let rows = (tiles / across).max(1);
    (1..=rows).rev().find(|rows| (rows * across).is_multiple_of(TILE_ROWS) && 2 * rows * across >= tiles).unwrap_or(rows)
}

/// `y = epilogue(x * w)`, or `y += x * w`, for weights from [`pack`].
pub(super) fn forward(c: &Conv, x: &[f32], w: &[f32], epilogue: &Epilogue, add: bool, y: &mut [f32]) {
    let t = Tiling::new(c);
    if POINTS * c.channels * c.outputs <= SHARED_WEIGHTS {
        let width = c.channels.max(c.outputs);
        let share = (t.rows() * t.across).div_ceil(rayon::current_num_threads());
        let rows = rows_of((TASK / POINTS / (width + LANES)).min(share), t.across);
        split(&t, 0, t.rows(), rows, y).into_par_iter().for_each(|(first, y)| {
            let count = rows.min(t.rows() - first);
            let tiles = count * t.across;
            let layout = TileLayout::new(tiles, width);
            with_scratch(POINTS * layout.step + tiles * layout.stride, |scratch| {
                let (v, tile) = scratch.split_at_mut(POINTS * layout.step);
                transform_input(&t, x, first, count, v, layout);
                for (point, v) in v.chunks_exact_mut(layout.step).enumerate() {
                    // M takes the place of V.
                    tile.copy_from_slice(&v[..tile.len()]);
                    let left = Left { data: tile, row_step: layout.stride, depth_step: 1 };
                    product::multiply(left, tiles, c.channels, weights(c, w, point, [0, c.outputs]), v, layout.stride, false);
                }
                let out = &mut Output { epilogue, add, y };
                transform_output(&t, v, layout, first, count, 0..c.outputs, out);
            });
        });
        return;
    }
    let group = (SHARED / POINTS / (c.channels + c.outputs + 2 * LANES) / t.across).max(1);
    for begin in (0..t.rows()).step_by(group) {
        let end = (begin + group).min(t.rows());
        shared(&t, x, w, begin..end, epilogue, add, y);
    }
}

/// The matrix of one point of packed weights: `width` columns from `first` on.
fn weights<'a>(c: &Conv, w: &'a [f32], point: usize, [first, width]: [usize; 2]) -> Right<'a> {
    let stride = panel(c.outputs);
    let step = odd_lines(c.channels * stride);
    Right::panels(&w[(first / stride * POINTS + point) * step..], width, stride, POINTS * step)
}

/// Splits the lines of y that belong to tile rows `begin..end` into pieces of `rows` tile rows, each with
/// the number of its first.
fn split<'a>(t: &Tiling, begin: usize, end: usize, rows: usize, y: &'a mut [f32]) -> Vec<(usize, &'a mut [f32])> {
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
fn shared(t: &Tiling, x: &[f32], w: &[f32], range: std::ops::Range<usize>, epilogue: &Epilogue, add: bool, y: &mut [f32]) {
    let c = t.c;
    let total = range.len() * t.across;
    let rows = rows_of((total / rayon::current_num_threads()).clamp(TILE_ROWS, 48), t.across);
    let (from, to) = (TileLayout::new(rows * t.across, c.channels), TileLayout::new(total, PANEL));
    let pieces = range.len().div_ceil(rows);
    with_scratch(pieces * POINTS * from.step + c.outputs.div_ceil(PANEL) * POINTS * to.step, |scratch| {
        let (v, m) = scratch.split_at_mut(pieces * POINTS * from.step);
        v.par_chunks_mut(POINTS * from.step).enumerate().for_each(|(piece, v)| {
            let first = range.start + piece * rows;
            transform_input(t, x, first, rows.min(range.end - first), v, from);
        });
        m.par_chunks_mut(to.step).enumerate().for_each(|(matrix, m)| {
            let (panel, point) = (matrix / POINTS, matrix % POINTS);
            let first = panel * PANEL;
            let right = weights(c, w, point, [first, PANEL.min(c.outputs - first)]);
            for (piece, m) in m[..total * to.stride].chunks_mut(rows * t.across * to.stride).enumerate() {
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
