//! y = x Φ(x), with erf and not tanh, as an op of its own. Behind a product it is part of the epilogue of [`Dense`](super::linear::Dense).

use super::{CHUNK, Case};
use crate::device::{Gpu, Host, Launch, THREADS, gelu};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// y = x Φ(x) elementwise (Hendrycks and Gimpel 2016), Φ the normal distribution; any shape. Gradient: dx = dy (Φ(x) + x φ(x)).
    /// Kernels: `gelu.cu`.
    pub fn gelu(&mut self, x: Var) -> Var {
        let shape = self.shape(x);
        let y = self.tape.var(shape);
        let (rows, cols) = (shape.rows(), shape.cols());
        self.record(&[x], y, Forward { y, x, rows, cols }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                t.no_grad(Backward { dx, dy, x, rows, cols })
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
        "gelu_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.x])
    }
    fn cpu(&self, m: &Host) {
        let x = m.f(self.x);
        m.f_mut(self.y).par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            y.copy_from_slice(x);
            gelu::apply(y);
        });
    }
    fn gpu(&self, g: &Gpu) {
        g.launch(&launch("gelu_fwd", self.rows, self.cols), &[self.y.into(), self.x.into(), self.rows.into(), self.cols.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 20 * n, bytes: 2 * element * n }
    }
}

/// Also used by [`Dense`](super::linear::Dense) with a GELU.
pub(super) struct Backward {
    pub dx: Grad, // [rows, cols]
    pub dy: Var,  // [rows, cols]
    pub x: Var,   // [rows, cols]
    pub rows: usize,
    pub cols: usize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "gelu_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.x]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (dy, x, add) = (m.f(self.dy), m.f(self.x), self.dx.add);
        let mut dx = m.f_mut(self.dx.var);
        dx.par_chunks_mut(CHUNK).zip(dy.par_chunks(CHUNK).zip(x.par_chunks(CHUNK))).for_each(|(dx, (dy, x))| {
            gelu::backward(dx, dy, x, add);
        });
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.dx.var.into(), self.dy.into(), self.x.into(), self.dx.add.into(), self.rows.into(), self.cols.into()];
        g.launch(&launch("gelu_bwd", self.rows, self.cols), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 30 * n, bytes: element * (3 + self.dx.add as u64) * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "gelu/one", mode: Mode::Train, inputs: &[&[1, 1]], build: |s, x| s.gelu(x[0]) },
    Case { name: "gelu/blocks", mode: Mode::Train, inputs: &[&[50, 64]], build: |s, x| s.gelu(x[0]) },
    Case { name: "gelu/ragged", mode: Mode::Train, inputs: &[&[37, 19]], build: |s, x| s.gelu(x[0]) },
];
