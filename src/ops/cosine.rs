//! The mean cosine similarity of paired rows, which BYOL (Grill et al. 2020) and SimSiam (Chen and He 2021, Eq. 1) maximise.

use super::reduce::{inverse_length, sum_of};
use super::{Case, scaled_sum};
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// y `[1]` = mean over rows of a_i · b_i / (|a_i| |b_i|), for a and b `[rows, c]`. A row of zeros counts as 1e-12 long.
    ///
    /// Gradient: da_i = dy / (rows |a_i|) (b_i / |b_i| - cos_i a_i / |a_i|). b is a target and gets none. Kernels: `cosine.cu`.
    ///
    /// # Panics
    /// a and b differ in shape.
    pub fn cosine(&mut self, a: Var, b: Var) -> Var {
        let shape = self.shape(a);
        assert_eq!(shape, self.shape(b), "{}: cosine pairs rows, so both sides have one shape", self.path());
        let (rows, cols) = (shape.rows(), shape.cols());
        let (y, saved) = (self.tape.f32([1]), self.tape.f32([3, rows]));
        self.record(&[a], y, Forward { y, saved, a, b, rows, cols }, move |t, dy| {
            if let Some(da) = t.gradient_of(a) {
                t.no_grad(Backward { da, dy, a, b, saved, rows, cols })
            }
        })
    }
}

struct Forward {
    y: Var,     // [1]
    saved: Var, // [3, rows]: cosine, 1/|a|, 1/|b|
    a: Var,     // [rows, cols]
    b: Var,     // [rows, cols]
    rows: usize,
    cols: usize,
}

/// Blocks of eight warps, one row per warp.
fn launch(kernel: &'static str, rows: usize) -> Launch {
    Launch::blocks(kernel, rows.div_ceil(8))
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "cosine_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.saved], &[self.a, self.b])
    }
    fn cpu(&self, m: &Host) {
        let (a, b, mut saved) = (m.f(self.a), m.f(self.b), m.f_mut(self.saved));
        let (cosines, inverses) = saved.split_at_mut(self.rows);
        let (of_a, of_b) = inverses.split_at_mut(self.rows);
        let pairs = a.par_chunks(self.cols).zip(b.par_chunks(self.cols));
        cosines.par_iter_mut().zip(of_a).zip(of_b).zip(pairs).for_each(|(((cosine, ia), ib), (a, b))| {
            (*ia, *ib) = (inverse_length(a), inverse_length(b));
            *cosine = (sum_of([a, b], |[a, b]| a * b) * *ia as f64 * *ib as f64) as f32;
        });
        m.f_mut(self.y)[0] = (cosines.iter().map(|c| *c as f64).sum::<f64>() / self.rows as f64) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.saved.into(), self.a.into(), self.b.into(), self.rows.into(), self.cols.into()];
        g.launch(&launch("cosine_fwd", self.rows), &args);
        scaled_sum::launch(g, self.y, self.saved.into(), self.rows, 1.0 / self.rows as f32);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 6 * n, bytes: 2 * element * n }
    }
}

struct Backward {
    da: Grad,   // [rows, cols]
    dy: Var,    // [1]
    a: Var,     // [rows, cols]
    b: Var,     // [rows, cols]
    saved: Var, // [3, rows]
    rows: usize,
    cols: usize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "cosine_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.a, self.b, self.saved]).grad(self.da)
    }
    fn cpu(&self, m: &Host) {
        let (a, b, saved, add) = (m.f(self.a), m.f(self.b), m.f(self.saved), self.da.add);
        let (scale, saved, n) = (m.f(self.dy)[0] / self.rows as f32, &*saved, self.rows);
        let rows = a.par_chunks(self.cols).zip(b.par_chunks(self.cols));
        m.f_mut(self.da.var).par_chunks_mut(self.cols).zip(rows).enumerate().for_each(|(i, (da, (a, b)))| {
            let (cosine, of_a, of_b) = (saved[i], saved[n + i], saved[2 * n + i]);
            for ((da, a), b) in da.iter_mut().zip(a).zip(b) {
                let g = scale * of_a * (b * of_b - a * of_a * cosine);
                *da = if add { *da + g } else { g };
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let from = [self.dy.into(), self.a.into(), self.b.into(), self.saved.into()];
        let rest = [self.da.add.into(), self.rows.into(), self.cols.into()];
        g.launch(&launch("cosine_bwd", self.rows), &[&[self.da.var.into()][..], &from, &rest].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 5 * n, bytes: element * (3 + self.da.add as u64) * n }
    }
}

/// The second input is a target.
fn case(s: &mut Scope, x: &[Var]) -> Var {
    s.tape().stop_gradient(x[1]);
    s.cosine(x[0], x[1])
}

pub static CASES: &[Case] = &[
    Case { name: "cosine/one", mode: Mode::Train, inputs: &[&[1, 2], &[1, 2]], build: case },
    Case { name: "cosine/ragged", mode: Mode::Train, inputs: &[&[19, 37], &[19, 37]], build: case },
    Case { name: "cosine/wide", mode: Mode::Train, inputs: &[&[12, 520], &[12, 520]], build: case },
];
