//! The gradient of 3x3 weights by Winograd's F(3x3, 4x4): the adjoint of F(4x4, 3x3).
//!
//! With V the inputs and Z the output gradients at the 36 points, the weights' gradient at a point is
//! Vᵀ Z summed over all tiles of the batch, and transforms back to nine weights.

use multiversion::{multiversion, target::selected_target};
use rayon::prelude::*;

use super::Conv;
use super::transform;
use super::winograd::{Layout, OUTSIDE, POINTS, Tiling, ZEROS, channels, transform_input};
use crate::device::product::{self, LANES, Left, PANEL, Right, panel_stride, with_scratch};

/// Tiles whose products are summed in one go: their panel of 64 columns fits the first cache.
const DEPTH: usize = 64;
/// Numbers of V and Z together that each thread makes at a time.
const GROUP: usize = 1_000_000;

/// `dw = x * dy`, or `dw += x * dy`.
///
/// By turns, V and Z of some pieces of the batch are made, piece by piece in parallel, and their products
/// added to the sums, in parallel by points and panels of outputs, but piece after piece: where the turns
/// change makes no difference.
pub(super) fn backward_weight(c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], add: bool) {
    let t = Tiling::new(c);
    let rows = (DEPTH / t.across).max(1);
    let (from, to) = (Layout::new(rows * t.across, c.channels), Layout::new(rows * t.across, c.outputs));
    let piece = POINTS * (from.step + to.step);
    let threads = rayon::current_num_threads();
    let pieces = ((GROUP / piece).max(1) * threads).min(t.rows().div_ceil(rows));
    let width = panel_stride(c.outputs);
    let matrix = c.channels * width;
    let sums = c.outputs.div_ceil(PANEL) * POINTS * matrix;
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
                        panel_step: 0,
                        stride: to.stride,
                    };
                    let tiles = count(index) * t.across;
                    product::multiply(left, c.channels, tiles, right, sums, width, begin + index > 0);
                }
            });
        }
        dw.par_chunks_mut(LANES * c.channels * 9).enumerate().for_each(|(chunk, dw)| {
            let output = chunk * LANES;
            let sums = &sums[output / PANEL * POINTS * matrix + output % PANEL..];
            transform_back(c.channels, sums, width, dw, add);
        });
    });
}

/// Transforms the output gradients of `count` tile rows from `first`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_gradient(t: &Tiling, dy: &[f32], first: usize, count: usize, out: &mut [f32], layout: Layout) {
    const FUSED: bool = selected_target!().supports_feature_str("fma");
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
    dy: &[f32], places: &[[usize; 4]; 4], channel: usize, half: &mut transform::Half<4, 6>, out: &mut [f32],
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

/// The gradients of the weights of [`LANES`] outputs from their sums at the points: [point, channel, stride].
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_back(count: usize, sums: &[f32], stride: usize, dw: &mut [f32], add: bool) {
    const FUSED: bool = selected_target!().supports_feature_str("fma");
    let mut half = transform::half();
    // [output, channel, tap] of some channels: dw is then written in runs and not number by number.
    let mut block = [[[0.0; 9]; LANES]; LANES];
    for base in (0..count).step_by(LANES) {
        for channel in 0..LANES {
            let at = |i: usize, j: usize| {
                channels::<LANES>(sums, ((i * 6 + j) * count + base + channel) * stride)
            };
            transform::columns(&mut half, at, transform::weight_gradient::<FUSED>);
            for i in 0..3 {
                let values = transform::line(&half, i, 0, transform::weight_gradient::<FUSED>);
                for j in 0..3 {
                    for lane in 0..LANES {
                        block[lane][channel][i * 3 + j] = values.0[j][lane];
                    }
                }
            }
        }
        for (output, block) in block.iter().enumerate() {
            let dw = &mut dw[(output * count + base) * 9..][..LANES * 9];
            if add {
                dw.iter_mut().zip(block.as_flattened()).for_each(|(dw, value)| *dw += value);
            } else {
                dw.copy_from_slice(block.as_flattened());
            }
        }
    }
}
