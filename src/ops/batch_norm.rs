//! y = relu((x - mean) / sqrt(var + eps) * gamma + beta + residual), statistics over rows (Ioffe and Szegedy
//! 2015); relu and residual are optional and part of the op, because they cost a pass over memory otherwise.

use super::{Case, chunk_rows};
use crate::device::Host;
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use crate::weights::Init;
use multiversion::multiversion;
use rayon::prelude::*;

pub const EPS: f32 = 1e-5;
/// How much of the new statistics the running ones take, as in PyTorch.
const MOMENTUM: f32 = 0.1;

/// The four named variables of a norm, all [cols].
pub(crate) struct Named {
    pub gamma: Var,
    pub beta: Var,
    pub mean: Var,
    pub var: Var,
}

/// Statistics of chunks of rows that a GPU's kernel left: mean and sum of squared deviations.
pub(crate) struct Moments {
    pub partials: Var, // [chunks, 2, cols] f32
    /// Rows of a chunk; the last has the rest.
    pub rows: usize,
}

impl Scope<'_> {
    pub(crate) fn norm_weights(&mut self, cols: usize) -> Named {
        Named {
            gamma: self.param("weight", [cols], Init::Constant(1.0)),
            beta: self.param("bias", [cols], Init::Constant(0.0)),
            mean: self.state("running_mean", [cols], Dtype::F32, Init::Constant(0.0)),
            var: self.state("running_var", [cols], Dtype::F32, Init::Constant(1.0)),
        }
    }

    /// Normalise each channel over the rows of `x` [.., cols], then add `residual` and cut at zero if asked.
    /// In training the statistics are the batch's and the running ones follow; in evaluation they are the
    /// running ones.
    pub fn batch_norm(&mut self, x: Var, residual: Option<Var>, relu: bool) -> Var {
        self.batch_norm_after(x, residual, relu, None)
    }

    /// The same where a GPU's kernel that made `x` has left its statistics.
    pub(crate) fn batch_norm_after(&mut self, x: Var, residual: Option<Var>, relu: bool, _moments: Option<Moments>) -> Var {
        let shape = self.shape(x);
        let (rows, cols) = (shape.rows(), shape.cols());
        let Named { gamma, beta, mean, var } = self.norm_weights(cols);
        let t = &mut *self.tape;
        let y = t.var(shape);
        let train = t.mode() == Mode::Train;
        assert!(!train || rows > 1, "{}: batch norm needs more than one row to train on", self.path());
        let t = &mut *self.tape;
        let saved = t.exact([2, cols]);
        let forward = Forward { y, saved, mean, var, x, gamma, beta, residual, relu, train, rows, cols };
        let mut from = vec![x, gamma, beta];
        from.extend(residual);
        self.record(&from, y, forward, move |t, dy| {
            let sums = t.exact([2, cols]);
            let (dgamma, dbeta) = (t.gradient_of(gamma), t.gradient_of(beta));
            t.call(Sums { sums, dgamma, dbeta, dy, y, x, saved, relu, rows, cols });
            let (dx, dresidual) = (t.gradient_of(x), residual.and_then(|r| t.gradient_of(r)));
            if dx.is_some() || dresidual.is_some() {
                t.call(Backward { dx, dresidual, dy, y, x, gamma, saved, sums, relu, rows, cols })
            }
        })
    }
}

struct Forward {
    y: Var,                // [rows, cols]
    saved: Var,            // [2, cols]: mean, 1/std of this batch
    mean: Var,             // [cols] running
    var: Var,              // [cols] running, unbiased
    x: Var,                // [rows, cols]
    gamma: Var,            // [cols]
    beta: Var,             // [cols]
    residual: Option<Var>, // [rows, cols]
    relu: bool,
    train: bool,
    rows: usize,
    cols: usize,
}

