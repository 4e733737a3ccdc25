//! The step that follows the gradient, for all weights in one call: SGD, Adam, AdamW as in PyTorch, and LARS
//! (You et al. 2017) in the dialect of MoCo-v3, MAE, Barlow Twins and VICReg: trust = eta |w| / |g + decay w|
//! (1 if either is 0), rate outside the momentum, tensors with one dimension neither decayed nor adapted.

use crate::device::{Arg, Gpu, Host, Launch};
use crate::schedule::{Knob, Schedule};
use crate::tape::{Call, Cost, Operands, Tape};
use crate::var::{Dtype, Var};
use crate::weights::Init;
use multiversion::multiversion;
use rayon::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// v = momentum v + g + decay w; w -= rate v.
    Sgd {
        momentum: f32,
    },
    /// `decoupled`: AdamW. Otherwise the decay is part of the gradient.
    Adam {
        betas: [f32; 2],
        eps: f32,
        decoupled: bool,
    },
    Lars {
        momentum: f32,
        trust: f32,
    },
}

impl Tape {
    /// Append one call that moves every trained weight that has a gradient. `decay_all`: norms and biases
    /// (tensors with one dimension) decay too, as PyTorch's optimizers do unless told otherwise.
    pub fn optimize(&mut self, rule: Rule, decay_all: bool, when: Schedule) {
        let moments = if matches!(rule, Rule::Adam { .. }) { 2 } else { 1 };
        let parts = self.gradients().into_iter().map(|(name, w, g)| {
            let shape = self.shape(w);
            let matrix = shape.dims().len() > 1;
            let moment = |i: usize| self.named(&format!("optimizer.{i}.{name}"), shape, Dtype::F32, Init::Constant(0.0), false);
            let moments = (0..moments).map(moment).collect();
            Part { w, g, moments, len: shape.len(), matrix, decays: matrix || (decay_all && !matches!(rule, Rule::Lars { .. })) }
        });
        let parts: Vec<Part> = parts.collect();
        let chunks = parts.iter().map(|p| p.len.div_ceil(PIECE)).sum::<usize>().max(1);
        let table = self.fixed([chunks, WORDS, 2], Dtype::U32);
        let (table, norms) = (self.gpu_only(table), self.scratch([chunks, 2], Dtype::F32));
        self.call(Update { parts, rule, when, table, norms });
    }
}

struct Part {
    w: Var,            // [len]
    g: Var,            // [len]
    moments: Vec<Var>, // [len] each
    len: usize,
    matrix: bool,
    decays: bool,
}

struct Update {
    parts: Vec<Part>,
    rule: Rule,
    when: Schedule,
    table: Var, // [chunks, WORDS, 2] what each block of a GPU moves
    norms: Var, // [chunks, 2] sums of squares of weights and gradients, for LARS
}

/// Values of one weight that a block of a GPU moves.
const PIECE: usize = 8192;
/// 64-bit words in a row of the kernels' table: `Chunk` of `kernels/optimize.cu`.
const WORDS: usize = 6;

const CHUNK: usize = 16384;

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn momentum(w: &mut [f32], g: &[f32], v: &mut [f32], momentum: f32, decay: f32, trust: f32, rate: f32) {
    for ((w, g), v) in w.iter_mut().zip(g).zip(v) {
        *v = momentum * *v + trust * (g + decay * *w);
        *w -= rate * *v;
    }
}

/// What Adam's inner loop needs, with the corrections for the zero start already in.
struct Adam {
    betas: [f32; 2],
    eps: f32,
    /// rate / (1 - beta1^t)
    rate: f32,
    /// 1 / sqrt(1 - beta2^t)
    root: f32,
    /// Added to the gradient.
    decay: f32,
    /// Multiplies the weight first.
    shrink: f32,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn adam(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], a: &Adam) {
    let [b1, b2] = a.betas;
    for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
        let g = g + a.decay * *w;
        *w *= a.shrink;
        *m = b1 * *m + (1.0 - b1) * g;
        *v = b2 * *v + (1.0 - b2) * g * g;
        *w -= a.rate * *m / (v.sqrt() * a.root + a.eps);
    }
}

/// Sum of squares in a fixed order.
fn squares(len: usize, value: impl Fn(usize) -> f32 + Sync) -> f64 {
    let starts: Vec<usize> = (0..len).step_by(CHUNK).collect();
    let sums: Vec<f64> = starts.par_iter().map(|&s| (s..(s + CHUNK).min(len)).map(|i| (value(i) as f64).powi(2)).sum()).collect();
    sums.iter().sum()
}

