//! The program of one training step: views, loss, gradients, update, EMA, and the schedule of values that change from step to step.

use super::Job;
use crate::config::Recipe;
use crate::data::class_count;
use crate::encoders::Network;
use crate::error::Result;
use crate::methods::{Context, LossOutput, LrPolicy, Metric, Representations};
use crate::ops::augment::Batch;
use crate::ops::drop_path::Drop;
use crate::ops::optimize::{Algorithm, Gradients, LarsVariant, ParamGroup, Rate};
use crate::random::Purpose;
use crate::schedule::{Schedule, warmup_cosine};
use crate::tape::{Mode, Tape};
use crate::var::{Dtype, Var};

/// The program of one step and its handles.
pub struct Step {
    pub tape: Tape,
    /// The inputs of a step: `train.accumulate` micro-batches.
    pub batches: Vec<Batch>,
    pub log: Log,
}

/// Variables that the training curve reads.
#[derive(Clone, Copy)]
pub struct Log {
    /// Loss, spread and the method's metric (if any) of each of the last steps.
    pub values: Var, // [every, 2 or 3]
    /// The embeddings that must not collapse, of the last micro-batch of the last step.
    pub embeddings: Var, // [rows, d]
    pub metric: Option<Metric>,
}

/// Rows of the schedule: learning rate, weight decay, the teacher's momentum and temperature.
pub type Rates = Vec<[f32; 4]>;

/// Learning rate after scaling with the batch.
pub fn peak_rate(recipe: &Recipe) -> f64 {
    let (o, batches) = (&recipe.optim, recipe.train.batch as f64 / 256.0);
    o.lr as f64
        * match o.lr_scaling.as_str() {
            "linear" => batches,
            "sqrt" => batches.sqrt(),
            _ => 1.0,
        }
}

pub fn rates(job: &Job) -> Rates {
    let (o, m, steps) = (&job.recipe.optim, &job.recipe.method, job.steps());
    let per_epoch = job.steps_per_epoch();
    let warmup = ((o.warmup_epochs as f64 * per_epoch as f64).round() as usize).min(steps);
    let (peak, end) = (peak_rate(job.recipe), o.lr_end as f64);
    let cosine = |step| peak * end + warmup_cosine(peak * (1.0 - end), warmup, steps, step);
    let rate = |step: usize| match (o.schedule.as_str(), step < warmup) {
        (_, true) => warmup_cosine(peak, warmup, steps, step),
        ("constant", false) => peak,
        ("cosine_epochs", false) => cosine((step / per_epoch * per_epoch).max(warmup)),
        _ => cosine(step),
    };
    let row = |step: usize| {
        let share = step as f64 / steps as f64;
        // Changes once per epoch, as in the authors' code of DINO.
        let warm = (step / per_epoch) as f64 / (m.teacher_warmup_epochs as f64 - 1.0).max(1.0);
        let temperature = if m.teacher_warmup_epochs > 0.0 { m.teacher_temperature.line(warm) } else { m.teacher_temperature.line(1.0) };
        [rate(step), o.weight_decay.cosine(share), m.momentum.cosine(share), temperature].map(|v| v as f32)
    };
    (0..steps).map(row).collect()
}

fn algorithm(recipe: &Recipe) -> Algorithm {
    let o = &recipe.optim;
    let lars = |variant| Algorithm::Lars { momentum: o.momentum, trust: o.trust, variant };
    match o.name.as_str() {
        "sgd" => Algorithm::Sgd { momentum: o.momentum },
        "lars" => lars(LarsVariant::Plain),
        "lars_classic" => lars(LarsVariant::Classic),
        "lars_clipped" => lars(LarsVariant::Clipped),
        name => Algorithm::Adam { betas: o.betas, eps: o.eps, decoupled: name == "adamw" },
    }
}

