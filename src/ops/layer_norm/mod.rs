//! y = (x - mean) / sqrt(var + eps) * weight + bias, statistics over the last axis (Ba et al. 2016), the variance biased.

mod backward;

use super::reduce::sum_of;
use super::{Case, chunk_rows};
use crate::device::{Gpu, Host, Launch};
use crate::init::Init;
use crate::tape::{Call, Cost, Mode, Operands, Scope};
use crate::var::{Dtype, Var};
use backward::Backward;
use multiversion::multiversion;
use rayon::prelude::*;

impl Scope<'_> {
    /// y = (x - mean) / sqrt(var + eps) weight + bias over the last axis, biased variance (Ba et al. 2016), as PyTorch's `LayerNorm`.
    ///
    /// x and y are `[.., c]`, `weight` and `bias` are `[c]`. `y_f32`: y is f32 on every device, as features are. Gradient, with x̂ the normalised x
    /// and g = dy weight: dx = (g - mean(g) - x̂ mean(g x̂)) / std, dweight = sum dy x̂, dbias = sum dy. Kernels: `layer_norm.cu`.
    ///
    /// # Panics
    /// `y_f32` in training.
    pub fn layer_norm(&mut self, x: Var, eps: f32, y_f32: bool) -> Var {
        let shape = self.shape(x);
        let (rows, cols) = (shape.rows(), shape.cols());
        assert!(!y_f32 || self.mode() == Mode::Eval, "{}: features in f32 are those of evaluation", self.path());
        let weight = self.param("weight", [cols], Init::Constant(1.0));
        let bias = self.param("bias", [cols], Init::Constant(0.0));
        let t = &mut *self.tape;
        let x_f32 = t.slots[x.index()].dtype == Dtype::F32;
        let y = if y_f32 { t.f32(shape) } else { t.var(shape) };
        let norm = Norm { saved: t.f32([rows, 2]), x, weight, rows, cols };
        let types = match (x_f32, y_f32) {
            (_, false) => "layer_norm_fwd",
            (false, true) => "layer_norm_fwd_to_f32",
            (true, true) => "layer_norm_fwd_f32",
        };
        self.record(&[x, weight, bias], y, Forward { y, bias, norm, eps, types }, move |t, dy| {
            let (dx, dweight, dbias) = (t.gradient_of(x), t.gradient_of(weight), t.gradient_of(bias));
            let partial = t.scratch([rows.div_ceil(backward::chunk(rows)), 2, cols], Dtype::F32);
            t.no_grad(Backward { dx, dweight, dbias, dy, partial, norm })
        })
    }
}

/// The operands that both directions share.
#[derive(Clone, Copy)]
struct Norm {
    saved: Var,  // [rows, 2]: mean, 1 / sqrt(var + eps)
    x: Var,      // [rows, cols]
    weight: Var, // [cols]
    rows: usize,
    cols: usize,
}

struct Forward {
    y: Var,    // [rows, cols]
    bias: Var, // [cols]
    norm: Norm,
    eps: f32,
    /// The kernel for the types of x and y.
    types: &'static str,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn normalise(y: &mut [f32], saved: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    let cols = weight.len();
    for ((y, saved), x) in y.chunks_exact_mut(cols).zip(saved.chunks_exact_mut(2)).zip(x.chunks_exact(cols)) {
        let mean = (sum_of([x], |[x]| x) / cols as f64) as f32;
        let var = sum_of([x], |[x]| (x - mean) * (x - mean)) / cols as f64;
        let rstd = (1.0 / (var + eps as f64).sqrt()) as f32;
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * rstd * w + b;
        }
        saved[0] = mean;
        saved[1] = rstd;
    }
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "layer_norm_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y, self.norm.saved], &[self.norm.x, self.norm.weight, self.bias])
    }
    fn cpu(&self, m: &Host) {
        let Norm { saved, x, weight, cols, .. } = self.norm;
        let (x, weight, bias) = (m.f(x), m.f(weight), m.f(self.bias));
        let (weight, bias, rows) = (&*weight, &*bias, chunk_rows(cols));
        let (mut y, mut saved) = (m.f_mut(self.y), m.f_mut(saved));
        let chunks = y.par_chunks_mut(rows * cols).zip(saved.par_chunks_mut(2 * rows)).zip(x.par_chunks(rows * cols));
        chunks.for_each(|((y, saved), x)| normalise(y, saved, x, weight, bias, self.eps));
    }
    fn gpu(&self, g: &Gpu) {
        let Norm { saved, x, weight, rows, cols } = self.norm;
        let launch = Launch::blocks(self.types, rows.div_ceil(ROWS));
        let args = [self.y.into(), saved.into(), x.into(), weight.into(), self.bias.into(), rows.into(), cols.into(), self.eps.into()];
        g.launch(&launch, &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.norm.rows * self.norm.cols) as u64;
        Cost { flops: 7 * n, bytes: 2 * element * n }
    }
}

/// Rows per block of the forward kernel: one per warp.
const ROWS: usize = 8;

const EPS: f32 = 1e-6;

pub static CASES: &[Case] = &[
    Case { name: "layer_norm/three", mode: Mode::Train, inputs: &[&[2, 3]], build: |s, x| s.layer_norm(x[0], EPS, false) },
    Case { name: "layer_norm/ragged", mode: Mode::Train, inputs: &[&[5, 7, 37]], build: |s, x| s.layer_norm(x[0], EPS, false) },
    Case { name: "layer_norm/tiny", mode: Mode::Train, inputs: &[&[3, 17, 192]], build: |s, x| s.layer_norm(x[0], EPS, false) },
    Case { name: "layer_norm/small", mode: Mode::Train, inputs: &[&[21, 384]], build: |s, x| s.layer_norm(x[0], EPS, false) },
    Case { name: "layer_norm/base", mode: Mode::Train, inputs: &[&[9, 768]], build: |s, x| s.layer_norm(x[0], EPS, false) },
    Case { name: "layer_norm/large", mode: Mode::Train, inputs: &[&[6, 1024]], build: |s, x| s.layer_norm(x[0], EPS, false) },
    Case { name: "layer_norm/wide", mode: Mode::Train, inputs: &[&[6, 1288]], build: |s, x| s.layer_norm(x[0], EPS, false) },
    Case { name: "layer_norm/features", mode: Mode::Eval, inputs: &[&[3, 5, 192]], build: |s, x| s.layer_norm(x[0], EPS, true) },
    Case {
        name: "layer_norm/of_f32",
        mode: Mode::Eval,
        inputs: &[&[4, 3, 70]],
        build: |s, x| {
            let class = s.tokens_mean(x[0], 0..1);
            s.layer_norm(class, EPS, true)
        },
    },
];
