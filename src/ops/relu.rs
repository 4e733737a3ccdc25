//! y = max(x, 0); a NaN stays a NaN.

use super::{CHUNK, Case};
use crate::device::{Gpu, Host, Launch, THREADS};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// y = max(x, 0) elementwise; any shape. A NaN stays a NaN. Gradient: dx = dy where y > 0, else 0. Kernels: `relu.cu`.
    pub fn relu(&mut self, x: Var) -> Var {
        let shape = self.shape(x);
        let y = self.tape.var(shape);
        let (rows, cols) = (shape.rows(), shape.cols());
        self.record(&[x], y, Forward { y, x, rows, cols }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, y, rows, cols })
            }
        })
    }
}

/// Blocks with eight values per thread.
fn launch(kernel: &'static str, rows: usize, cols: usize) -> Launch {
    Launch::blocks(kernel, (rows * cols).div_ceil(8 * THREADS))
}

struct Forward {
    y: Var, // [rows, cols]
    x: Var, // [rows, cols]
    rows: usize,
    cols: usize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "relu_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let x = m.f(self.x);
        m.f_mut(self.y).par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = if *x < 0.0 { 0.0 } else { *x });
        });
    }
    fn gpu(&self, g: &Gpu) {
        g.launch(&launch("relu_fwd", self.rows, self.cols), &[self.y.into(), self.x.into(), self.rows.into(), self.cols.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: n, bytes: 2 * element * n }
    }
}

struct Backward {
    dx: Grad, // [rows, cols]
    dy: Var,  // [rows, cols]
    y: Var,   // [rows, cols]
    rows: usize,
    cols: usize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "relu_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.y]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (dy, y, add) = (m.f(self.dy), m.f(self.y), self.dx.add);
        let mut dx = m.f_mut(self.dx.var);
        dx.par_chunks_mut(CHUNK).zip(dy.par_chunks(CHUNK).zip(y.par_chunks(CHUNK))).for_each(|(dx, (dy, y))| {
            for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
                let g = if *y > 0.0 { *dy } else { 0.0 };
                *dx = if add { *dx + g } else { g };
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.dx.var.into(), self.dy.into(), self.y.into(), self.dx.add.into(), self.rows.into(), self.cols.into()];
        g.launch(&launch("relu_bwd", self.rows, self.cols), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: n, bytes: element * (3 + self.dx.add as u64) * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "relu/one", mode: Mode::Train, inputs: &[&[1, 1]], build: |s, x| s.relu(x[0]) },
    Case { name: "relu/blocks", mode: Mode::Train, inputs: &[&[50, 64]], build: |s, x| s.relu(x[0]) },
    Case { name: "relu/ragged", mode: Mode::Train, inputs: &[&[37, 19]], build: |s, x| s.relu(x[0]) },
];
