//! Sums in an order that shapes alone decide: the same bits on every machine and for any number of threads. Not an op.

use super::chunk_rows;
use multiversion::multiversion;
use rayon::prelude::*;

/// The sum of `f` over the elements of `rows`, all of one length. Sixteen running sums in f32 (a vector register), added up in f64.
#[inline(always)]
pub(crate) fn sum_of<const K: usize>(rows: [&[f32]; K], f: impl Fn([f32; K]) -> f32) -> f64 {
    const LANES: usize = 16;
    let len = rows[0].len();
    let chunks = rows.map(|r| r[..len].as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for i in 0..len / LANES {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(std::array::from_fn(|k| chunks[k].0[i][l]));
        }
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(len % LANES) {
        *lane += f(std::array::from_fn(|k| chunks[k].1[l]));
    }
    lanes.iter().map(|v| *v as f64).sum()
}

/// 1 / max(|row|, [`SMALLEST`]), as in PyTorch's `normalize`: a row of zeros has no direction. A NaN stays a NaN.
pub(crate) fn inverse_length(row: &[f32]) -> f32 {
    let length = sum_of([row], |[v]| v * v).sqrt();
    (1.0 / if length < SMALLEST { SMALLEST } else { length }) as f32
}

/// The length that a row of zeros counts as.
pub(crate) const SMALLEST: f64 = 1e-12;

/// 1 / |row|, or 0 for a row of zeros, which then stays at the origin. A NaN stays a NaN.
pub(crate) fn inverse_or_zero(row: &[f32]) -> f32 {
    let length = sum_of([row], |[v]| v * v).sqrt();
    if length > 0.0 { (1.0 / length) as f32 } else { length as f32 }
}

/// The sum of each column of x `[rows, cols]`: chunks of rows in f32, the chunks in f64.
pub(crate) fn column_sums(x: &[f32], cols: usize) -> Vec<f64> {
    let chunks: Vec<Vec<f32>> = x
        .par_chunks(chunk_rows(cols) * cols)
        .map(|rows| {
            let mut sum = vec![0.0; cols];
            add_rows(&mut sum, rows);
            sum
        })
        .collect();
    (0..cols).map(|c| chunks.iter().map(|s| s[c] as f64).sum()).collect()
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn add_rows(sum: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
}