/// Mean and sum of squared deviations of each column of one chunk, in two sweeps while it is in cache.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn moments(x: &[f32], mean: &mut [f32], m2: &mut [f32]) {
    let cols = mean.len();
    let n = (x.len() / cols) as f32;
    for row in x.chunks_exact(cols) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x);
    }
    mean.iter_mut().for_each(|m| *m /= n);
    for row in x.chunks_exact(cols) {
        for ((m2, x), mean) in m2.iter_mut().zip(row).zip(mean.iter()) {
            *m2 += (x - mean) * (x - mean);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn apply(y: &mut [f32], x: &[f32], residual: Option<&[f32]>, relu: bool, scale: &[f32], shift: &[f32]) {
    let cols = scale.len();
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    match residual {
        None => {
            for (y, x) in y.chunks_exact_mut(cols).zip(x.chunks_exact(cols)) {
                for (((y, x), a), b) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                    let v = x * a + b;
                    *y = if v < floor { floor } else { v };
                }
            }
        }
        Some(r) => {
            for ((y, x), r) in y.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).zip(r.chunks_exact(cols)) {
                for ((((y, x), r), a), b) in y.iter_mut().zip(x).zip(r).zip(scale).zip(shift) {
                    let v = x * a + b + r;
                    *y = if v < floor { floor } else { v };
                }
            }
        }
    }
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "batch_norm_fwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.y, self.saved, self.mean, self.var], &[self.x, self.gamma, self.beta]);
        o.reads.extend(self.residual);
        o
    }
    fn cpu(&self, m: &Host) {
        let (cols, size) = (self.cols, chunk_rows(self.cols) * self.cols);
        let (x, mut saved) = (m.f(self.x), m.f_mut(self.saved));
        let (mean, rstd) = saved.split_at_mut(cols);
        if self.train {
            let chunks: Vec<(Vec<f32>, Vec<f32>)> = x
                .par_chunks(size)
                .map(|x| {
                    let (mut mean, mut m2) = (vec![0.0; cols], vec![0.0; cols]);
                    moments(x, &mut mean, &mut m2);
                    (mean, m2)
                })
                .collect();
            let (mut running_mean, mut running_var) = (m.f_mut(self.mean), m.f_mut(self.var));
            for c in 0..cols {
                // Chan et al.: merge chunk by chunk, in order, in f64.
                let (mut n, mut mu, mut m2) = (0.0f64, 0.0f64, 0.0f64);
                for (i, (chunk_mean, chunk_m2)) in chunks.iter().enumerate() {
                    let k = (size.min(x.len() - i * size) / cols) as f64;
                    let d = chunk_mean[c] as f64 - mu;
                    m2 += chunk_m2[c] as f64 + d * d * n * k / (n + k);
                    mu += d * k / (n + k);
                    n += k;
                }
                mean[c] = mu as f32;
                rstd[c] = (1.0 / (m2 / n + EPS as f64).sqrt()) as f32;
                running_mean[c] += MOMENTUM * (mu as f32 - running_mean[c]);
                running_var[c] += MOMENTUM * ((m2 / (n - 1.0)) as f32 - running_var[c]);
            }
        } else {
            mean.copy_from_slice(&m.f(self.mean));
            rstd.iter_mut().zip(m.f(self.var).iter()).for_each(|(r, v)| *r = 1.0 / (v + EPS).sqrt());
        }
        let (gamma, beta) = (m.f(self.gamma), m.f(self.beta));
        let scale: Vec<f32> = gamma.iter().zip(rstd.iter()).map(|(g, r)| g * r).collect();
        let shift: Vec<f32> = (0..cols).map(|c| beta[c] - mean[c] * scale[c]).collect();
        let residual = self.residual.map(|r| m.f(r));
        let (residual, relu) = (residual.as_deref(), self.relu);
        m.f_mut(self.y).par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(i, (y, x))| {
            let r = residual.map(|r| &r[i * size..i * size + y.len()]);
            apply(y, x, r, relu, &scale, &shift);
        });
    }
    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        let passes = 2 + self.train as u64 + self.residual.is_some() as u64;
        Cost { flops: 6 * n, bytes: 4 * n * passes }
    }
}

