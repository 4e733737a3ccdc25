//! NT-Xent (Chen et al. 2020, Eq. 1): the mean over all 2N rows of
//! -log(exp(s(i, pair(i)) / T) / sum over k != i of exp(s(i, k) / T)), s the cosine similarity.

mod info_nce;

use super::reduce::inverse_length;
use super::{Case, scaled_sum};
use crate::device::conv::{self, Conv, Epilogue};
use crate::device::{Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

impl Scope<'_> {
    /// L `[1]` = mean over all 2N rows of -log(exp(s(i, pair(i)) / T) / sum over k != i of exp(s(i, k) / T)), s the cosine similarity (Chen et
    /// al. 2020, Eq. 1), for embeddings z `[2N, d]`; rows i and i + N are the two views of one sample.
    ///
    /// Gradient of the unit vectors: sum over k of g(i, k) z_k / |z_k|, with g = (p(i, k) + p(k, i) - 2 [k = pair(i)]) / (2N T) and p the
    /// row-wise softmax. Kernels: `nt_xent.cu`.
    ///
    /// # Panics
    /// z has an odd number of rows, or fewer than four.
    pub fn nt_xent(&mut self, z: Var, temperature: f32) -> Var {
        let shape = self.shape(z);
        let (rows, cols) = (shape.rows(), shape.cols());
        assert!(rows >= 4 && rows % 2 == 0, "{}: NT-Xent needs two views of at least two samples, got {rows} rows", self.path());
        let t = &mut *self.tape;
        let (loss, unit, saved) = (t.f32([1]), t.var([rows, cols]), t.f32([rows, 2]));
        let sim = t.f32([rows, rows]);
        t.cpu_only(sim);
        let losses = t.scratch([rows], Dtype::F32);
        let call = Forward { loss, unit, saved, sim, losses, z, temperature, rows, cols };
        self.record(&[z], loss, call, move |t, dloss| {
            if let Some(dz) = t.gradient_of(z) {
                let (grad, back) = (t.f32([rows, rows]), t.f32([rows, cols]));
                t.cpu_only(grad);
                t.no_grad(Backward { dz, grad, back, dloss, unit, saved, sim, temperature, rows, cols })
            }
        })
    }
}

struct Forward {
    loss: Var,   // [1]
    unit: Var,   // [rows, cols]: z over its length
    saved: Var,  // [rows, 2]: 1/length, log of the sum
    sim: Var,    // [rows, rows]: cosines, on the CPU; a GPU recomputes them tile by tile
    losses: Var, // [rows], on a GPU
    z: Var,      // [rows, cols]
    temperature: f32,
    rows: usize,
    cols: usize,
}

/// On a GPU: the side of a tile of similarities; columns of the gradient per block; stages of the pipeline.
const TILE: usize = 64;
const COLUMNS: usize = 128;
const SLOTS: u32 = 4 * 2 * 64 * 64;

/// unit = z over its length; `keep` gets the number of each row and 1/length.
fn scale_to_unit(z: &[f32], cols: usize, unit: &mut [f32], mut keep: impl FnMut(usize, f32)) {
    for (i, (u, z)) in unit.chunks_exact_mut(cols).zip(z.chunks_exact(cols)).enumerate() {
        let inverse = inverse_length(z);
        keep(i, inverse);
        u.iter_mut().zip(z).for_each(|(u, z)| *u = z * inverse);
    }
}

/// The gradient of z from that of the unit vectors.
fn through_unit(dz: &mut [f32], add: bool, back: &[f32], unit: &[f32], saved: &[f32], cols: usize) {
    for (i, dz) in dz.chunks_exact_mut(cols).enumerate() {
        let (du, u) = (&back[i * cols..][..cols], &unit[i * cols..][..cols]);
        let along = du.iter().zip(u).map(|(d, u)| (*d * *u) as f64).sum::<f64>() as f32;
        for ((dz, du), u) in dz.iter_mut().zip(du).zip(u) {
            let g = (du - u * along) * saved[2 * i];
            *dz = if add { *dz + g } else { g };
        }
    }
}

/// Blocks of four warps, one row per warp.
fn warps(kernel: &'static str, rows: usize) -> Launch {
    Launch { kernel, grid: [rows.div_ceil(4) as u32, 1, 1], block: [128, 1, 1], shared: 0 }
}

/// Blocks that each take 64 rows of the similarities.
fn tiles(kernel: &'static str, rows: usize) -> Launch {
    Launch { kernel, grid: [rows.div_ceil(TILE) as u32, 1, 1], block: [128, 1, 1], shared: SLOTS }
}

