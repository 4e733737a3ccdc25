//! The optimizer step, for all weights in one call: SGD, Adam and AdamW as in PyTorch, and LARS (You et al. 2017), whose
//! implementations differ: [`LarsVariant`].

mod rules;

use crate::device::{Arg, Gpu, Host, Launch};
use crate::init::Init;
use crate::schedule::{Schedule, ScheduleColumn};
use crate::tape::{Call, Cost, Operands, Tape};
use crate::var::{Dtype, Shape, Var};
use rules::{Adam, Momentum, norm};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Algorithm {
    /// v = momentum v + g + decay w; w -= rate v.
    Sgd { momentum: f32 },
    /// PyTorch's Adam; `decoupled`: AdamW (Loshchilov and Hutter 2019). Otherwise decay w is added to the gradient.
    Adam { betas: [f32; 2], eps: f32, decoupled: bool },
    /// v = momentum v + trust ratio (g + decay w); w -= rate v. Tensors with one dimension are neither decayed nor adapted. The field
    /// `trust` is eta, from which [`LarsVariant`] computes the ratio.
    Lars { momentum: f32, trust: f32, variant: LarsVariant },
}

/// The trust ratio of LARS, by whose code it follows. The numbers are those of `kernels/optimize.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LarsVariant {
    /// MoCo v3, MAE, Barlow Twins, VICReg: trust = eta |w| / |g + decay w|, 1 if either is 0.
    Plain,
    /// SimCLR (google-research): the same trust; v = momentum v + rate trust (g + decay w); w -= v.
    Classic,
    /// solo-learn with `clip_lr`: trust = min(eta |w| / (|g| + decay |w| + 1e-8) / rate, 1); where |w| or |g| is 0, no decay either.
    Clipped,
}

/// Settings of one weight, as in a parameter group of PyTorch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamGroup {
    /// LARS never decays a tensor with one dimension, whatever this says.
    pub decay: bool,
    pub rate: Rate,
    /// The first step that updates the weight. Earlier steps leave weight and moments alone; Adam counts its bias correction from here.
    pub from: u32,
}

/// The learning rate of one weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// A factor of the schedule's learning rate.
    Scheduled(f32),
    Fixed(f32),
}

impl Default for ParamGroup {
    /// Decayed, at the scheduled rate, from the first step on.
    fn default() -> ParamGroup {
        ParamGroup { decay: true, rate: Rate::Scheduled(1.0), from: 0 }
    }
}

/// The gradients of a step, between backward and update. Methods transform them, such as [`Gradients::clip`]. Several backwards
/// (micro-batches) accumulate into them.
pub struct Gradients {
    of: Vec<(String, Var, Var)>, // name, weight, gradient of the weight's shape
    clip: f32,
}

impl Gradients {
    /// The gradients of every trained weight that a backward has reached so far, in the order of recording.
    pub fn of(tape: &Tape) -> Gradients {
        Gradients { of: tape.gradients(), clip: 0.0 }
    }

    /// Clips the l2 norm of each tensor's gradient by itself, as in DINO's code: g is scaled by min(1, norm / (|g| + 1e-6)). 0 clips nothing.
    /// The update applies the factor while it reads the gradients, so that they are not written again.
    pub fn clip(self, norm: f32) -> Gradients {
        Gradients { clip: norm, ..self }
    }
}