/// sums = [sum of g, sum of g * xhat], where g is dy where the output was not cut.
struct Sums {
    sums: Var,            // [2, cols]
    dgamma: Option<Grad>, // [cols]
    dbeta: Option<Grad>,  // [cols]
    dy: Var,              // [rows, cols]
    y: Var,               // [rows, cols]
    x: Var,               // [rows, cols]
    saved: Var,           // [2, cols]
    relu: bool,
    rows: usize,
    cols: usize,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn partial_sums(dy: &[f32], y: &[f32], x: &[f32], floor: f32, mean: &[f32], rstd: &[f32], sums: &mut [f32]) {
    let cols = mean.len();
    let (s0, s1) = sums.split_at_mut(cols);
    for ((dy, y), x) in dy.chunks_exact(cols).zip(y.chunks_exact(cols)).zip(x.chunks_exact(cols)) {
        for c in 0..cols {
            let g = if y[c] > floor { dy[c] } else { 0.0 };
            s0[c] += g;
            s1[c] += g * ((x[c] - mean[c]) * rstd[c]);
        }
    }
}

impl Call for Sums {
    fn name(&self) -> &'static str {
        "batch_norm_bwd_sums"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[self.sums], &[self.dy, self.y, self.x, self.saved]);
        for g in [self.dgamma, self.dbeta].into_iter().flatten() {
            o = o.grad(g);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let (cols, size) = (self.cols, chunk_rows(self.cols) * self.cols);
        let (dy, y, x, saved) = (m.f(self.dy), m.f(self.y), m.f(self.x), m.f(self.saved));
        let (mean, rstd) = saved.split_at(cols);
        let floor = floor(self.relu);
        let chunks: Vec<Vec<f32>> = dy
            .par_chunks(size)
            .zip(y.par_chunks(size).zip(x.par_chunks(size)))
            .map(|(dy, (y, x))| {
                let mut sums = vec![0.0; 2 * cols];
                partial_sums(dy, y, x, floor, mean, rstd, &mut sums);
                sums
            })
            .collect();
        let mut sums = m.f_mut(self.sums);
        for c in 0..2 * cols {
            sums[c] = chunks.iter().map(|s| s[c] as f64).sum::<f64>() as f32;
        }
        for (grad, sums) in [(self.dbeta, &sums[..cols]), (self.dgamma, &sums[cols..])] {
            if let Some(g) = grad {
                let mut d = m.f_mut(g.var);
                d.iter_mut().zip(sums).for_each(|(d, s)| *d = if g.add { *d + s } else { *s });
            }
        }
    }
    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 5 * n, bytes: 12 * n }
    }
}

/// Below this an output was cut, so that no gradient passes.
fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

struct Backward {
    dx: Option<Grad>,        // [rows, cols]
    dresidual: Option<Grad>, // [rows, cols]
    dy: Var,                 // [rows, cols]
    y: Var,                  // [rows, cols]
    x: Var,                  // [rows, cols]
    gamma: Var,              // [cols]
    saved: Var,              // [2, cols]
    sums: Var,               // [2, cols]
    relu: bool,
    rows: usize,
    cols: usize,
}

/// dx = a*g + b*x + c per channel; with the batch's statistics this is the whole derivative.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn spread_back(dx: &mut [f32], dy: &[f32], y: &[f32], x: &[f32], floor: f32, add: bool, abc: &[f32]) {
    let cols = abc.len() / 3;
    let (a, bc) = abc.split_at(cols);
    let (b, c0) = bc.split_at(cols);
    for (((dx, dy), y), x) in dx.chunks_exact_mut(cols).zip(dy.chunks_exact(cols)).zip(y.chunks_exact(cols)).zip(x.chunks_exact(cols)) {
        for c in 0..cols {
            let g = if y[c] > floor { dy[c] } else { 0.0 };
            let d = a[c] * g + b[c] * x[c] + c0[c];
            dx[c] = if add { dx[c] + d } else { d };
        }
    }
}

