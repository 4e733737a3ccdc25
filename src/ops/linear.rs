//! y = x Wᵀ + b: the matrix product as every layer uses it, W [out, in] as in PyTorch.

use super::product::{self, Finish, Packs};
use super::{Case, chunk_rows};
use crate::device::conv::{self, Conv, Epilogue};
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use crate::weights::Init;
use rayon::prelude::*;

impl Scope<'_> {
    /// x `[rows, in]` to `[rows, out]`, with `weight` `[out, in]` and, if asked, `bias` `[out]`; both start uniform
    /// in ±1/sqrt(in), as in PyTorch.
    pub fn linear(&mut self, x: Var, out: usize, bias: bool) -> Var {
        let shape = self.shape(x);
        let size = Conv::linear(shape.rows(), shape.cols(), out);
        let bound = 1.0 / (size.channels as f32).sqrt();
        let w = self.param("weight", [out, size.channels], Init::Uniform(bound));
        let b = bias.then(|| self.param("bias", [out], Init::Uniform(bound)));
        let y = self.tape.var([size.batch, out]);
        let mut from = vec![x, w];
        from.extend(b);
        let (packed, _) = Packs::forward(self.tape, w, size, None);
        self.record(&from, y, Forward { y, x, w, packed, b, size }, move |t, dy| {
            if let Some(dx) = t.gradient_of(x) {
                let packed = Packs::backward(t, w);
                t.call(BackwardData { dx, dy, w, packed, size })
            }
            if let Some(dw) = t.gradient_of(w) {
                let partial = product::partial_sums(t, &size);
                t.call(BackwardWeight { dw, dy, x, partial, size })
            }
            if let Some(db) = b.and_then(|b| t.gradient_of(b)) {
                let partial = t.scratch([size.batch.div_ceil(BIAS_ROWS), size.outputs], Dtype::F32);
                t.call(BackwardBias { db, dy, partial, size })
            }
        })
    }
}

/// Rows of one partial sum of a bias's gradient on a GPU.
const BIAS_ROWS: usize = 256;

fn cost(c: &Conv, real: u64) -> Cost {
    Cost { flops: c.operations(), bytes: real * (c.input_len() + c.weight_len() + c.output_len()) as u64 }
}

struct Forward {
    y: Var,         // [rows, out]
    x: Var,         // [rows, in]
    w: Var,         // [out, in]
    packed: Var,    // [out, in]
    b: Option<Var>, // [out]
    size: Conv,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "linear_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y], &[self.x, self.w, self.packed]);
        o.reads.extend(self.b);
        o
    }
    fn cpu(&self, m: &Host) {
        let bias = self.b.map(|b| m.f(b));
        let epilogue = Epilogue { shift: bias.as_deref(), ..Epilogue::default() };
        conv::forward(&self.size, &m.f(self.x), &m.f(self.w), &epilogue, &mut m.f_mut(self.y));
    }
    fn gpu(&self, g: &Gpu) {
        product::forward(g, &self.size, self.y, self.x, self.packed, &Finish { shift: self.b, ..Finish::default() });
    }
    fn cost(&self, real: u64) -> Cost {
        cost(&self.size, real)
    }
}

struct BackwardData {
    dx: Grad,    // [rows, in]
    dy: Var,     // [rows, out]
    w: Var,      // [out, in]
    packed: Var, // [in, out]
    size: Conv,
}

impl Call for BackwardData {
    fn name(&self) -> &'static str {
        "linear_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dy, self.w, self.packed]).grad(self.dx)
    }
    fn cpu(&self, m: &Host) {
        conv::backward_data(&self.size, &m.f(self.dy), &m.f(self.w), &mut m.f_mut(self.dx.var), self.dx.add);
    }
    fn gpu(&self, g: &Gpu) {
        product::backward_data(g, &self.size, self.dx, self.dy, self.packed);
    }
    fn cost(&self, real: u64) -> Cost {
        cost(&self.size, real)
    }
}

struct BackwardWeight {
    dw: Grad,     // [out, in]
    dy: Var,      // [rows, out]
    x: Var,       // [rows, in]
    partial: Var, // [parts, out * in]
    size: Conv,
}

impl Call for BackwardWeight {
    fn name(&self) -> &'static str {
        "linear_bwd_w"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.partial], &[self.dy, self.x]).grad(self.dw)
    }
    fn cpu(&self, m: &Host) {
        conv::backward_weight(&self.size, &m.f(self.x), &m.f(self.dy), &mut m.f_mut(self.dw.var), self.dw.add);
    }
    fn gpu(&self, g: &Gpu) {
        product::backward_weight(g, &self.size, self.dw, self.dy, self.x, self.partial);
    }
    fn cost(&self, real: u64) -> Cost {
        cost(&self.size, real)
    }
}

struct BackwardBias {
    db: Grad,     // [out]
    dy: Var,      // [rows, out]
    partial: Var, // [rows / BIAS_ROWS, out]
    size: Conv,
}

impl Call for BackwardBias {
    fn name(&self) -> &'static str {
        "linear_bwd_b"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.partial], &[self.dy]).grad(self.db)
    }
    fn cpu(&self, m: &Host) {
        let (dy, cols) = (m.f(self.dy), self.size.outputs);
        let chunks: Vec<Vec<f32>> = dy
            .par_chunks(chunk_rows(cols) * cols)
            .map(|dy| {
                let mut sum = vec![0.0; cols];
                dy.chunks_exact(cols).for_each(|row| sum.iter_mut().zip(row).for_each(|(s, d)| *s += d));
                sum
            })
            .collect();
        for (c, db) in m.f_mut(self.db.var).iter_mut().enumerate() {
            let sum = chunks.iter().map(|s| s[c] as f64).sum::<f64>() as f32;
            *db = if self.db.add { *db + sum } else { sum };
        }
    }
    fn gpu(&self, g: &Gpu) {
        let (rows, cols) = (self.size.batch, self.size.outputs);
        let grid = [cols.div_ceil(32) as u32, rows.div_ceil(BIAS_ROWS) as u32, 1];
        let launch = Launch { kernel: "linear_bwd_b", grid, block: [256, 1, 1], shared: 0 };
        g.launch(&launch, &[self.partial.into(), self.dy.into(), rows.into(), cols.into(), BIAS_ROWS.into()]);
        let launch = Launch { kernel: "linear_bwd_b_sum", grid: [cols.div_ceil(256) as u32, 1, 1], block: [256, 1, 1], shared: 0 };
        let parts = rows.div_ceil(BIAS_ROWS);
        g.launch(&launch, &[self.db.var.into(), self.partial.into(), self.db.add.into(), parts.into(), cols.into()]);
    }
    fn cost(&self, real: u64) -> Cost {
        let n = self.size.output_len() as u64;
        Cost { flops: n, bytes: real * n }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "linear/one", mode: Mode::Train, inputs: &[&[1, 1]], build: |s, x| s.at("fc").linear(x[0], 1, true) },
    Case { name: "linear/ragged", mode: Mode::Train, inputs: &[&[19, 35]], build: |s, x| s.at("fc").linear(x[0], 21, true) },
    Case { name: "linear/no_bias", mode: Mode::Train, inputs: &[&[40, 64]], build: |s, x| s.at("fc").linear(x[0], 48, false) },
    Case {
        name: "linear/twice",
        mode: Mode::Train,
        inputs: &[&[8, 16]],
        build: |s, x| {
            let h = s.at("fc").linear(x[0], 16, true);
            s.at("fc").linear(h, 16, true)
        },
    },
];
