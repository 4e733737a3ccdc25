//! y = relu((x - mean) / sqrt(var + eps) * gamma + beta + residual), statistics over rows (Ioffe and Szegedy
//! 2015); relu and residual are optional and part of the op, because they cost a pass over memory otherwise.

mod backward;
mod forward;

use super::Case;
use crate::device::chunk;
use crate::init::Init;
use crate::tape::{Mode, Scope, Tape};
use crate::var::{Dtype, Var};
use backward::{Backward, Sums};
use forward::{Forward, Statistics};

pub const EPS: f32 = 1e-5;
/// PyTorch's momentum: running = (1 - MOMENTUM) running + MOMENTUM batch.
const MOMENTUM: f32 = 0.1;

/// The four named variables of a norm, `[cols]` f32 each.
pub(crate) struct Named {
    pub gamma: Var,
    pub beta: Var,
    pub mean: Var,
    pub var: Var,
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

    /// y = relu((x - mean) / sqrt(var + 1e-5) gamma + beta + residual) (Ioffe and Szegedy 2015); residual and ReLU are optional.
    ///
    /// x, y and `residual` are `[.., cols]`, statistics are per column. In training they are the batch's, with a biased variance, and the running
    /// ones are updated; in evaluation they are the running ones. Gradient, with g = dy masked by the ReLU and x̂ the normalised x:
    /// dbeta = sum g, dgamma = sum g x̂, dx = gamma / std (g - mean(g) - x̂ mean(g x̂)), dresidual = g. Kernels: `batch_norm.cu`.
    ///
    /// # Panics
    /// x has a single row in training.
    pub fn batch_norm(&mut self, x: Var, residual: Option<Var>, relu: bool) -> Var {
        self.batch_norm_after(x, residual, relu, None)
    }

    /// [`Scope::batch_norm`] behind a call whose kernel writes the moments of x, which saves a pass over x on a GPU.
    pub(crate) fn batch_norm_after(&mut self, x: Var, residual: Option<Var>, relu: bool, moments: Option<Moments>) -> Var {
        let shape = self.shape(x);
        let (rows, cols) = (shape.rows(), shape.cols());
        let weights = self.norm_weights(cols);
        let (gamma, beta) = (weights.gamma, weights.beta);
        let train = self.mode() == Mode::Train;
        assert!(!train || rows > 1, "{}: batch norm needs more than one row to train on", self.path());
        let t = &mut *self.tape;
        let (y, saved) = (t.var(shape), t.f32([2, cols]));
        let statistics = match moments {
            _ if !train => Statistics::Running,
            Some(moments) => Statistics::Measured(moments),
            None => Statistics::Measure(Moments::new(t, rows, cols)),
        };
        let norm = Norm { y, x, saved, gamma, beta, residual, relu, rows, cols };
        let mut from = vec![x, gamma, beta];
        from.extend(residual);
        self.record(&from, y, Forward { norm, mean: weights.mean, var: weights.var, statistics }, move |t, dy| {
            let (sums, partials) = (t.f32([2, cols]), Moments::new(t, rows, cols));
            let (dgamma, dbeta) = (t.gradient_of(gamma), t.gradient_of(beta));
            t.no_grad(Sums { sums, dgamma, dbeta, dy, norm, partials });
            let (dx, dresidual) = (t.gradient_of(x), residual.and_then(|r| t.gradient_of(r)));
            if dx.is_some() || dresidual.is_some() {
                t.no_grad(Backward { dx, dresidual, dy, sums, norm })
            }
        })
    }
}

/// Partial results of one kernel for the next to merge, two numbers per column and chunk of rows. In the forward these are the mean and the
/// sum of squared deviations.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    pub partials: Var, // [chunks, 2, cols] f32
    /// Rows of a chunk; the last has what is left.
    pub rows: usize,
}

impl Moments {
    fn new(t: &mut Tape, rows: usize, cols: usize) -> Moments {
        let chunk = chunk(rows, cols);
        Moments { partials: t.scratch([rows.div_ceil(chunk), 2, cols], Dtype::F32), rows: chunk }
    }
}

/// The operands that forward and backward share.
#[derive(Clone, Copy)]
struct Norm {
    y: Var,                // [rows, cols]
    x: Var,                // [rows, cols]
    saved: Var,            // [2, cols]: mean, 1/std of this batch
    gamma: Var,            // [cols]
    beta: Var,             // [cols]
    residual: Option<Var>, // [rows, cols]
    relu: bool,
    rows: usize,
    cols: usize,
}

pub static CASES: &[Case] = &[
    // Of two rows the gradient is what cancellation leaves.
    Case { name: "batch_norm/three_rows", mode: Mode::Train, inputs: &[&[3, 3]], build: |s, x| s.at("bn").batch_norm(x[0], None, false) },
    Case { name: "batch_norm/ragged", mode: Mode::Train, inputs: &[&[41, 19]], build: |s, x| s.at("bn").batch_norm(x[0], None, true) },
    Case {
        name: "batch_norm/residual",
        mode: Mode::Train,
        inputs: &[&[2, 4, 4, 17], &[2, 4, 4, 17]],
        build: |s, x| s.at("bn").batch_norm(x[0], Some(x[1]), true),
    },
    Case { name: "batch_norm/chunks", mode: Mode::Train, inputs: &[&[300, 130]], build: |s, x| s.at("bn").batch_norm(x[0], None, true) },
    Case { name: "batch_norm/column", mode: Mode::Train, inputs: &[&[50, 1]], build: |s, x| s.at("bn").batch_norm(x[0], None, true) },
    Case {
        name: "batch_norm/narrow",
        mode: Mode::Train,
        inputs: &[&[600, 64], &[600, 64]],
        build: |s, x| s.at("bn").batch_norm(x[0], Some(x[1]), true),
    },
    Case {
        name: "batch_norm/wide",
        mode: Mode::Train,
        inputs: &[&[40, 328], &[40, 328]],
        build: |s, x| s.at("bn").batch_norm(x[0], Some(x[1]), false),
    },
    Case { name: "batch_norm/eval", mode: Mode::Eval, inputs: &[&[9, 24]], build: |s, x| s.at("bn").batch_norm(x[0], None, true) },
    Case {
        name: "batch_norm/no_offset",
        mode: Mode::Train,
        inputs: &[&[41, 19]],
        build: |s, x| {
            let y = s.at("bn").batch_norm(x[0], None, true);
            let offset = s.at("bn").norm_weights(19).beta;
            s.tape().stop_gradient(offset);
            y
        },
    },
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