/// A gradient in chunks, or as many times nothing.
fn chunks(gradient: Option<(&mut [f32], bool)>, size: usize, len: usize) -> Vec<Option<(&mut [f32], bool)>> {
    match gradient {
        Some((d, add)) => d.chunks_mut(size).map(|d| Some((d, add))).collect(),
        None => (0..len.div_ceil(size)).map(|_| None).collect(),
    }
}

/// The gradient where the output was not cut.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn cut(dr: &mut [f32], dy: &[f32], y: &[f32], floor: f32, add: bool) {
    for ((dr, dy), y) in dr.iter_mut().zip(dy).zip(y) {
        let d = if *y > floor { *dy } else { 0.0 };
        *dr = if add { *dr + d } else { d };
    }
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "batch_norm_bwd"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[], &[self.dy, self.y, self.x, self.gamma, self.saved, self.sums]);
        for g in [self.dx, self.dresidual].into_iter().flatten() {
            o = o.grad(g);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let (cols, size) = (self.cols, chunk_rows(self.cols) * self.cols);
        let (dy, y, x, gamma, saved, sums) = (m.f(self.dy), m.f(self.y), m.f(self.x), m.f(self.gamma), m.f(self.saved), m.f(self.sums));
        let (dy, y, x) = (&*dy, &*y, &*x);
        let floor = floor(self.relu);
        let n = self.rows as f32;
        let mut abc = vec![0.0; 3 * cols];
        for c in 0..cols {
            let (mean, rstd) = (saved[c], saved[cols + c]);
            let (a, slope) = (gamma[c] * rstd, sums[cols + c] / n * rstd);
            abc[c] = a;
            abc[cols + c] = -a * slope;
            abc[2 * cols + c] = a * (slope * mean - sums[c] / n);
        }
        let mut dx = self.dx.map(|g| (m.f_mut(g.var), g.add));
        let mut dr = self.dresidual.map(|g| (m.f_mut(g.var), g.add));
        // Chunk by chunk both gradients, so that the second finds dy and y in the cache.
        let (dxs, drs) = (
            chunks(dx.as_mut().map(|(d, add)| (&mut **d, *add)), size, dy.len()),
            chunks(dr.as_mut().map(|(d, add)| (&mut **d, *add)), size, dy.len()),
        );
        dxs.into_par_iter().zip(drs).enumerate().for_each(|(i, (dx, dr))| {
            let at = i * size..(i * size + size).min(dy.len());
            if let Some((dx, add)) = dx {
                spread_back(dx, &dy[at.clone()], &y[at.clone()], &x[at.clone()], floor, add, &abc);
            }
            if let Some((dr, add)) = dr {
                cut(dr, &dy[at.clone()], &y[at], floor, add);
            }
        });
    }
    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { flops: 5 * n, bytes: 4 * n * (4 + self.dresidual.is_some() as u64) }
    }
}

pub static CASES: &[Case] = &[
    Case { name: "batch_norm/two_rows", mode: Mode::Train, inputs: &[&[2, 3]], build: |s, x| s.at("bn").batch_norm(x[0], None, false) },
    Case { name: "batch_norm/ragged", mode: Mode::Train, inputs: &[&[41, 19]], build: |s, x| s.at("bn").batch_norm(x[0], None, true) },
    Case {
        name: "batch_norm/residual",
        mode: Mode::Train,
        inputs: &[&[2, 4, 4, 17], &[2, 4, 4, 17]],
        build: |s, x| s.at("bn").batch_norm(x[0], Some(x[1]), true),
    },
    Case { name: "batch_norm/chunks", mode: Mode::Train, inputs: &[&[300, 130]], build: |s, x| s.at("bn").batch_norm(x[0], None, true) },
    Case {
        name: "batch_norm/twice",
        mode: Mode::Train,
        inputs: &[&[12, 8]],
        build: |s, x| {
            let h = s.at("bn").batch_norm(x[0], None, false);
            s.at("bn").batch_norm(h, Some(x[0]), true)
        },
    },
];
