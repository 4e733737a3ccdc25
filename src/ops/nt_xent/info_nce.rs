//! InfoNCE between queries and keys, as in MoCo v3 (Chen et al. 2021): the mean over rows of
//! -log(exp(s(i, i) / T) / sum over k of exp(s(i, k) / T)), s the cosine similarity.

use super::{gradient_tiles, scale_to_unit, through_unit, tiles, warps};
use crate::device::conv::{self, Conv, Epilogue};
use crate::device::{Arg, Gpu, Host};
use crate::ops::{Case, scaled_sum};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

impl Scope<'_> {
    /// L `[1]` = mean over rows of -log(exp(s(i, i) / T) / sum over k of exp(s(i, k) / T)), s the cosine similarity, for queries q and keys k,
    /// both `[n, c]`; row i of one belongs to row i of the other (van den Oord et al. 2018; MoCo v3, Chen et al. 2021, Eq. 1).
    ///
    /// The keys are targets: only the queries get a gradient. A GPU computes the similarities tile by tile in both directions; the CPU
    /// keeps them. Kernels: `nt_xent.cu`.
    ///
    /// # Panics
    /// q and k differ in shape.
    pub fn info_nce(&mut self, q: Var, k: Var, temperature: f32) -> Var {
        let shape = self.shape(q);
        assert_eq!(shape, self.shape(k), "{}: InfoNCE needs one key for every query", self.path());
        let (rows, cols) = (shape.rows(), shape.cols());
        let t = &mut *self.tape;
        let (loss, unit, keys) = (t.f32([1]), t.var([rows, cols]), t.var([rows, cols]));
        let (saved, sim) = (t.f32([rows, 2]), t.f32([rows, rows]));
        t.cpu_only(sim);
        let (losses, saved_keys) = (t.scratch([rows], Dtype::F32), t.scratch([rows, 2], Dtype::F32));
        let call = Forward { loss, unit, keys, saved, saved_keys, sim, losses, q, k, temperature, rows, cols };
        self.record(&[q], loss, call, move |t, dloss| {
            if let Some(dq) = t.gradient_of(q) {
                let (grad, back) = (t.f32([rows, rows]), t.f32([rows, cols]));
                t.cpu_only(grad);
                t.no_grad(Backward { dq, grad, back, dloss, unit, keys, saved, sim, temperature, rows, cols })
            }
        })
    }
}

struct Forward {
    loss: Var,       // [1]
    unit: Var,       // [rows, cols]: q over its length
    keys: Var,       // [rows, cols]: k over its length
    saved: Var,      // [rows, 2]: 1/length of q, log of the sum
    saved_keys: Var, // [rows, 2]: 1/length of k and nothing, on a GPU
    sim: Var,        // [rows, rows]: cosines, on the CPU
    losses: Var,     // [rows], on a GPU
    q: Var,          // [rows, cols]
    k: Var,          // [rows, cols]
    temperature: f32,
    rows: usize,
    cols: usize,
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "info_nce_fwd"
    }
    fn operands(&self) -> Operands {
        let writes = [self.loss, self.unit, self.keys, self.saved, self.saved_keys, self.sim, self.losses];
        Operands::new(&writes, &[self.q, self.k])
    }
    fn cpu(&self, m: &Host) {
        let (rows, cols) = (self.rows, self.cols);
        let (mut unit, mut keys, mut sim) = (m.f_mut(self.unit), m.f_mut(self.keys), m.f_mut(self.sim));
        let mut saved = m.f_mut(self.saved);
        scale_to_unit(&m.f(self.q), cols, &mut unit, |i, inverse| saved[2 * i] = inverse);
        scale_to_unit(&m.f(self.k), cols, &mut keys, |_, _| ());
        conv::forward(&Conv::linear(rows, cols, rows), &unit, &keys, &Epilogue::default(), &mut sim);
        let losses: Vec<f64> = saved
            .par_chunks_mut(2)
            .zip(sim.par_chunks(rows))
            .enumerate()
            .map(|(i, (saved, s))| {
                let logit = |s: &f32| *s as f64 / self.temperature as f64;
                let top = s.iter().map(logit).fold(f64::NEG_INFINITY, f64::max);
                let log_sum = top + s.iter().map(|s| (logit(s) - top).exp()).sum::<f64>().ln();
                saved[1] = log_sum as f32;
                log_sum - logit(&s[i])
            })
            .collect();
        m.f_mut(self.loss)[0] = (losses.iter().sum::<f64>() / rows as f64) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let sizes: [Arg; 2] = [self.rows.into(), self.cols.into()];
        for (unit, saved, x) in [(self.unit, self.saved, self.q), (self.keys, self.saved_keys, self.k)] {
            g.launch(&warps("nt_xent_normalize", self.rows), &[&[unit.into(), saved.into(), x.into()][..], &sizes].concat());
        }
        let args = [self.saved.into(), self.losses.into(), self.unit.into(), self.keys.into()];
        g.launch(&tiles("info_nce_fwd", self.rows), &[&args[..], &sizes, &[self.temperature.into()]].concat());
        scaled_sum::launch(g, self.loss, self.losses.into(), self.rows, 1.0 / self.rows as f32);
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost { flops: 2 * r * r * c, bytes: 4 * element * r * c }
    }
}

