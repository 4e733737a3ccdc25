//! Packs right matrices into the panels that a product reads.

use super::{LANES, PANEL, Right, narrow};
use rayon::prelude::*;

/// The columns that one packed panel stores for a matrix of this width.
pub fn panel_stride(width: usize) -> usize {
    width.next_multiple_of(LANES).min(PANEL)
}

/// The columns of a panel that [`pack`] makes.
pub fn panel(width: usize) -> usize {
    if narrow() { LANES } else { panel_stride(width) }
}

/// Floats that [`pack`] writes.
pub fn packed_len(depth: usize, width: usize) -> usize {
    width.next_multiple_of(panel(width)) * depth
}

/// Packs the `depth` x `width` matrix whose element (depth, column) is `at(depth, column)` into panels. A matrix that lies in memory
/// is packed several times as fast by its columns or rows.
pub fn pack(depth: usize, width: usize, out: &mut [f32], at: impl Fn(usize, usize) -> f32 + Sync) {
    assert_eq!(out.len(), packed_len(depth, width), "room for the panels");
    if out.is_empty() {
        return;
    }
    let stride = panel(width);
    out.par_chunks_mut(depth * stride).enumerate().for_each(|(panel, out)| {
        let first = panel * stride;
        let columns = stride.min(width - first);
        // Some steps of depth at a time, so that a weight's neighbours are read while their cache line is hot.
        for begin in (0..depth).step_by(LANES) {
            for column in 0..columns {
                for k in begin..(begin + LANES).min(depth) {
                    out[k * stride + column] = at(k, first + column);
                }
            }
        }
    });
}

/// [`pack`] of a matrix whose columns lie in memory: `column(c)` is `depth` numbers.
pub fn pack_columns<'a>(depth: usize, width: usize, out: &mut [f32], column: impl Fn(usize) -> &'a [f32] + Sync) {
    assert_eq!(out.len(), packed_len(depth, width), "room for the panels");
    let stride = panel(width);
    out.par_chunks_mut((depth * stride).max(1)).enumerate().for_each(|(i, out)| panel_of_columns(i, depth, width, out, &column));
}

/// [`pack_columns`] on one thread, for a small matrix.
pub fn pack_here<'a>(depth: usize, width: usize, out: &mut [f32], column: impl Fn(usize) -> &'a [f32]) {
    assert_eq!(out.len(), packed_len(depth, width), "room for the panels");
    let stride = panel(width);
    out.chunks_exact_mut((depth * stride).max(1)).enumerate().for_each(|(i, out)| panel_of_columns(i, depth, width, out, &column));
}

/// [`pack`] of a matrix whose rows lie in memory: `row(k)` is `width` numbers.
pub fn pack_rows<'a>(depth: usize, width: usize, out: &mut [f32], row: impl Fn(usize) -> &'a [f32] + Sync) {
    assert_eq!(out.len(), packed_len(depth, width), "room for the panels");
    let stride = panel(width);
    out.par_chunks_mut((depth * stride).max(1)).enumerate().for_each(|(i, out)| {
        let columns = stride.min(width - i * stride);
        for (k, out) in out.chunks_exact_mut(stride).enumerate() {
            out[..columns].copy_from_slice(&row(k)[i * stride..][..columns]);
        }
    });
}

fn panel_of_columns<'a>(panel_index: usize, depth: usize, width: usize, out: &mut [f32], column: &impl Fn(usize) -> &'a [f32]) {
    let stride = panel(width);
    let begin = panel_index * stride;
    let columns = stride.min(width - begin);
    for first in (0..columns).step_by(4) {
        let from: [&[f32]; 4] = std::array::from_fn(|i| column(begin + (first + i).min(columns - 1)));
        let whole = depth / 4 * 4;
        for k in (0..whole).step_by(4) {
            let square = transpose(from.map(|column| *column[k..].first_chunk().expect("inside depth")));
            for (i, row) in square.iter().enumerate() {
                out[(k + i) * stride + first..][..4].copy_from_slice(row);
            }
        }
        for k in whole..depth {
            out[k * stride + first..][..4].copy_from_slice(&from.map(|column| column[k]));
        }
    }
}

/// Four by four, as two rounds of interleaving, which vectors do.
#[inline(always)]
fn transpose(x: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    let low = |a: [f32; 4], b: [f32; 4]| [a[0], b[0], a[1], b[1]];
    let high = |a: [f32; 4], b: [f32; 4]| [a[2], b[2], a[3], b[3]];
    let y = [low(x[0], x[2]), high(x[0], x[2]), low(x[1], x[3]), high(x[1], x[3])];
    [low(y[0], y[2]), high(y[0], y[2]), low(y[1], y[3]), high(y[1], y[3])]
}

impl Right<'_> {
    /// A matrix that [`pack`] wrote.
    pub fn packed(data: &[f32], depth: usize, width: usize) -> Right<'_> {
        let stride = panel(width);
        Right::panels(data, width, stride, depth * stride)
    }

    /// A matrix in panels of `stride` columns, which [`panel`] gave and which begin `panel_step` apart.
    pub fn panels(data: &[f32], width: usize, stride: usize, panel_step: usize) -> Right<'_> {
        // A matrix of one panel may have any, and a product takes two.
        let panel = if stride == LANES { LANES } else { PANEL };
        Right { data, width, panel, panel_step, stride }
    }
}
