//! Batch norm forward: statistics, then one pass that applies them.

use super::super::chunk_rows;
use super::{EPS, MOMENTUM, Moments, Norm};
use crate::device::{Arg, Gpu, Host, Launch, THREADS};
use crate::tape::{Call, Cost, Operands};
use crate::var::Var;
use multiversion::multiversion;
use rayon::prelude::*;

pub(super) struct Forward {
    pub norm: Norm,
    pub mean: Var, // [cols] running
    pub var: Var,  // [cols] running, unbiased
    pub statistics: Statistics,
}

/// The source of the statistics.
pub(super) enum Statistics {
    Running,
    /// The batch's, from moments that the call before wrote.
    Measured(Moments),
    /// The batch's, from moments that this call computes.
    Measure(Moments),
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
        let n = &self.norm;
        let mut o = Operands::new(&[n.y, n.saved], &[n.x, n.gamma, n.beta, self.mean, self.var]);
        o.reads.extend(n.residual);
        match self.statistics {
            Statistics::Running => return o,
            Statistics::Measured(moments) => o.reads.push(moments.partials),
            Statistics::Measure(moments) => o.writes.push(moments.partials),
        }
        o.writes.extend([self.mean, self.var]);
        o
    }
    fn cpu(&self, m: &Host) {
        let n = &self.norm;
        let (cols, size) = (n.cols, chunk_rows(n.cols) * n.cols);
        let (x, mut saved) = (m.f(n.x), m.f_mut(n.saved));
        let (mean, rstd) = saved.split_at_mut(cols);
        if let Statistics::Running = self.statistics {
            mean.copy_from_slice(&m.f(self.mean));
            rstd.iter_mut().zip(m.f(self.var).iter()).for_each(|(r, v)| *r = 1.0 / (v + EPS).sqrt());
        } else {
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
        }
        let (gamma, beta) = (m.f(n.gamma), m.f(n.beta));
        let scale: Vec<f32> = gamma.iter().zip(rstd.iter()).map(|(g, r)| g * r).collect();
        let shift: Vec<f32> = (0..cols).map(|c| beta[c] - mean[c] * scale[c]).collect();
        let residual = n.residual.map(|r| m.f(r));
        let (residual, relu) = (residual.as_deref(), n.relu);
        m.f_mut(n.y).par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(i, (y, x))| {
            let r = residual.map(|r| &r[i * size..i * size + y.len()]);
            apply(y, x, r, relu, &scale, &shift);
        });
    }
    fn gpu(&self, g: &Gpu) {
        let Norm { y, x, saved, gamma, beta, residual, relu, rows, cols } = self.norm;
        let (mean, var) = (self.mean, self.var);
        match self.statistics {
            Statistics::Running => {
                let launch = Launch::blocks("batch_norm_running", cols.div_ceil(THREADS));
                g.launch(&launch, &[saved.into(), mean.into(), var.into(), cols.into()]);
            }
            Statistics::Measured(moments) => self.merge(g, moments),
            Statistics::Measure(moments) => {
                let launch = Launch::chunks(g, "batch_norm_moments", rows.div_ceil(moments.rows), cols);
                g.launch(&launch, &[moments.partials.into(), x.into(), moments.rows.into(), rows.into(), cols.into()]);
                self.merge(g, moments);
            }
        }
        let sizes: [Arg; 3] = [relu.into(), rows.into(), cols.into()];
        let pointers: [Arg; 6] = [y.into(), x.into(), residual.into(), saved.into(), gamma.into(), beta.into()];
        g.launch(&Launch::rows(g, "batch_norm_fwd", rows, cols), &[&pointers[..], &sizes[..]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.norm.rows * self.norm.cols) as u64;
        let passes = 2 + !matches!(self.statistics, Statistics::Running) as u64 + self.norm.residual.is_some() as u64;
        Cost { flops: 6 * n, bytes: element * n * passes }
    }
}

impl Forward {
    fn merge(&self, g: &Gpu, moments: Moments) {
        let Norm { saved, rows, cols, .. } = self.norm;
        let args: [Arg; 8] = [
            saved.into(),
            self.mean.into(),
            self.var.into(),
            moments.partials.into(),
            rows.div_ceil(moments.rows).into(),
            moments.rows.into(),
            rows.into(),
            cols.into(),
        ];
        g.launch(&merge("batch_norm_merge", cols), &args);
    }
}

/// The launch of a kernel that merges chunks: eight columns of 128 parts per block.
pub(super) fn merge(kernel: &'static str, cols: usize) -> Launch {
    Launch { kernel, grid: [cols.div_ceil(8) as u32, 1, 1], block: [8, 128, 1], shared: 0 }
}