struct Backward {
    dq: Grad,   // [rows, cols]
    grad: Var,  // [rows, rows]: gradient of the cosines, on the CPU
    back: Var,  // [rows, cols]: gradient of the unit vectors
    dloss: Var, // [1]
    unit: Var,  // [rows, cols]
    keys: Var,  // [rows, cols]
    saved: Var, // [rows, 2]
    sim: Var,   // [rows, rows]
    temperature: f32,
    rows: usize,
    cols: usize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "info_nce_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.grad, self.back], &[self.dloss, self.unit, self.keys, self.saved, self.sim]).grad(self.dq)
    }
    fn cpu(&self, m: &Host) {
        let (rows, cols, t) = (self.rows, self.cols, self.temperature);
        let (saved, sim) = (m.f(self.saved), m.f(self.sim));
        let (saved, scale) = (&*saved, m.f(self.dloss)[0] / (t * rows as f32));
        let (mut grad, mut back) = (m.f_mut(self.grad), m.f_mut(self.back));
        grad.par_chunks_mut(rows).zip(sim.par_chunks(rows)).enumerate().for_each(|(i, (grad, s))| {
            grad.iter_mut().zip(s).for_each(|(g, s)| *g = scale * (s / t - saved[2 * i + 1]).exp());
            grad[i] -= scale;
        });
        conv::backward_data(&Conv::linear(rows, cols, rows), &grad, &m.f(self.keys), &mut back, false);
        through_unit(&mut m.f_mut(self.dq.var), self.dq.add, &back, &m.f(self.unit), saved, cols);
    }
    fn gpu(&self, g: &Gpu) {
        let (rows, cols) = (self.rows, self.cols);
        let from = [self.back.into(), self.dloss.into(), self.unit.into(), self.keys.into(), self.saved.into()];
        let rest = [rows.into(), cols.into(), self.temperature.into()];
        g.launch(&gradient_tiles(g, "info_nce_bwd", rows, cols), &[&from[..], &rest].concat());
        let from = [self.dq.var.into(), self.back.into(), self.unit.into(), self.saved.into(), self.dq.add.into()];
        g.launch(&warps("nt_xent_bwd_normalize", rows), &[&from[..], &[rows.into(), cols.into()]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost { flops: 4 * r * r * c, bytes: 4 * element * r * c }
    }
}

/// Queries, and keys without a gradient.
fn case(s: &mut Scope, x: &[Var], temperature: f32) -> Var {
    s.tape().stop_gradient(x[1]);
    s.info_nce(x[0], x[1], temperature)
}

pub static CASES: &[Case] = &[
    // Of two rows the gradient is the difference of two keys, which bf16 makes of rounding errors.
    Case { name: "info_nce/few", mode: Mode::Train, inputs: &[&[5, 6], &[5, 6]], build: |s, x| case(s, x, 0.5) },
    Case { name: "info_nce/ragged", mode: Mode::Train, inputs: &[&[67, 17], &[67, 17]], build: |s, x| case(s, x, 0.5) },
    Case { name: "info_nce/wide", mode: Mode::Train, inputs: &[&[24, 256], &[24, 256]], build: |s, x| case(s, x, 1.0) },
];
