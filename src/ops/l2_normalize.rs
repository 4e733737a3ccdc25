//! y = x / max(|x|, 1e-12) for each row, as PyTorch's normalize.

use super::reduce::{SMALLEST, inverse_length, sum_of};
use super::{Case, chunk_rows};
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use multiversion::multiversion;
use rayon::prelude::*;

/// Rows per block: one per warp.
const ROWS: usize = 8;

impl Scope<'_> {
    /// y = x / max(|x|, 1e-12) for each row, for x and y `[.., c]`, as PyTorch's `normalize`. Gradient: dx = (dy - y (y · dy)) / |x|.
    /// Kernels: `l2_normalize.cu`.
    pub fn l2_normalize(&mut self, x: Var) -> Var {
        let shape = self.shape(x);
        let (rows, cols) = (shape.rows(), shape.cols());
        let (y, inverse) = (self.tape.var(shape), self.tape.f32([rows]));
        self.record(&[x], y, Forward { y, inverse, x, rows, cols }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, y, inverse, rows, cols })
            }
        })
    }
}

struct Forward {
    y: Var,       // [rows, cols]
    inverse: Var, // [rows]: 1 / length
    x: Var,       // [rows, cols]
    rows: usize,
    cols: usize,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn scale_rows(y: &mut [f32], inverse: &mut [f32], x: &[f32]) {
    let cols = x.len() / inverse.len();
    for ((y, inverse), x) in y.chunks_exact_mut(cols).zip(inverse).zip(x.chunks_exact(cols)) {
        *inverse = inverse_length(x);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * *inverse);
    }
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "l2_normalize_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.inverse], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let (x, rows) = (m.f(self.x), chunk_rows(self.cols));
        let (mut y, mut inverse) = (m.f_mut(self.y), m.f_mut(self.inverse));
        let chunks = y.par_chunks_mut(rows * self.cols).zip(inverse.par_chunks_mut(rows)).zip(x.par_chunks(rows * self.cols));
        chunks.for_each(|((y, inverse), x)| scale_rows(y, inverse, x));
    }
    fn gpu(&self, g: &Gpu) {
        let launch = Launch::blocks("l2_normalize_fwd", self.rows.div_ceil(ROWS));
        g.launch(&launch, &[self.y.into(), self.inverse.into(), self.x.into(), self.rows.into(), self.cols.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 3 * n, bytes: 2 * element * n }
    }
}

struct Backward {
    dx: Grad,     // [rows, cols]
    dy: Var,      // [rows, cols]
    y: Var,       // [rows, cols]
    inverse: Var, // [rows]
    rows: usize,
    cols: usize,
}

/// dx = (dy - y (y · dy)) / |x|; a row that was shorter than the smallest length is only scaled.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn rows_back(dx: &mut [f32], dy: &[f32], y: &[f32], inverse: &[f32], add: bool) {
    let cols = y.len() / inverse.len();
    for (((dx, dy), y), inverse) in dx.chunks_exact_mut(cols).zip(dy.chunks_exact(cols)).zip(y.chunks_exact(cols)).zip(inverse) {
        let cut = *inverse >= (1.0 / SMALLEST) as f32;
        let along = if cut { 0.0 } else { sum_of([dy, y], |[dy, y]| dy * y) as f32 };
        for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
            let d = (dy - y * along) * inverse;
            *dx = if add { *dx + d } else { d };
        }
    }
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "l2_normalize_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.y, self.inverse]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (dy, y, inverse, rows) = (m.f(self.dy), m.f(self.y), m.f(self.inverse), chunk_rows(self.cols));
        let (mut dx, size) = (m.f_mut(self.dx.var), rows * self.cols);
        let chunks = dx.par_chunks_mut(size).zip(dy.par_chunks(size)).zip(y.par_chunks(size).zip(inverse.par_chunks(rows)));
        chunks.for_each(|((dx, dy), (y, inverse))| rows_back(dx, dy, y, inverse, self.dx.add));
    }
    fn gpu(&self, g: &Gpu) {
        let launch = Launch::blocks("l2_normalize_bwd", self.rows.div_ceil(ROWS));
        let pointers = [self.dx.var.into(), self.dy.into(), self.y.into(), self.inverse.into()];
        g.launch(&launch, &[&pointers[..], &[self.dx.add.into(), self.rows.into(), self.cols.into()]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 5 * n, bytes: element * (3 + self.dx.add as u64) * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "l2_normalize/two", mode: Mode::Train, inputs: &[&[1, 2]], build: |s, x| s.l2_normalize(x[0]) },
    Case { name: "l2_normalize/ragged", mode: Mode::Train, inputs: &[&[19, 37]], build: |s, x| s.l2_normalize(x[0]) },
    Case { name: "l2_normalize/bottleneck", mode: Mode::Train, inputs: &[&[10, 256]], build: |s, x| s.l2_normalize(x[0]) },
];