impl Tape {
    /// Appends one call that updates all weights of `gradients`. `group` gives each weight's settings by its name and shape, like PyTorch's
    /// parameter groups. Optimizer state is named memory: `optimizer.0.NAME` (and `optimizer.1.NAME` for Adam), f32, of the weight's
    /// shape. Learning rate and weight decay come from `schedule`. Kernels: `optimize.cu`.
    ///
    /// # Panics
    /// State of this name was recorded with another shape.
    pub fn optimize(&mut self, gradients: Gradients, algorithm: Algorithm, group: &dyn Fn(&str, Shape) -> ParamGroup, schedule: Schedule) {
        let clip = gradients.clip;
        let moments = if matches!(algorithm, Algorithm::Adam { .. }) { 2 } else { 1 };
        let parts = gradients.of.into_iter().map(|(name, w, g)| {
            let shape = self.shape(w);
            let matrix = shape.dims().len() > 1;
            let moment = |i: usize| self.named(&format!("optimizer.{i}.{name}"), shape, Dtype::F32, Init::Constant(0.0), false);
            let moments = (0..moments).map(moment).collect();
            let mut group = group(&name, shape);
            group.decay &= matrix || !matches!(algorithm, Algorithm::Lars { .. });
            WeightUpdate { w, g, moments, len: shape.len(), matrix, group }
        });
        let parts: Vec<WeightUpdate> = parts.collect();
        let chunks = parts.iter().map(|p| p.len.div_ceil(PIECE)).sum::<usize>().max(1);
        let table = self.fixed([chunks, WORDS, 2], Dtype::U32);
        let (table, norms) = (self.gpu_only(table), self.scratch([chunks, 2], Dtype::F32));
        let gradients = (clip > 0.0).then(|| self.scratch([chunks], Dtype::F32));
        self.no_grad(Update { parts, algorithm, clip, schedule, table, norms, gradients });
    }
}

struct WeightUpdate {
    w: Var,            // [len]
    g: Var,            // [len]
    moments: Vec<Var>, // [len] each
    len: usize,
    matrix: bool,
    group: ParamGroup,
}

struct Update {
    parts: Vec<WeightUpdate>,
    algorithm: Algorithm,
    clip: f32,
    schedule: Schedule,
    table: Var,             // [chunks, WORDS, 2] u32, on a GPU: a `Chunk` per block
    norms: Var,             // [chunks, 2], on a GPU: sums of w^2 and of (g + decay w)^2, for LARS
    gradients: Option<Var>, // [chunks], on a GPU: sums of g^2, if gradients are clipped
}

/// Values of one weight per GPU block.
const PIECE: usize = 8192;
/// 64-bit words in a row of the kernels' table: `Chunk` of `kernels/optimize.cu`.
const WORDS: usize = 7;

impl Update {
    fn part(&self, m: &Host, p: &WeightUpdate) {
        let (mut w, g, mut first) = (m.f_mut(p.w), m.f(p.g), m.f_mut(p.moments[0]));
        let rate = match p.group.rate {
            Rate::Scheduled(factor) => factor * self.schedule.value(m, ScheduleColumn::LearningRate),
            Rate::Fixed(rate) => rate,
        };
        let decay = if p.group.decay { self.schedule.value(m, ScheduleColumn::WeightDecay) } else { 0.0 };
        let (w, g) = (&mut *w, &*g);
        let scale = if self.clip > 0.0 { (self.clip as f64 / (norm(p.len, |i| g[i]) + 1e-6)).min(1.0) as f32 } else { 1.0 };
        match self.algorithm {
            Algorithm::Sgd { momentum } => Momentum { momentum, decay, trust: 1.0, rate, scale }.step(w, g, &mut first),
            Algorithm::Lars { momentum, trust, variant } => {
                let clipped = variant == LarsVariant::Clipped;
                let mut step = Momentum { momentum, decay, trust: 1.0, rate, scale };
                if p.matrix {
                    let (w, added) = (&*w, if clipped { 0.0 } else { decay });
                    let weight = norm(p.len, |i| w[i]);
                    let moved = norm(p.len, |i| scale * g[i] + added * w[i]);
                    let clip = |trust: f64| if clipped { (trust / rate as f64).min(1.0) } else { trust };
                    let apart = if clipped { decay as f64 * weight + 1e-8 } else { 0.0 };
                    match weight > 0.0 && moved > 0.0 {
                        true => step.trust = clip(trust as f64 * weight / (moved + apart)) as f32,
                        false if clipped => step.decay = 0.0,
                        false => {}
                    }
                }
                if variant == LarsVariant::Classic {
                    (step.trust, step.rate) = (step.trust * rate, 1.0);
                }
                step.step(w, g, &mut first);
            }
            Algorithm::Adam { betas, eps, decoupled } => {
                let t = (self.schedule.count(m) - p.group.from) as i32 + 1;
                let corrections = betas.map(|b| 1.0 - (b as f64).powi(t));
                let a = Adam {
                    betas,
                    eps,
                    rate: (rate as f64 / corrections[0]) as f32,
                    root: (1.0 / corrections[1].sqrt()) as f32,
                    decay: if decoupled { 0.0 } else { decay },
                    shrink: if decoupled { 1.0 - rate * decay } else { 1.0 },
                    scale,
                };
                a.step(w, g, &mut first, &mut m.f_mut(p.moments[1]));
            }
        }
    }
}

