//! The mean cosine of paired rows: what BYOL and SimSiam maximise.

use super::{Case, total};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

impl Scope<'_> {
    /// The mean `[1]` over rows of the cosine of a's and b's row, both `[rows, c]`; the gradient goes to whichever wants it.
    /// A row of zeros counts as 1e-12 long.
    pub fn cosine(&mut self, a: Var, b: Var) -> Var {
        let shape = self.shape(a);
        assert_eq!(shape, self.shape(b), "{}: cosine pairs rows, so both sides have one shape", self.path());
        let (rows, cols) = (shape.rows(), shape.cols());
        let (y, saved) = (self.tape.exact([1]), self.tape.exact([3, rows]));
        self.record(&[a, b], y, Forward { y, saved, a, b, rows, cols }, move |t, dy| {
            for (x, other, first) in [(a, b, true), (b, a, false)] {
                if let Some(dx) = t.gradient_of(x) {
                    t.call(Backward { dx, dy, x, other, saved, first, rows, cols })
                }
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

/// Blocks of eight warps, of which each takes a row.
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
            (*ia, *ib) = (total::inverse_length(a), total::inverse_length(b));
            *cosine = (total::sum(a.len(), |i| a[i] * b[i]) * *ia as f64 * *ib as f64) as f32;
        });
        m.f_mut(self.y)[0] = (cosines.iter().map(|c| *c as f64).sum::<f64>() / self.rows as f64) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let args = [self.saved.into(), self.a.into(), self.b.into(), self.rows.into(), self.cols.into()];
        g.launch(&launch("cosine_fwd", self.rows), &args);
        total::launch(g, self.y, self.saved.into(), self.rows, 1.0 / self.rows as f32);
    }
    fn cost(&self, real: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 6 * n, bytes: 2 * real * n }
    }
}

struct Backward {
    dx: Grad,   // [rows, cols]
    dy: Var,    // [1]
    x: Var,     // [rows, cols]
    other: Var, // [rows, cols]
    saved: Var, // [3, rows]
    /// x is the first of the pair.
    first: bool,
    rows: usize,
    cols: usize,
}

impl Backward {
    /// Where the inverse lengths of x and of the other side begin.
    fn inverses(&self) -> [usize; 2] {
        if self.first { [self.rows, 2 * self.rows] } else { [2 * self.rows, self.rows] }
    }
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "cosine_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.x, self.other, self.saved]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        let (x, other, saved, add) = (m.f(self.x), m.f(self.other), m.f(self.saved), self.dx.add);
        let scale = m.f(self.dy)[0] / self.rows as f32;
        let ([of_x, of_other], saved) = (self.inverses(), &*saved);
        let rows = x.par_chunks(self.cols).zip(other.par_chunks(self.cols));
        m.f_mut(self.dx.var).par_chunks_mut(self.cols).zip(rows).enumerate().for_each(|(i, (dx, (x, other)))| {
            let (cosine, ix, io) = (saved[i], saved[of_x + i], saved[of_other + i]);
            for ((dx, x), o) in dx.iter_mut().zip(x).zip(other) {
                let g = scale * ix * (o * io - x * ix * cosine);
                *dx = if add { *dx + g } else { g };
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let [of_x, of_other] = self.inverses().map(|at| Arg::Part(self.saved, at));
        let (dx, add) = (self.dx.var.into(), self.dx.add.into());
        let from = [self.dy.into(), self.x.into(), self.other.into(), self.saved.into(), of_x, of_other];
        g.launch(&launch("cosine_bwd", self.rows), &[&[dx][..], &from, &[add, self.rows.into(), self.cols.into()]].concat());
    }
    fn cost(&self, real: u64) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 5 * n, bytes: real * (3 + self.dx.add as u64) * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "cosine/one", mode: Mode::Train, inputs: &[&[1, 2], &[1, 2]], build: |s, x| s.cosine(x[0], x[1]) },
    Case { name: "cosine/ragged", mode: Mode::Train, inputs: &[&[19, 37], &[19, 37]], build: |s, x| s.cosine(x[0], x[1]) },
    Case { name: "cosine/wide", mode: Mode::Train, inputs: &[&[12, 520], &[12, 520]], build: |s, x| s.cosine(x[0], x[1]) },
    Case {
        name: "cosine/target",
        mode: Mode::Train,
        inputs: &[&[9, 24], &[9, 24]],
        build: |s, x| {
            s.tape().ignore(x[1]);
            s.cosine(x[0], x[1])
        },
    },
];
