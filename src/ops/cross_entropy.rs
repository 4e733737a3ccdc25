//! Softmax cross-entropy with class labels, as PyTorch's `CrossEntropyLoss` with its defaults.
//!
//! loss = mean over rows of log(sum_j exp(x_j)) - x_t, with x the row's logits and t its label; d loss / d x_j = (softmax(x)_j - [j = t]) / rows.

use super::reduce::sum_of;
use super::{Case, scaled_sum};
use crate::device::{Arg, Gpu, Host, Launch};
use crate::tape::{Call, Cost, Grad, Mode, Operands, Scope};
use crate::var::Var;
use rayon::prelude::*;

/// The results of [`Scope::cross_entropy`].
#[derive(Clone, Copy)]
pub struct CrossEntropy {
    /// Mean over the rows, in nats.
    pub loss: Var, // [1]
    /// Share of rows whose largest logit is the label's.
    pub accuracy: Var, // [1]
    /// Per row: its loss (-ln of the probability of its label, nats), the logsumexp of its logits, and 1 if the largest logit is the label's.
    pub rows: Var, // [3, rows]
}

impl Scope<'_> {
    /// Logits `[views * n, classes]`, row v * n + i of view v of sample i, against the labels `[n]` u32 of the samples. Formula and gradient
    /// are at the head of this module; kernels: `cross_entropy.cu`.
    ///
    /// A label that is no class gives a loss of NaN, so that it cannot pass for a sample that is learned.
    ///
    /// # Panics
    /// The rows are no multiple of the labels.
    pub fn cross_entropy(&mut self, logits: Var, labels: Var) -> CrossEntropy {
        let (shape, n) = (self.shape(logits), self.shape(labels).len());
        let (rows, classes) = (shape.rows(), shape.cols());
        assert!(rows % n == 0, "{}: {rows} rows of logits are no multiple of {n} labels", self.path());
        let t = &mut *self.tape;
        let (loss, accuracy, saved) = (t.f32([1]), t.f32([1]), t.f32([3, rows]));
        let size = CrossEntropySize { rows, n, classes };
        self.record(&[logits], loss, Forward { loss, accuracy, saved, logits, labels, size }, move |t, dloss| {
            if let Some(dlogits) = t.gradient_of(logits) {
                t.no_grad(Backward { dlogits, dloss, logits, labels, saved, size })
            }
        });
        CrossEntropy { loss, accuracy, rows: saved }
    }
}

#[derive(Clone, Copy)]
struct CrossEntropySize {
    rows: usize,
    /// Labels: row r has that of r mod n.
    n: usize,
    classes: usize,
}

struct Forward {
    loss: Var,     // [1]
    accuracy: Var, // [1]
    saved: Var,    // [3, rows]
    logits: Var,   // [rows, classes]
    labels: Var,   // [n] u32
    size: CrossEntropySize,
}

/// Blocks of eight warps, one row per warp.
fn launch(kernel: &'static str, rows: usize) -> Launch {
    Launch::blocks(kernel, rows.div_ceil(8))
}

/// Loss, logsumexp, and 1 if the label is the argmax. Of equal logits the first is the argmax, as in PyTorch.
fn one(x: &[f32], label: u32) -> [f32; 3] {
    let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let log_sum = (top as f64 + sum_of([x], |[v]| (v - top).exp()).ln()) as f32;
    let Some(&own) = x.get(label as usize) else { return [f32::NAN, log_sum, 0.0] };
    let beaten = x.iter().enumerate().any(|(j, v)| *v > own || *v == own && j < label as usize);
    [log_sum - own, log_sum, !beaten as u32 as f32]
}

