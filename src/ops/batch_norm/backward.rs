//! Batch norm backward: the two sums over rows that every gradient needs, then one elementwise pass.

use super::super::chunk_rows;
use super::forward::merge;
use super::{Moments, Norm};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Operands};
use crate::var::Var;
use multiversion::multiversion;
use rayon::prelude::*;

impl Norm {
    /// The variable from which a kernel reads the ReLU mask: y. `None` without a residual, where y follows from x, which is read anyway.
    fn mask(&self) -> Arg {
        if self.masked() { self.y.into() } else { Arg::None }
    }
    /// Only then does the mask need y; otherwise it follows from x.
    fn masked(&self) -> bool {
        self.relu && self.residual.is_some()
    }
}

/// A gradient as a pointer and whether to add to it.
fn optional(gradient: Option<Grad>) -> (Arg, Arg) {
    (gradient.map(|g| g.var).into(), gradient.is_some_and(|g| g.add).into())
}

/// sums = [sum of g, sum of g * xhat], with g = dy masked by the ReLU.
pub(super) struct Sums {
    pub sums: Var,            // [2, cols]
    pub dgamma: Option<Grad>, // [cols]
    pub dbeta: Option<Grad>,  // [cols]
    pub dy: Var,              // [rows, cols]
    pub norm: Norm,
    pub partials: Moments,
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
        let n = &self.norm;
        let mut o = Operands::new(&[self.sums, self.partials.partials], &[self.dy, n.y, n.x, n.saved, n.gamma, n.beta]);
        for g in [self.dgamma, self.dbeta].into_iter().flatten() {
            o = o.grad(g);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let n = &self.norm;
        let (cols, size) = (n.cols, chunk_rows(n.cols) * n.cols);
        let (dy, y, x, saved) = (m.f(self.dy), m.f(n.y), m.f(n.x), m.f(n.saved));
        let (mean, rstd) = saved.split_at(cols);
        let floor = floor(n.relu);
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
    fn gpu(&self, g: &Gpu) {
        let Norm { x, saved, gamma, beta, relu, rows, cols, .. } = self.norm;
        let Moments { partials, rows: chunk } = self.partials;
        let chunks = rows.div_ceil(chunk);
        let sizes: [Arg; 4] = [relu.into(), chunk.into(), rows.into(), cols.into()];
        let pointers: [Arg; 7] = [partials.into(), self.dy.into(), x.into(), self.norm.mask(), saved.into(), gamma.into(), beta.into()];
        g.launch(&Launch::chunks(g, "batch_norm_bwd_sums", chunks, cols), &[&pointers[..], &sizes[..]].concat());
        let (dgamma, add_gamma) = optional(self.dgamma);
        let (dbeta, add_beta) = optional(self.dbeta);
        let args = [self.sums.into(), dgamma, dbeta, partials.into(), add_gamma, add_beta, chunks.into(), cols.into()];
        g.launch(&merge("batch_norm_bwd_merge", cols), &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.norm.rows * self.norm.cols) as u64;
        Cost { flops: 5 * n, bytes: element * n * (2 + self.norm.masked() as u64) }
    }
}

/// Outputs at or below this were cut by the ReLU and pass no gradient.
fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

pub(super) struct Backward {
    pub dx: Option<Grad>,        // [rows, cols]
    pub dresidual: Option<Grad>, // [rows, cols]
    pub dy: Var,                 // [rows, cols]
    pub sums: Var,               // [2, cols]
    pub norm: Norm,
}

/// dx = a*g + b*x + c per channel: the derivative through the batch's statistics, with a, b and c from the sums.
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

/// dy masked by the ReLU.
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
        let n = &self.norm;
        let mut o = Operands::new(&[], &[self.dy, n.y, n.x, n.gamma, n.beta, n.saved, self.sums]);
        for g in [self.dx, self.dresidual].into_iter().flatten() {
            o = o.grad(g);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let n = &self.norm;
        let (cols, size) = (n.cols, chunk_rows(n.cols) * n.cols);
        let (dy, y, x, gamma, saved, sums) = (m.f(self.dy), m.f(n.y), m.f(n.x), m.f(n.gamma), m.f(n.saved), m.f(self.sums));
        let (dy, y, x) = (&*dy, &*y, &*x);
        let (floor, n) = (floor(n.relu), n.rows as f32);
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
        // Both gradients chunk by chunk, so that the second finds dy and y in the cache.
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
    fn gpu(&self, g: &Gpu) {
        let Norm { x, saved, gamma, beta, relu, rows, cols, .. } = self.norm;
        let (dx, add_x) = optional(self.dx);
        let (dresidual, add_residual) = optional(self.dresidual);
        let pointers: [Arg; 9] =
            [dx, dresidual, self.dy.into(), x.into(), self.norm.mask(), saved.into(), self.sums.into(), gamma.into(), beta.into()];
        let sizes: [Arg; 5] = [add_x, add_residual, relu.into(), rows.into(), cols.into()];
        g.launch(&Launch::rows(g, "batch_norm_bwd", rows, cols), &[&pointers[..], &sizes[..]].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.norm.rows * self.norm.cols) as u64;
        Cost { flops: 5 * n, bytes: element * n * (3 + self.norm.masked() as u64 + self.dresidual.is_some() as u64) }
    }
}