/// The same for 128 columns of the gradient: a tile of g [64, 64] and one of the unit vectors [64, 128] lie beside the slots.
fn gradient_tiles(g: &Gpu, kernel: &'static str, rows: usize, cols: usize) -> Launch {
    let shared = SLOTS + (TILE * (TILE + COLUMNS) * g.dtype().bytes()) as u32;
    Launch { kernel, grid: [rows.div_ceil(TILE) as u32, cols.div_ceil(COLUMNS) as u32, 1], block: [128, 1, 1], shared }
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "nt_xent_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.loss, self.unit, self.saved, self.sim, self.losses], &[self.z])
    }
    fn cpu(&self, m: &Host) {
        let (z, rows, cols) = (m.f(self.z), self.rows, self.cols);
        let (mut unit, mut saved, mut sim) = (m.f_mut(self.unit), m.f_mut(self.saved), m.f_mut(self.sim));
        scale_to_unit(&z, cols, &mut unit, |i, inverse| saved[2 * i] = inverse);
        conv::forward(&Conv::linear(rows, cols, rows), &unit, &unit, &Epilogue::default(), &mut sim);
        let losses: Vec<f64> = saved
            .par_chunks_mut(2)
            .zip(sim.par_chunks(rows))
            .enumerate()
            .map(|(i, (saved, s))| {
                let t = self.temperature as f64;
                let others = || s.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, s)| *s as f64 / t);
                let top = others().fold(f64::NEG_INFINITY, f64::max);
                let log_sum = top + others().map(|l| (l - top).exp()).sum::<f64>().ln();
                saved[1] = log_sum as f32;
                log_sum - s[(i + rows / 2) % rows] as f64 / t
            })
            .collect();
        m.f_mut(self.loss)[0] = (losses.iter().sum::<f64>() / rows as f64) as f32;
    }
    fn gpu(&self, g: &Gpu) {
        let (rows, cols) = (self.rows, self.cols);
        g.launch(&warps("nt_xent_normalize", rows), &[self.unit.into(), self.saved.into(), self.z.into(), rows.into(), cols.into()]);
        let rest = [self.unit.into(), rows.into(), cols.into(), self.temperature.into()];
        g.launch(&tiles("nt_xent_fwd", rows), &[&[self.saved.into(), self.losses.into()][..], &rest].concat());
        scaled_sum::launch(g, self.loss, self.losses.into(), rows, 1.0 / rows as f32);
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost { flops: 2 * r * r * c, bytes: 2 * element * r * c }
    }
}

struct Backward {
    dz: Grad,   // [rows, cols]
    grad: Var,  // [rows, rows]: gradient of the cosines, both directions added
    back: Var,  // [rows, cols]: gradient of the unit vectors
    dloss: Var, // [1]
    unit: Var,  // [rows, cols]
    saved: Var, // [rows, 2]
    sim: Var,   // [rows, rows]
    temperature: f32,
    rows: usize,
    cols: usize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "nt_xent_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.grad, self.back], &[self.dloss, self.unit, self.saved, self.sim]).grad(self.dz)
    }
    fn cpu(&self, m: &Host) {
        let (rows, cols, t) = (self.rows, self.cols, self.temperature);
        let (unit, saved, sim) = (m.f(self.unit), m.f(self.saved), m.f(self.sim));
        let saved = &*saved;
        let scale = m.f(self.dloss)[0] / (t * rows as f32);
        let mut grad = m.f_mut(self.grad);
        // Row i's own softmax, plus its part as a key in the other rows' softmaxes: the sum is symmetric.
        grad.par_chunks_mut(rows).zip(sim.par_chunks(rows)).enumerate().for_each(|(i, (grad, s))| {
            let pair = (i + rows / 2) % rows;
            for (k, (g, s)) in grad.iter_mut().zip(s).enumerate() {
                let p = (s / t - saved[2 * i + 1]).exp() + (s / t - saved[2 * k + 1]).exp();
                *g = scale * (p - if k == pair { 2.0 } else { 0.0 });
            }
            grad[i] = 0.0;
        });
        let mut back = m.f_mut(self.back);
        conv::backward_data(&Conv::linear(rows, cols, rows), &grad, &unit, &mut back, false);
        through_unit(&mut m.f_mut(self.dz.var), self.dz.add, &back, &unit, saved, cols);
    }
    fn gpu(&self, g: &Gpu) {
        let (rows, cols) = (self.rows, self.cols);
        let tiles = gradient_tiles(g, "nt_xent_bwd", rows, cols);
        let from = [self.dloss.into(), self.unit.into(), self.saved.into(), rows.into(), cols.into(), self.temperature.into()];
        g.launch(&tiles, &[&[self.back.into()][..], &from].concat());
        let from = [self.back.into(), self.unit.into(), self.saved.into(), self.dz.add.into(), rows.into(), cols.into()];
        g.launch(&warps("nt_xent_bwd_normalize", rows), &[&[self.dz.var.into()][..], &from].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost { flops: 4 * r * r * c, bytes: 3 * element * r * c }
    }
}

pub static INFO_NCE: &[Case] = info_nce::CASES;

pub static CASES: &[Case] = &[
    Case { name: "nt_xent/two", mode: Mode::Train, inputs: &[&[4, 3]], build: |s, x| s.nt_xent(x[0], 0.5) },
    Case { name: "nt_xent/ragged", mode: Mode::Train, inputs: &[&[22, 17]], build: |s, x| s.nt_xent(x[0], 0.5) },
    Case { name: "nt_xent/cold", mode: Mode::Train, inputs: &[&[32, 32]], build: |s, x| s.nt_xent(x[0], 0.1) },
];
