//! Standardises columns: minus their mean, and divided by their standard deviation if asked.

use super::column_blocks;
use crate::device::{Gpu, Host};
use crate::tape::{Call, Cost, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

/// A call without a gradient of its own: the backward of the loss that uses it includes it.
pub(super) struct Columns {
    pub y: Var,   // [rows, cols]
    pub std: Var, // [cols]: sqrt(variance + eps)
    x: Var,       // [rows, cols]
    /// Barlow Twins: divide by the standard deviation, with a biased variance. Otherwise (VICReg) only `std` is measured, unbiased.
    scaled: bool,
    eps: f32,
    rows: usize,
    cols: usize,
}

impl Columns {
    /// Appends the call for x `[rows, cols]`; returns y `[rows, cols]` and std `[cols]`.
    pub fn record(s: &mut Scope, x: Var, scaled: bool, eps: f32) -> (Var, Var) {
        let shape = s.shape(x);
        let (rows, cols) = (shape.rows(), shape.cols());
        let t = s.tape();
        let (y, std) = (t.var([rows, cols]), t.f32([cols]));
        t.no_grad(Columns { y, std, x, scaled, eps, rows, cols });
        (y, std)
    }
}

/// Columns per task on the CPU.
const STRIP: usize = 64;

/// Returns the means of columns `first` and following of x, as many as `std` has; `std` gets their standard deviations.
fn measure(c: &Columns, x: &[f32], first: usize, std: &mut [f32]) -> Vec<f32> {
    let width = std.len();
    let strip = || x.chunks_exact(c.cols).map(|row| &row[first..][..width]);
    let (mut sums, mut squares) = (vec![0.0f64; width], vec![0.0f64; width]);
    strip().for_each(|row| sums.iter_mut().zip(row).for_each(|(s, x)| *s += *x as f64));
    let means: Vec<f64> = sums.iter().map(|s| s / c.rows as f64).collect();
    for row in strip() {
        squares.iter_mut().zip(row).zip(&means).for_each(|((q, x), mean)| *q += (*x as f64 - mean).powi(2));
    }
    let over = if c.scaled { c.rows } else { c.rows - 1 } as f64;
    std.iter_mut().zip(&squares).for_each(|(std, q)| *std = (q / over + c.eps as f64).sqrt() as f32);
    means.into_iter().map(|m| m as f32).collect()
}

impl Call for Columns {
    fn name(&self) -> &'static str {
        "decorrelation_columns"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.std], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let (x, mut std) = (m.f(self.x), m.f_mut(self.std));
        let x = &*x;
        let strips = std.par_chunks_mut(STRIP).enumerate();
        let means: Vec<f32> = strips.flat_map_iter(|(i, std)| measure(self, x, i * STRIP, std)).collect();
        let inverse: Vec<f32> = std.iter().map(|s| if self.scaled { 1.0 / s } else { 1.0 }).collect();
        m.f_mut(self.y).par_chunks_mut(self.cols).zip(x.par_chunks(self.cols)).for_each(|(y, x)| {
            for (((y, x), mean), inverse) in y.iter_mut().zip(x).zip(&means).zip(&inverse) {
                *y = (x - mean) * inverse;
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.y.into(), self.std.into(), self.x.into(), self.scaled.into(), self.rows.into(), self.cols.into(), self.eps.into()];
        g.launch(&column_blocks(g, "decorrelation_columns", self.cols), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 6 * n, bytes: 2 * element * n }
    }
}
