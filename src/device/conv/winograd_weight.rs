//! The gradient of 3x3 weights by Winograd's F(3x3, 4x4): the adjoint of F(4x4, 3x3).
//!
//! With V the inputs and Z the output gradients at the 36 points, the weights' gradient at a point is
//! Vᵀ Z summed over all tiles of the batch, and transforms back to nine weights.

use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

use super::Conv;
use super::tiles::{OUTSIDE, POINTS, TileLayout, Tiling, ZEROS, channels, odd_lines};
use super::transform;
use super::winograd::transform_input;
use crate::device::product::{self, LANES, Left, PANEL, Right, panel_stride, with_scratch};

/// Tiles whose products are summed in one go: their panel of 64 columns fits the first cache.
const DEPTH: usize = 64;
/// Numbers of V and Z together that each thread makes at a time, at least.
const GROUP: usize = 1_000_000;

/// `dw = x * dy`, or `dw += x * dy`.
///
/// By turns, V and Z of some pieces of the batch are made, piece by piece in parallel, and their products
/// added to the sums, in parallel by points and panels of outputs, but piece after piece: where the turns
/// change makes no difference.
pub(super) fn backward_weight(c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], add: bool) {
    let t = Tiling::new(c);
    let rows = (DEPTH / t.across).max(1);
    let (from, to) = (TileLayout::new(rows * t.across, c.channels), TileLayout::new(rows * t.across, c.outputs));
    let piece = POINTS * (from.step + to.step);
    let threads = rayon::current_num_threads();
    let width = panel_stride(c.outputs);
    let matrix = odd_lines(c.channels * width);
    let sums = c.outputs.div_ceil(PANEL) * POINTS * matrix;
    // Each turn reads and writes all sums: let it do as much with them.
    let pieces = (GROUP * threads).max(sums).div_ceil(piece).next_multiple_of(threads).min(t.rows().div_ceil(rows));
    with_scratch(sums + pieces * piece, |scratch| {
        let (sums, vz) = scratch.split_at_mut(sums);
        for begin in (0..t.rows()).step_by(pieces * rows) {
            let end = (begin + pieces * rows).min(t.rows());
            let count = |index: usize| rows.min(end - begin - index * rows);
            let vz = &mut vz[..(end - begin).div_ceil(rows) * piece];
            vz.par_chunks_mut(piece).enumerate().for_each(|(index, vz)| {
                let (v, z) = vz.split_at_mut(POINTS * from.step);
                transform_input(&t, x, begin + index * rows, count(index), v, from);
                transform_gradient(&t, dy, begin + index * rows, count(index), z, to);
            });
            sums.par_chunks_mut(matrix).enumerate().for_each(|(task, sums)| {
                let (panel, point) = (task / POINTS, task % POINTS);
                for (index, vz) in vz.chunks(piece).enumerate() {
                    let (v, z) = vz.split_at(POINTS * from.step);
                    let left = Left { data: &v[point * from.step..], row_step: 1, depth_step: from.stride };
                    let right = Right {
                        data: &z[point * to.step + panel * PANEL..],
                        width: width.min(c.outputs - panel * PANEL),
                        panel: PANEL,
                        panel_step: 0,
                        stride: to.stride,
                    };
                    let tiles = count(index) * t.across;
                    product::multiply(left, c.channels, tiles, right, sums, width, begin + index > 0);
                }
            });
        }
        dw.par_chunks_mut(PANEL * c.channels * 9).enumerate().for_each(|(panel, dw)| {
            transform_back(c.channels, &sums[panel * POINTS * matrix..], matrix, width, dw, add);
        });
    });
}

/// Transforms the output gradients of `count` tile rows from `first`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_gradient(t: &Tiling, dy: &[f32], first: usize, count: usize, out: &mut [f32], layout: TileLayout) {
    const FUSED: bool = match_target! { "x86_64+fma" => true, "aarch64+neon" => true, _ => false };
    let outputs = t.c.outputs;
    let mut half = transform::half();
    for tile in 0..count * t.across {
        let (pixel, height, width) = t.outputs_of(first + tile / t.across, tile % t.across);
        let mut places = [[OUTSIDE; 4]; 4];
        for (i, places) in places.iter_mut().enumerate().take(height) {
            for (j, place) in places.iter_mut().enumerate().take(width) {
                *place = (pixel + i * t.out_width + j) * outputs;
            }
        }
        let wide = outputs / PANEL * PANEL;
        for channel in (0..wide).step_by(PANEL) {
            let out = &mut out[tile * layout.stride + channel..];
            gradient_square::<FUSED, PANEL>(dy, &places, channel, &mut half, out, layout.step);
        }
        for channel in (wide..outputs).step_by(LANES) {
            let out = &mut out[tile * layout.stride + channel..];
            gradient_square::<FUSED, LANES>(dy, &places, channel, &mut half, out, layout.step);
        }
    }
}

#[inline(always)]
fn gradient_square<const FUSED: bool, const W: usize>(
    dy: &[f32],
    places: &[[usize; 4]; 4],
    channel: usize,
    half: &mut transform::Half<4, 6>,
    out: &mut [f32],
    step: usize,
) {
    let at = |i: usize, j: usize| {
        if places[i][j] == OUTSIDE { channels::<W>(&ZEROS, 0) } else { channels(dy, places[i][j] + channel) }
    };
    transform::columns(half, at, transform::output_gradient::<FUSED>);
    for i in 0..6 {
        for v in 0..W / LANES {
            let points = transform::line(half, i, v, transform::output_gradient::<FUSED>);
            for (j, point) in points.0.iter().enumerate() {
                out[(i * 6 + j) * step + v * LANES..][..LANES].copy_from_slice(point);
            }
        }
    }
}

/// The gradients of the weights of one panel of outputs from their sums at the points: `[point, channel,
/// column]` at `point * step + channel * stride + column`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_back(count: usize, sums: &[f32], step: usize, stride: usize, dw: &mut [f32], add: bool) {
    const FUSED: bool = match_target! { "x86_64+fma" => true, "aarch64+neon" => true, _ => false };
    let mut half = transform::half();
    let mut block = [[[0.0; LANES]; 9]; LANES];
    for (vector, dw) in dw.chunks_exact_mut(LANES * count * 9).enumerate() {
        for base in (0..count).step_by(LANES) {
            for (channel, block) in block.iter_mut().enumerate() {
                let at = |i: usize, j: usize| channels::<LANES>(sums, (i * 6 + j) * step + (base + channel) * stride + vector * LANES);
                transform::columns(&mut half, at, transform::weight_gradient::<FUSED>);
                for (i, block) in block.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                    *block = transform::line(&half, i, 0, transform::weight_gradient::<FUSED>).0;
                }
            }
            for (output, dw) in dw.chunks_exact_mut(count * 9).enumerate() {
                let dw = dw[base * 9..][..LANES * 9].iter_mut();
                for (dw, value) in dw.zip(block.as_flattened()) {
                    *dw = if add { *dw + value[output] } else { value[output] };
                }
            }
        }
    }
}