impl Call for Update {
    fn name(&self) -> &'static str {
        "optimize"
    }
    fn operands(&self) -> Operands {
        let mut o = Operands::new(&[], &self.schedule.vars());
        for p in &self.parts {
            o.writes.push(p.w);
            o.writes.extend(&p.moments);
            o.reads.extend([p.w, p.g]);
        }
        o.reads.push(self.table);
        o.writes.push(self.norms);
        o.writes.extend(self.gradients);
        o
    }
    fn cpu(&self, m: &Host) {
        let step = self.schedule.count(m);
        self.parts.iter().filter(|p| p.group.from <= step).for_each(|p| self.part(m, p));
    }
    fn prepare(&self, g: &Gpu) {
        let mut words: Vec<u64> = vec![];
        for p in &self.parts {
            let (begin, count) = ((words.len() / WORDS) as u64, p.len.div_ceil(PIECE) as u64);
            let (fixed, rate) = match p.group.rate {
                Rate::Scheduled(factor) => (0, factor),
                Rate::Fixed(rate) => (1, rate),
            };
            let flags = p.group.decay as u64 | (p.matrix as u64) << 1 | fixed << 2;
            for start in (0..p.len).step_by(PIECE) {
                let address = |v: Var| g.address(v) + 4 * start as u64;
                let second = p.moments.get(1).map_or(0, |v| address(*v));
                let len = PIECE.min(p.len - start) as u64;
                words.extend([address(p.w), address(p.g), address(p.moments[0]), second, len | flags << 32, begin | count << 32]);
                words.push(rate.to_bits() as u64 | (p.group.from as u64) << 32);
            }
        }
        g.write::<u32>(self.table, bytemuck::cast_slice(&words));
    }
    fn gpu(&self, g: &Gpu) {
        let chunks = self.parts.iter().map(|p| p.len.div_ceil(PIECE)).sum::<usize>();
        if chunks == 0 {
            return;
        }
        let [schedule, step] = self.schedule.vars().map(Arg::Var);
        let (table, norms, gradients, clip) = (Arg::Var(self.table), self.norms.into(), Arg::from(self.gradients), self.clip.into());
        let launch = |kernel, args: &[Arg]| g.launch(&Launch::blocks(kernel, chunks), args);
        if let Some(gradients) = self.gradients {
            launch("optimize_norms", &[gradients.into(), table.clone()]);
        }
        match self.algorithm {
            Algorithm::Sgd { momentum } => launch("optimize_sgd", &[table, gradients, schedule, step, clip, momentum.into()]),
            Algorithm::Adam { betas: [beta1, beta2], eps, decoupled } => {
                let scalars = [clip, beta1.into(), beta2.into(), eps.into()];
                launch("optimize_adam", &[&[table, gradients, schedule, step, decoupled.into()][..], &scalars].concat())
            }
            Algorithm::Lars { momentum, trust, variant } => {
                let common = [schedule, step, (variant as usize).into(), clip];
                launch("optimize_lars_norms", &[&[Arg::Var(self.norms), table.clone(), gradients.clone()][..], &common].concat());
                launch("optimize_lars", &[&[table, gradients, norms][..], &common, &[momentum.into(), trust.into()]].concat());
            }
        }
    }
    fn cost(&self, _: u64) -> Cost {
        let n: usize = self.parts.iter().map(|p| p.len * (3 + 2 * p.moments.len())).sum();
        Cost { flops: 3 * n as u64, bytes: 4 * n as u64 }
    }
}
