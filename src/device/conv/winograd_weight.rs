//! The gradient of 3x3 weights by Winograd's F(3x3, 4x4): the adjoint of F(4x4, 3x3).
//!
//! With V the inputs and Z the output gradients at the 36 points, the weights' gradient at a point is
//! Vᵀ Z summed over all tiles of the batch, and transforms back to nine weights.

use multiversion::{multiversion, target::selected_target};
use rayon::prelude::*;

use super::Conv;
use super::transform::{self, Lanes};
use super::winograd::{Layout, POINTS, Tiling, transform_input};
use crate::device::product::{self, LANES, Left, PANEL, Right, with_scratch};

/// Tiles whose products are summed in one go.
const DEPTH: usize = 64;
/// Numbers of V and Z together that are made at a time.
const GROUP: usize = 4_000_000;
/// Rows (input channels) of one task.
const ROWS: usize = 96;

/// `dw = x * dy`, or `dw += x * dy`.
pub(super) fn backward_weight(c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], add: bool) {
    let t = Tiling::new(c);
    let rows = (DEPTH / t.across).max(1);
    let (from, to) = (Layout::new(rows * t.across, c.channels), Layout::new(rows * t.across, c.outputs));
    let piece = POINTS * (from.step + to.step);
    let pieces = (GROUP / piece).max(1).min(t.rows().div_ceil(rows));
    let matrix = c.channels * c.outputs;
    with_scratch(POINTS * matrix + pieces * piece, |scratch| {
        let (du, vz) = scratch.split_at_mut(POINTS * matrix);
        for begin in (0..t.rows()).step_by(pieces * rows) {
            let end = (begin + pieces * rows).min(t.rows());
            let tiles = |index: usize| rows.min(end - begin - index * rows) * t.across;
            let vz = &mut vz[..(end - begin).div_ceil(rows) * piece];
            vz.par_chunks_mut(piece).enumerate().for_each(|(index, vz)| {
                let (v, z) = vz.split_at_mut(POINTS * from.step);
                let first = begin + index * rows;
                transform_input(&t, x, first, tiles(index) / t.across, v, from);
                transform_gradient(&t, dy, first, tiles(index) / t.across, z, to);
            });
            let size = ROWS.min(c.channels) * c.outputs;
            let per_point = matrix.div_ceil(size);
            let mut tasks: Vec<_> = du.chunks_mut(matrix).flat_map(|du| du.chunks_mut(size)).collect();
            tasks.par_iter_mut().enumerate().for_each(|(task, du)| {
                let (point, channel) = (task / per_point, task % per_point * ROWS);
                for (index, vz) in vz.chunks(piece).enumerate() {
                    let (v, z) = vz.split_at(POINTS * from.step);
                    let left = Left { data: &v[point * from.step + channel..], row_step: 1, depth_step: from.stride };
                    let right = Right {
                        data: &z[point * to.step..],
                        width: c.outputs,
                        panel_step: PANEL,
                        stride: to.stride,
                    };
                    let channels = du.len() / c.outputs;
                    product::multiply(left, channels, tiles(index), right, du, c.outputs, begin + index > 0);
                }
            });
        }
        dw.par_chunks_mut(LANES * c.channels * 9).enumerate().for_each(|(chunk, dw)| {
            transform_back(c, du, chunk * LANES, dw, add);
        });
    });
}

/// Transforms the output gradients of `count` tile rows from `first`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_gradient(t: &Tiling, dy: &[f32], first: usize, count: usize, out: &mut [f32], layout: Layout) {
    const FUSED: bool = selected_target!().supports_feature_str("fma");
    let outputs = t.c.outputs;
    for tile in 0..count * t.across {
        let (start, height, width) = t.outputs_of(first + tile / t.across, tile % t.across);
        for channel in (0..outputs).step_by(LANES) {
            let mut half = [[Lanes::ZERO; 4]; 6];
            for j in 0..width {
                let mut d = [Lanes::ZERO; 4];
                for i in 0..height {
                    d[i] = Lanes::load(&dy[(start + i * t.out_width + j) * outputs + channel..]);
                }
                let points = transform::output_gradient::<FUSED>(d);
                for i in 0..6 {
                    half[i][j] = points[i];
                }
            }
            for (i, half) in half.into_iter().enumerate() {
                for (j, point) in transform::output_gradient::<FUSED>(half).into_iter().enumerate() {
                    point.store(&mut out[(i * 6 + j) * layout.step + tile * layout.stride + channel..]);
                }
            }
        }
    }
}

/// The gradients of the weights of [`LANES`] outputs from `output`, from the sums at the points.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn transform_back(c: &Conv, du: &[f32], output: usize, dw: &mut [f32], add: bool) {
    const FUSED: bool = selected_target!().supports_feature_str("fma");
    for channel in 0..c.channels {
        let at = |point: usize| (point * c.channels + channel) * c.outputs + output;
        let mut half = [[Lanes::ZERO; 6]; 3];
        for j in 0..6 {
            let points = [0, 1, 2, 3, 4, 5].map(|i| Lanes::load(&du[at(i * 6 + j)..]));
            let values = transform::weight_gradient::<FUSED>(points);
            for i in 0..3 {
                half[i][j] = values[i];
            }
        }
        for (i, half) in half.into_iter().enumerate() {
            for (j, value) in transform::weight_gradient::<FUSED>(half).into_iter().enumerate() {
                for lane in 0..LANES {
                    let dw = &mut dw[(lane * c.channels + channel) * 9 + i * 3 + j];
                    *dw = if add { *dw + value.0[lane] } else { value.0[lane] };
                }
            }
        }
    }
}
