//! The update rules of the optimizers, on slices. A weight is cut into chunks that run in parallel.

use crate::ops::CHUNK;
use multiversion::multiversion;
use rayon::prelude::*;

/// v = momentum v + trust (scale g + decay w); w -= rate v.
pub(super) struct Momentum {
    pub momentum: f32,
    pub decay: f32,
    pub trust: f32,
    pub rate: f32,
    /// Factor of the gradient: below 1 where it is clipped.
    pub scale: f32,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn momentum(w: &mut [f32], g: &[f32], v: &mut [f32], m: &Momentum) {
    for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
        *v = m.momentum * *v + m.trust * (m.scale * g + m.decay * *w);
        *w -= m.rate * *v;
    }
}

impl Momentum {
    pub fn step(&self, w: &mut [f32], g: &[f32], v: &mut [f32]) {
        let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(v.par_chunks_mut(CHUNK));
        chunks.for_each(|((w, g), v)| momentum(w, g, v, self));
    }
}

/// The constants of Adam's inner loop, with the bias corrections folded in.
pub(super) struct Adam {
    pub betas: [f32; 2],
    pub eps: f32,
    /// rate / (1 - beta1^t)
    pub rate: f32,
    /// 1 / sqrt(1 - beta2^t)
    pub root: f32,
    /// Adam's weight decay, added to the gradient; 0 for AdamW.
    pub decay: f32,
    /// AdamW's weight decay, 1 - rate decay, by which the weight is multiplied first; 1 for Adam.
    pub shrink: f32,
    /// Factor of the gradient: below 1 where it is clipped.
    pub scale: f32,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn adam(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], a: &Adam) {
    let [b1, b2] = a.betas;
    for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
        let g = a.scale * g + a.decay * *w;
        *w *= a.shrink;
        *m = b1 * *m + (1.0 - b1) * g;
        *v = b2 * *v + (1.0 - b2) * g * g;
        *w -= a.rate * *m / (v.sqrt() * a.root + a.eps);
    }
}

impl Adam {
    pub fn step(&self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
        chunks.for_each(|(((w, g), m), v)| adam(w, g, m, v, self));
    }
}

/// The l2 norm of `len` values, in f64, added up in a fixed order.
pub(super) fn norm(len: usize, value: impl Fn(usize) -> f32 + Sync) -> f64 {
    let starts: Vec<usize> = (0..len).step_by(CHUNK).collect();
    let sums: Vec<f64> = starts.par_iter().map(|&s| (s..(s + CHUNK).min(len)).map(|i| (value(i) as f64).powi(2)).sum()).collect();
    sums.iter().sum::<f64>().sqrt()
}