/// Records a training step: views, loss and backward of each micro-batch, then one update.
///
/// Gradients of the micro-batches add up: the first backward writes the weights' gradients and later ones add, as for a weight that is used
/// twice. The planner reuses the memory of a micro-batch's activations for the next.
pub fn record(job: &Job, rates: &Rates, every: usize) -> Result<Step> {
    let r = job.recipe;
    let mut tape = Tape::new(Mode::Train);
    let schedule = Schedule::new(&mut tape, rates);
    let parts = r.train.accumulate;
    let batches: Vec<Batch> = (0..parts)
        .map(|_| {
            let batch = tape.batch(r.train.batch / parts, job.source.largest());
            if job.method.supervised() { tape.labelled(batch) } else { batch }
        })
        .collect();
    let classes = if job.method.supervised() { class_count(job.source) } else { 0 };
    let (mut losses, mut metrics, mut last) = (vec![], vec![], None);
    for &batch in &batches {
        let LossOutput { loss, embeddings, metric, .. } = micro_batch(job, &mut tape, schedule, batch, classes)?;
        let loss = if parts == 1 { loss } else { tape.root().weighted_sum(&[(loss, 1.0 / parts as f32)]) };
        tape.backward(loss);
        losses.push((loss, 1.0));
        metrics.extend(metric.map(|metric| (metric.var(), 1.0 / parts as f32)));
        last = Some((embeddings, metric));
    }
    let (embeddings, metric) = last.expect("a step has a batch");
    let mut total = |terms: &[(Var, f32)]| if let [(one, _)] = terms { *one } else { tape.root().weighted_sum(terms) };
    let loss = total(&losses);
    let metric = metric.map(|metric| metric.of(total(&metrics)));
    let spread = tape.root().feature_std(embeddings);
    optimize(job, &mut tape, schedule);
    job.method.after(&mut tape, schedule);
    tape.keep(embeddings);
    let values: Vec<Var> = [loss, spread].into_iter().chain(metric.map(Metric::var)).collect();
    let log = tape.fixed([every, values.len()], Dtype::F32);
    tape.log_step(schedule, log, &values);
    Ok(Step { tape, batches, log: Log { values: log, embeddings, metric } })
}

/// From the views of a micro-batch to its loss, with the limit of Eq. 3 if asked for.
fn micro_batch(job: &Job, tape: &mut Tape, schedule: Schedule, batch: Batch, classes: usize) -> Result<LossOutput> {
    let r = job.recipe;
    let (mut views, mut count) = (vec![], 0);
    for group in r.train_views(job.method)? {
        count += group.len();
        views.push(tape.augment(batch, group.clone(), count - group.len(), job.seed, Purpose::Train));
    }
    let mut network = r.network()?;
    if r.encoder.drop_path > 0.0 {
        network.config.drop = Some((r.encoder.drop_path, Drop { keys: batch.keys, seed: job.seed, view: 0, layer: 0 }));
    }
    let context = Context { network, options: &r.method, schedule, batch, classes, seed: job.seed };
    let mut recorded = job.method.loss(&mut tape.root(), &context, &views);
    if r.method.alignment_limit > 0.0 {
        let distance = distance(job, tape, &network, batch, &recorded.representations, count)?;
        let limit = r.method.alignment_limit;
        recorded.loss = tape.root().weighted_sum(&[(recorded.loss, 1.0 - limit), (distance, -limit)]);
    }
    Ok(recorded)
}

/// The alignment term of Eq. 3: the mean distance between the representations of two views. A method that trains on one view (MAE) gets two
/// more, unmasked.
fn distance(job: &Job, tape: &mut Tape, network: &Network, batch: Batch, seen: &Representations, count: usize) -> Result<Var> {
    Ok(match *seen {
        Representations::Halves(x) => tape.root().distance_halves(x),
        Representations::Two(a, b) => tape.root().distance(a, b),
        Representations::None => {
            let views = tape.augment(batch, vec![job.recipe.score_view()?; 2], count, job.seed, Purpose::Train);
            let x = network.with_first_view(count).features(&mut tape.root().at("encoder"), views);
            tape.root().distance_halves(x)
        }
    })
}

fn optimize(job: &Job, tape: &mut Tape, schedule: Schedule) {
    let (r, per_epoch) = (job.recipe, job.steps_per_epoch());
    let group = |name: &str, dims: &[usize]| {
        let matrix = dims.len() > 1;
        let factor = if matrix { 1.0 } else { r.optim.lr_bias };
        let (rate, from) = match job.method.lr_policy(&r.method, name) {
            LrPolicy::Usual => (Rate::Scheduled(factor), 0),
            LrPolicy::Constant => (Rate::Fixed(peak_rate(r) as f32 * factor), 0),
            LrPolicy::After(epochs) => (Rate::Scheduled(factor), (epochs as f64 * per_epoch as f64).round() as u32),
        };
        ParamGroup { decay: matrix || r.optim.decay_all, rate, from }
    };
    let gradients = Gradients::of(tape).clip(r.optim.clip);
    tape.optimize(gradients, algorithm(r), &|name, shape| group(name, shape.dims()), schedule);
}
