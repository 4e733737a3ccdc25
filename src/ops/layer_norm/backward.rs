//! Layer norm backward: dx row by row, and the sums over rows for weight and bias, in one pass over x and dy.

use super::super::chunk_rows;
use super::super::reduce::sum_of;
use super::Norm;
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Operands};
use crate::var::Var;
use multiversion::multiversion;
use rayon::prelude::*;

pub(super) struct Backward {
    pub dx: Option<Grad>,      // [rows, cols]
    pub dweight: Option<Grad>, // [cols]
    pub dbias: Option<Grad>,   // [cols]
    pub dy: Var,               // [rows, cols]
    pub partial: Var,          // [chunks, 2, cols], on a GPU: sums of dy xhat and of dy
    pub norm: Norm,
}

/// Blocks that fill any card, as many chunks of rows as that: the sums do not depend on the card.
const CHUNKS: usize = 512;

/// Rows whose sums a block makes, at least two for each of its four warps.
pub(super) fn chunk(rows: usize) -> usize {
    rows.div_ceil(CHUNKS).max(8)
}

/// Rows of one chunk: `dx` from `dy`, and both sums `[2, cols]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn rows_back(mut dx: Option<(&mut [f32], bool)>, sums: &mut [f32], dy: &[f32], x: &[f32], saved: &[f32], weight: &[f32]) {
    let cols = weight.len();
    let (dweight, dbias) = sums.split_at_mut(cols);
    for (r, (dy, x)) in dy.chunks_exact(cols).zip(x.chunks_exact(cols)).enumerate() {
        let (mean, rstd) = (saved[2 * r], saved[2 * r + 1]);
        for (((dw, db), dy), x) in dweight.iter_mut().zip(dbias.iter_mut()).zip(dy).zip(x) {
            *dw += dy * ((x - mean) * rstd);
            *db += dy;
        }
        if let Some((dx, add)) = &mut dx {
            let dx = &mut dx[r * cols..][..cols];
            let flat = (sum_of([dy, weight], |[dy, w]| dy * w) / cols as f64) as f32;
            let slope = (sum_of([dy, weight, x], |[dy, w, x]| dy * w * ((x - mean) * rstd)) / cols as f64) as f32;
            let spread = |dy: f32, w: f32, x: f32| rstd * (dy * w - flat - (x - mean) * rstd * slope);
            match add {
                true => dx.iter_mut().zip(dy).zip(weight).zip(x).for_each(|(((dx, dy), w), x)| *dx += spread(*dy, *w, *x)),
                false => dx.iter_mut().zip(dy).zip(weight).zip(x).for_each(|(((dx, dy), w), x)| *dx = spread(*dy, *w, *x)),
            }
        }
    }
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "layer_norm_bwd"
    }
    fn operands(&self) -> Operands {
        let Norm { saved, x, weight, .. } = self.norm;
        let mut o = Operands::new(&[self.partial], &[self.dy, saved, x, weight]);
        for g in [self.dx, self.dweight, self.dbias].into_iter().flatten() {
            o = o.grad(g);
        }
        o
    }
    fn cpu(&self, m: &Host) {
        let Norm { saved, x, weight, cols, .. } = self.norm;
        let (dy, x, saved, weight) = (m.f(self.dy), m.f(x), m.f(saved), m.f(weight));
        let (rows, weight) = (chunk_rows(cols), &*weight);
        let mut dx = self.dx.map(|g| (m.f_mut(g.var), g.add));
        let mut parts: Vec<Option<(&mut [f32], bool)>> = match &mut dx {
            Some((dx, add)) => dx.chunks_mut(rows * cols).map(|d| Some((d, *add))).collect(),
            None => vec![],
        };
        parts.resize_with(dy.len().div_ceil(rows * cols), || None);
        let chunks = parts.into_par_iter().zip(dy.par_chunks(rows * cols)).zip(x.par_chunks(rows * cols).zip(saved.par_chunks(2 * rows)));
        let sums: Vec<Vec<f32>> = chunks
            .map(|((dx, dy), (x, saved))| {
                let mut sums = vec![0.0; 2 * cols];
                rows_back(dx, &mut sums, dy, x, saved, weight);
                sums
            })
            .collect();
        for (gradient, first) in [(self.dweight, 0), (self.dbias, cols)] {
            let Some(Grad { var, add }) = gradient else { continue };
            for (c, d) in m.f_mut(var).iter_mut().enumerate() {
                let sum = sums.iter().map(|s| s[first + c] as f64).sum::<f64>() as f32;
                *d = if add { *d + sum } else { sum };
            }
        }
    }
    fn gpu(&self, g: &Gpu) {
        let Norm { saved, x, weight, rows, cols } = self.norm;
        let pointer = |gradient: Option<Grad>| -> (Arg, Arg) { (gradient.map(|g| g.var).into(), gradient.is_some_and(|g| g.add).into()) };
        let ((dx, add), chunk) = (pointer(self.dx), chunk(rows));
        let chunks = rows.div_ceil(chunk);
        // A warp keeps a row in registers; the kernel is chosen by the values per lane.
        let kernel = match cols.div_ceil(32) {
            _ if !cols.is_multiple_of(16 / g.dtype().bytes()) => "layer_norm_bwd_any",
            ..=8 => "layer_norm_bwd_8",
            9..=16 => "layer_norm_bwd_16",
            17..=24 => "layer_norm_bwd_24",
            25..=32 => "layer_norm_bwd_32",
            _ => "layer_norm_bwd_any",
        };
        let launch = Launch { kernel, grid: [chunks as u32, 1, 1], block: [128, 1, 1], shared: 0 };
        let pointers = [dx, self.partial.into(), self.dy.into(), x.into(), saved.into(), weight.into()];
        g.launch(&launch, &[&pointers[..], &[add, chunk.into(), rows.into(), cols.into()]].concat());
        let ((dweight, add_weight), (dbias, add_bias)) = (pointer(self.dweight), pointer(self.dbias));
        let launch = Launch { kernel: "layer_norm_bwd_sum", grid: [cols.div_ceil(32) as u32, 1, 1], block: [256, 1, 1], shared: 0 };
        g.launch(&launch, &[dweight, dbias, self.partial.into(), add_weight, add_bias, chunks.into(), cols.into()]);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.norm.rows * self.norm.cols) as u64;
        let passes = 2 + self.dx.map_or(0, |dx| 1 + dx.add as u64);
        Cost { flops: 14 * n, bytes: element * n * passes }
    }
}