impl Call for Update {
    fn name(&self) -> &'static str {
        "optimize"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[], &self.when.vars());
        for p in &self.parts {
            o.writes.push(p.w);
            o.writes.extend(&p.moments);
            o.reads.extend([p.w, p.g]);
        }
        o.reads.push(self.table);
        o.writes.push(self.norms);
        o
    }
    fn cpu(&self, m: &Host) {
        let (rate, decay) = (self.when.knob(m, Knob::LearningRate), self.when.knob(m, Knob::WeightDecay));
        let t = self.when.count(m) as i32 + 1;
        for p in &self.parts {
            let (mut w, g, mut first) = (m.f_mut(p.w), m.f(p.g), m.f_mut(p.moments[0]));
            let decay = if p.decays { decay } else { 0.0 };
            match self.rule {
                Rule::Sgd { momentum: beta } => each(&mut w, &g, &mut first, |w, g, v| momentum(w, g, v, beta, decay, 1.0, rate)),
                Rule::Lars { momentum: beta, trust } => {
                    let trust = if p.matrix {
                        let (w, g) = (&*w, &*g);
                        let weight = squares(p.len, |i| w[i]).sqrt();
                        let step = squares(p.len, |i| g[i] + decay * w[i]).sqrt();
                        if weight > 0.0 && step > 0.0 { (trust as f64 * weight / step) as f32 } else { 1.0 }
                    } else {
                        1.0
                    };
                    each(&mut w, &g, &mut first, |w, g, v| momentum(w, g, v, beta, decay, trust, rate));
                }
                Rule::Adam { betas, eps, decoupled } => {
                    let corrections = betas.map(|b| 1.0 - (b as f64).powi(t));
                    let a = Adam {
                        betas,
                        eps,
                        rate: (rate as f64 / corrections[0]) as f32,
                        root: (1.0 / corrections[1].sqrt()) as f32,
                        decay: if decoupled { 0.0 } else { decay },
                        shrink: if decoupled { 1.0 - rate * decay } else { 1.0 },
                    };
                    let mut second = m.f_mut(p.moments[1]);
                    let chunks =
                        w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(first.par_chunks_mut(CHUNK)).zip(second.par_chunks_mut(CHUNK));
                    chunks.for_each(|(((w, g), m), v)| adam(w, g, m, v, &a));
                }
            }
        }
    }
    fn prepare(&self, g: &Gpu) {
        let mut words: Vec<u64> = vec![];
        for p in &self.parts {
            let (begin, count) = ((words.len() / WORDS) as u64, p.len.div_ceil(PIECE) as u64);
            for start in (0..p.len).step_by(PIECE) {
                let address = |v: Var| g.address(v) + 4 * start as u64;
                let second = p.moments.get(1).map_or(0, |v| address(*v));
                let (len, flags) = (PIECE.min(p.len - start) as u64, p.decays as u64 | (p.matrix as u64) << 1);
                words.extend([address(p.w), address(p.g), address(p.moments[0]), second, len | flags << 32, begin | count << 32]);
            }
        }
        g.write::<u32>(self.table, bytemuck::cast_slice(&words));
    }
    fn gpu(&self, g: &Gpu) {
        let chunks = self.parts.iter().map(|p| p.len.div_ceil(PIECE)).sum::<usize>();
        if chunks == 0 {
            return;
        }
        let ([schedule, step], table, norms) = (self.when.vars().map(Arg::Var), self.table.into(), self.norms.into());
        let launch = |kernel, args: &[Arg]| g.launch(&Launch::blocks(kernel, chunks), args);
        match self.rule {
            Rule::Sgd { momentum } => launch("optimize_sgd", &[table, schedule, step, momentum.into()]),
            Rule::Adam { betas: [beta1, beta2], eps, decoupled } => {
                launch("optimize_adam", &[table, schedule, step, beta1.into(), beta2.into(), eps.into(), decoupled.into()])
            }
            Rule::Lars { momentum, trust } => {
                launch("optimize_lars_norms", &[norms, table, schedule, step]);
                launch("optimize_lars", &[table, norms, schedule, step, momentum.into(), trust.into()]);
            }
        }
    }
    fn cost(&self, _: u64) -> Cost {
        let n: usize = self.parts.iter().map(|p| p.len * (3 + 2 * p.moments.len())).sum();
        Cost { flops: 3 * n as u64, bytes: 4 * n as u64 }
    }
}

fn each(w: &mut [f32], g: &[f32], v: &mut [f32], step: impl Fn(&mut [f32], &[f32], &mut [f32]) + Sync) {
    w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(v.par_chunks_mut(CHUNK)).for_each(|((w, g), v)| step(w, g, v));
}
