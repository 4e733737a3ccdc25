//! dx += dy: the gradient of a sum, for the case that another gradient of x is there already.

use super::CHUNK;
use crate::device::{Gpu, Host, Launch, THREADS};
use crate::tape::{Call, Cost, Grad, Operands, Tape};
use crate::var::Var;
use rayon::prelude::*;

impl Tape {
    /// Adds `dy` to the gradient of `to`. If it is the first part, `dy` becomes that gradient and nothing is computed or copied: so `dy` must
    /// be complete, and no later call may read it. Kernel: `add.cu`.
    ///
    /// # Panics
    /// The shapes differ, or a call without a gradient lies between `to` and what wants one.
    pub fn pass_gradient(&mut self, to: Var, dy: Var) {
        if !self.requires_grad(to) {
            return;
        }
        match self.gradient(to) {
            None => self.seed(to, dy),
            Some(_) => {
                let rows = self.shape(to).rows();
                let cols = self.shape(to).cols();
                if let Some(dx) = self.gradient_of(to) {
                    self.no_grad(Add { dx, dy, rows, cols })
                }
            }
        }
    }
}

struct Add {
    dx: Grad, // [rows, cols], added to
    dy: Var,  // [rows, cols]
    rows: usize,
    cols: usize,
}

impl Call for Add {
    fn name(&self) -> &'static str {
        "add_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let dy = m.f(self.dy);
        m.f_mut(self.dx.var).par_chunks_mut(CHUNK).zip(dy.par_chunks(CHUNK)).for_each(|(dx, dy)| {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        });
    }
    fn gpu(&self, g: &Gpu) {
        let launch = Launch::blocks("add_bwd", (self.rows * self.cols).div_ceil(8 * THREADS));
        g.launch(&launch, &[self.dx.var.into(), self.dy.into(), self.rows.into(), self.cols.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: n, bytes: 3 * element * n }
    }
}
