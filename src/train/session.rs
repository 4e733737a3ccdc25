//! A training in progress: open, steps with checkpoints between them, finish.

use super::step::{self, Log, Rates, Step};
use super::{Job, Point, curve, watch};
use crate::error::{Error, Result};
use crate::files;
use crate::loader::load;
use crate::ops::augment::Batch;
use crate::program::{Plan, Program};
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::stage::Identity;
use crate::weights::Weights;
use std::time::{Duration, Instant};

/// Writing checkpoints takes at most one part in this many of the training time.
const SHARE: u32 = 50;

pub struct Session<'a> {
    job: &'a Job<'a>,
    identity: &'a Identity,
    rates: Rates,
    weights: Weights,
    program: Program,
    /// The micro-batches of a step, in order.
    batches: Vec<Batch>,
    log: Log,
    /// Steps from one point of the curve to the next.
    every: usize,
    curve: Vec<Point>,
    /// Steps done at the last checkpoint.
    kept: usize,
    /// The shuffled order of the current epoch, as positions in the job's samples.
    order: Vec<u32>,
    saved: Instant,
    pause: Duration,
}

impl<'a> Session<'a> {
    /// Records a step, loads the checkpoint if there is one, and allocates the memory.
    ///
    /// # Errors
    /// The checkpoint is damaged; memory is short; a kernel cannot be compiled.
    pub fn open(job: &'a Job, identity: &'a Identity, progress: &mut dyn Progress) -> Result<Session<'a>> {
        let steps = job.steps();
        let every = (steps / 500).clamp(1, 50);
        let rates = step::rates(job);
        let Step { tape, batches, log } = step::record(job, &rates, every)?;
        let mut weights = Weights::on(job.device.clone(), job.seed);
        let (mut points, mut kept) = (vec![], 0);
        if files::exists(job.checkpoint_path())? {
            let metadata = weights.load(&job.checkpoint_path(), "")?;
            weights.check(&job.checkpoint_path(), &tape.shapes_below(""), "")?;
            points = metadata.get("curve").and_then(|c| serde_json::from_str(c).ok()).unwrap_or_default();
            kept = points.last().map_or(0, |p: &Point| p.step as usize);
        }
        let batch_norm = tape.below("").iter().any(|(name, _)| name.ends_with("running_mean"));
        let plan = tape.plan(weights.device());
        plan.must_fit(weights.device(), "training", job.less_memory())?;
        let program = tape.compile(&mut weights)?;
        progress.start(&format!("train {}", job.name), steps as u64, "step");
        let (samples, batch) = (job.samples.len(), job.recipe.train.batch);
        progress.line(&format!("{}: {samples} samples, {steps} steps of {batch}; memory {}", job.name, Describe(plan)));
        if let [Batch { n, .. }, _, ..] = batches[..] {
            let norm = if batch_norm { "; batch norm has the statistics of each micro-batch" } else { "" };
            progress.line(&format!("{}: gradients of {} micro-batches of {n} add up to a step{norm}", job.name, batches.len()));
        }
        progress.advance(kept as u64, "");
        let (saved, pause) = (Instant::now(), job.checkpoint);
        Ok(Session { job, identity, rates, weights, program, batches, log, every, curve: points, kept, order: vec![], saved, pause })
    }

    /// Runs the remaining steps.
    ///
    /// # Errors
    /// An image cannot be read, the loss is NaN or infinite, the disk is full or failed, or [`Error::Stopped`] with a checkpoint kept.
    pub fn train(&mut self, progress: &mut dyn Progress) -> Result<()> {
        let steps = self.rates.len();
        for step in self.kept..steps {
            self.step(step)?;
            let last = step + 1 == steps;
            if (step + 1).is_multiple_of(self.every) || last {
                self.measure(step, progress)?;
                if !last && (self.saved.elapsed() >= self.pause || progress.stopped()) {
                    self.checkpoint(step + 1)?;
                }
            }
            if progress.stopped() && !last {
                let (kept, name, at) = (self.kept, self.job.name, self.job.dir.display());
                return Err(Error::stopped(format!(
                    "{kept} of {steps} steps of {name} are kept in {at}; the same command goes on from there"
                )));
            }
        }
        progress.done();
        Ok(())
    }

    fn step(&mut self, step: usize) -> Result<()> {
        let (job, per_epoch) = (self.job, self.job.steps_per_epoch());
        let (epoch, at) = (step / per_epoch, step % per_epoch);
        if self.order.is_empty() || at == 0 {
            self.order = Stream::new(job.seed, Purpose::Shuffle, epoch as u32, 0, 0).permutation(job.samples.len());
        }
        let samples = &self.order[at * job.recipe.train.batch..];
        let mut from = 0;
        for batch in &self.batches {
            let ids: Vec<u32> = samples[from..][..batch.n].iter().map(|&place| job.samples[place as usize]).collect();
            load(&mut self.program, batch, job.source, &ids, epoch as u32)?;
            from += batch.n;
        }
        self.program.run()
    }

    /// Adds a point of the curve from the steps since the last one.
    fn measure(&mut self, step: usize, progress: &mut dyn Progress) -> Result<()> {
        let rows = (step % self.every) + 1;
        let (epoch, lr) = ((step + 1) as f64 / self.job.steps_per_epoch() as f64, self.rates[step][0] as f64);
        let point = Point { step: step as u64 + 1, epoch, lr, ..watch::measure(&self.program, self.log, rows)? };
        watch::check(self.job, &self.curve, &point)?;
        self.curve.push(point);
        progress.advance(rows as u64, &watch::line(&point));
        Ok(())
    }

    fn checkpoint(&mut self, steps: usize) -> Result<()> {
        let start = Instant::now();
        let metadata = [("identity", self.identity.to_string()), ("curve", curve::to_json(&self.curve))];
        self.weights.save(&self.job.checkpoint_path(), "", &metadata.map(|(k, v)| (k.to_string(), v)).into())?;
        (self.saved, self.kept) = (Instant::now(), steps);
        self.pause = self.job.checkpoint.max(SHARE * (self.saved - start).min(self.job.checkpoint));
        Ok(())
    }

    /// Writes curve, heads and weights, and removes the checkpoint.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn finish(self) -> Result<Vec<Point>> {
        let Session { job, identity, weights, curve, .. } = self;
        files::write_whole(job.curve_path(), curve::to_json(&curve).as_bytes())?;
        let metadata = job.metadata(identity)?;
        let of = [("heads_of", job.method.name().to_string()), ("encoder", format!("{}.safetensors", job.name))];
        let heads = metadata.clone().into_iter().chain(of.map(|(k, v)| (k.to_string(), v))).collect();
        weights.save_named(&job.heads_path(), head, &heads)?;
        // Last, because the file marks the training as done.
        weights.save(&job.weights_path(), "encoder.", &metadata)?;
        if files::exists(job.checkpoint_path())? {
            std::fs::remove_file(job.checkpoint_path()).map_err(Error::io("remove", job.checkpoint_path()))?;
        }
        Ok(curve)
    }
}

/// The name of a weight if it belongs to a head; heads keep their names in the file.
fn head(name: &str) -> Option<&str> {
    let others = ["encoder.", "teacher.encoder.", "optimizer.", "schedule."];
    (!others.iter().any(|other| name.starts_with(other))).then_some(name)
}

struct Describe(Plan);

impl std::fmt::Display for Describe {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mb = |bytes: usize| bytes as f64 / 1e6;
        let p = &self.0;
        write!(
            f,
            "{:.0} MB weights, {:.0} MB activations and gradients ({:.0} MB before reuse), {:.0} MB input",
            mb(p.named),
            mb(p.temporary),
            mb(p.without_reuse),
            mb(p.fixed)
        )
    }
}