impl Call for Forward {
    fn name(&self) -> &'static str {
        "cross_entropy_fwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.loss, self.accuracy, self.saved], &[self.logits, self.labels])
    }
    fn cpu(&self, m: &Host) {
        let (logits, labels, mut saved, n) = (m.f(self.logits), m.u(self.labels), m.f_mut(self.saved), self.size.n);
        let labels = &*labels;
        let (losses, others) = saved.split_at_mut(self.size.rows);
        let (log_sums, hits) = others.split_at_mut(self.size.rows);
        let rows = logits.par_chunks(self.size.classes).enumerate();
        losses.par_iter_mut().zip(log_sums.par_iter_mut()).zip(hits.par_iter_mut()).zip(rows).for_each(
            |(((loss, log_sum), hit), (r, x))| {
                [*loss, *log_sum, *hit] = one(x, labels[r % n]);
            },
        );
        let mean = |values: &[f32]| (values.iter().map(|v| *v as f64).sum::<f64>() / values.len() as f64) as f32;
        (m.f_mut(self.loss)[0], m.f_mut(self.accuracy)[0]) = (mean(losses), mean(hits));
    }
    fn gpu(&self, g: &Gpu) {
        let CrossEntropySize { rows, n, classes } = self.size;
        let args = [self.saved.into(), self.logits.into(), self.labels.into(), rows.into(), n.into(), classes.into()];
        g.launch(&launch("cross_entropy_fwd", rows), &args);
        let share = 1.0 / rows as f32;
        scaled_sum::launch(g, self.loss, self.saved.into(), rows, share);
        scaled_sum::launch(g, self.accuracy, Arg::Element(self.saved, 2 * rows), rows, share);
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.size.rows * self.size.classes) as u64;
        Cost { flops: 3 * n, bytes: element * n }
    }
}

struct Backward {
    dlogits: Grad, // [rows, classes]
    dloss: Var,    // [1]
    logits: Var,   // [rows, classes]
    labels: Var,   // [n] u32
    saved: Var,    // [3, rows]
    size: CrossEntropySize,
}

impl Call for Backward {
    fn name(&self) -> &'static str {
        "cross_entropy_bwd"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[], &[self.dloss, self.logits, self.labels, self.saved]).grad(self.dlogits)
    }
    fn cpu(&self, m: &Host) {
        let CrossEntropySize { rows, n, classes } = self.size;
        let (logits, labels, saved, add) = (m.f(self.logits), m.u(self.labels), m.f(self.saved), self.dlogits.add);
        let (scale, labels, saved) = (m.f(self.dloss)[0] / rows as f32, &*labels, &*saved);
        let inputs = logits.par_chunks(classes).enumerate();
        m.f_mut(self.dlogits.var).par_chunks_mut(classes).zip(inputs).for_each(|(dx, (r, x))| {
            let (log_sum, label) = (saved[rows + r], labels[r % n] as usize);
            for (j, (dx, x)) in dx.iter_mut().zip(x).enumerate() {
                let g = scale * ((x - log_sum).exp() - (j == label) as u32 as f32);
                *dx = if add { *dx + g } else { g };
            }
        });
    }
    fn gpu(&self, g: &Gpu) {
        let CrossEntropySize { rows, n, classes } = self.size;
        let from = [self.dloss.into(), self.logits.into(), self.labels.into(), self.saved.into()];
        let rest = [self.dlogits.add.into(), rows.into(), n.into(), classes.into()];
        g.launch(&launch("cross_entropy_bwd", rows), &[&[self.dlogits.var.into()][..], &from, &rest].concat());
    }
    fn cost(&self, element: u64) -> Cost {
        let n = (self.size.rows * self.size.classes) as u64;
        Cost { flops: 3 * n, bytes: element * (2 + self.dlogits.add as u64) * n }
    }
}

/// `n` labels over all classes, the first and the last among them.
fn case(s: &mut Scope, logits: Var, n: usize) -> CrossEntropy {
    let classes = s.shape(logits).cols();
    let labels = s.tape().words([n], (0..n).map(|i| (i * (classes - 1) / (n - 1).max(1)) as u32).collect());
    s.cross_entropy(logits, labels)
}

pub static CASES: &[Case] = &[
    Case { name: "cross_entropy/one", mode: Mode::Train, inputs: &[&[1, 2]], build: |s, x| case(s, x[0], 1).loss },
    Case { name: "cross_entropy/ragged", mode: Mode::Train, inputs: &[&[38, 37]], build: |s, x| case(s, x[0], 19).loss },
    Case { name: "cross_entropy/imagenet", mode: Mode::Train, inputs: &[&[12, 1000]], build: |s, x| case(s, x[0], 12).loss },
    Case { name: "cross_entropy/accuracy", mode: Mode::Eval, inputs: &[&[19, 10]], build: |s, x| case(s, x[0], 19).accuracy },
];
