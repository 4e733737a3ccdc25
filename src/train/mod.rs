//! Training one encoder: the whole step is one program; what is left here is the order of the samples,
//! watching the loss, and checkpoints from which a killed run goes on to the same bytes.

mod step;
mod watch;

pub use step::peak_rate;
pub use watch::rank;

use crate::config::Recipe;
use crate::data::{Content, Source, class_count};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files;
use crate::loader::load;
use crate::program::Plan;
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::view::View;
use crate::weights::Weights;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to train, on what, and where to put it.
pub struct Job<'a> {
    pub recipe: &'a Recipe,
    /// Of the start of the weights, of the order and of the views.
    pub seed: u64,
    pub source: &'a dyn Source,
    /// The samples this encoder may see.
    pub samples: &'a [u32],
    /// `f` or `g`: the stem of the files' names.
    pub name: &'a str,
    pub dir: &'a Path,
    /// Least time between checkpoints; writing them never takes more than a fiftieth of the training.
    pub checkpoint: Duration,
    pub device: &'a Device,
}

/// A point of the training curve: means since the point before; what was not measured is NaN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: u64,
    pub epoch: f64,
    pub loss: f64,
    /// Spread of the embeddings: 1 = all directions, 0 = collapsed.
    pub std: f64,
    /// How many directions the embeddings of the last batch use, as if all were used alike.
    pub rank: f64,
    /// Entropy of the teacher's choice among prototypes, of methods that have any, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Share of views that are given their class, of methods that learn classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    pub lr: f64,
}

/// The usual time between checkpoints.
pub const CHECKPOINT: Duration = Duration::from_secs(10);

impl Job<'_> {
    /// The encoder's weights, torchvision's names.
    pub fn weights_path(&self) -> PathBuf {
        self.dir.join(format!("{}.safetensors", self.name))
    }
    /// What the method trained on top of the encoder: projector, predictor, decoder, and the teacher's.
    pub fn heads_path(&self) -> PathBuf {
        self.dir.join(format!("{}.heads.safetensors", self.name))
    }
    pub fn curve_path(&self) -> PathBuf {
        self.dir.join(format!("{}.curve.json", self.name))
    }
    fn checkpoint_path(&self) -> PathBuf {
        self.dir.join(format!("{}.checkpoint.safetensors", self.name))
    }
    fn steps_per_epoch(&self) -> usize {
        self.samples.len() / self.recipe.train.batch
    }
    fn steps(&self) -> usize {
        self.steps_per_epoch() * self.recipe.train.epochs
    }
    /// Everything the weights depend on, as one digest: what a checkpoint must match to be taken up again.
    fn fingerprint(&self) -> Result<String> {
        let r = self.recipe;
        let mut hash = blake3::Hasher::new();
        // The limit may look at views of the score's policy.
        let limited = (r.method.alignment_limit > 0.0).then_some(&r.score.view);
        let parts = serde_json::to_string(&(&r.encoder, &r.method, &r.optim, &r.train, limited))
            .map_err(|e| Error::config(format!("the recipe cannot be written: {e}"), "report this"))?;
        hash.update(parts.as_bytes());
        hash.update(self.source.digest().as_bytes());
        hash.update(&self.seed.to_le_bytes());
        hash.update(bytemuck::cast_slice(self.samples));
        // Files of the same names and lengths may hold other images.
        if let Some(content) = Content::sampled(self.source, self.samples)? {
            hash.update(&content.to_bytes());
        }
        Ok(hash.finalize().to_hex().to_string())
    }
}

/// Find out whether there is enough to train on and room for it, before anything is written.
///
/// # Errors
/// The samples are fewer than a batch, or memory is short.
pub fn rehearse(job: &Job) -> Result<()> {
    enough(job)?;
    labelled(job)?;
    let tape = step::record(job, &step::rates(job), 1)?.tape;
    tape.plan(job.device).must_fit(job.device, "training", "lower train.batch or take a smaller encoder")
}

fn enough(job: &Job) -> Result<()> {
    if job.steps() > 0 {
        return Ok(());
    }
    let what = format!("{} has {} samples, fewer than one batch of {}", job.name, job.samples.len(), job.recipe.train.batch);
    Err(Error::config(what, "lower train.batch or give it more samples"))
}

/// Refuses to learn classes of samples that have none.
fn labelled(job: &Job) -> Result<()> {
    let method = &job.recipe.method.name;
    if !job.recipe.supervised()? {
        return Ok(());
    }
    let remedy = "take data with a class for each sample, or another method";
    if let Some(sample) = job.samples.iter().find(|&&i| job.source.label(i as usize).is_none()) {
        let what = format!("{} has no class, and {method} training learns the class of each sample", job.source.id(*sample as usize));
        return Err(Error::config(what, remedy));
    }
    match class_count(job.source) {
        0 | 1 => Err(Error::config(format!("the samples are of one class, and {method} training needs two"), remedy)),
        _ => Ok(()),
    }
}

/// Train, or take up where a killed run stopped. Does nothing if the weights are there already and belong
/// to the same recipe, data and samples. Returns the training curve.
pub fn train(job: &Job, progress: &mut dyn Progress) -> Result<Vec<Point>> {
    let fingerprint = job.fingerprint()?;
    if files::exists(job.weights_path())? {
        check(job)?;
        return Ok(read_curve(&job.curve_path())?.unwrap_or_default());
    }
    enough(job)?;
    labelled(job)?;
    let (steps, per_epoch) = (job.steps(), job.steps_per_epoch());
    let every = (steps / 500).clamp(1, 50);
    let rates = step::rates(job);
    let step::Step { tape, batch, log } = step::record(job, &rates, every)?;

    let mut weights = Weights::on(job.device.clone(), job.seed);
    let (mut curve, mut done) = (vec![], 0);
    if files::exists(job.checkpoint_path())? {
        let metadata = weights.load(&job.checkpoint_path(), "")?;
        same_recipe(&metadata, &fingerprint, &job.checkpoint_path())?;
        weights.check(&job.checkpoint_path(), &tape.shapes_below(""), "")?;
        curve = metadata.get("curve").and_then(|c| serde_json::from_str(c).ok()).unwrap_or_default();
        done = curve.last().map_or(0, |p: &Point| p.step as usize);
    }
    let plan = tape.plan(weights.device());
    plan.must_fit(weights.device(), "training", "lower train.batch or take a smaller encoder")?;
    let mut program = tape.compile(&mut weights)?;

    progress.start(&format!("train {}", job.name), steps as u64, "step");
    progress.line(&format!(
        "{}: {} samples, {steps} steps of {}; memory {}",
        job.name,
        job.samples.len(),
        job.recipe.train.batch,
        Describe(plan)
    ));
    progress.advance(done as u64, "");
    let (mut saved, mut pause) = (Instant::now(), job.checkpoint);
    let mut order = vec![];
    for (step, rate) in rates.iter().enumerate().skip(done) {
        let (epoch, at) = (step / per_epoch, step % per_epoch);
        if order.is_empty() || at == 0 {
            order = Stream::new(job.seed, Purpose::Shuffle, epoch as u32, 0, 0).permutation(job.samples.len());
        }
        let ids: Vec<u32> = order[at * batch.n..][..batch.n].iter().map(|&i| job.samples[i as usize]).collect();
        load(&mut program, &batch, job.source, &ids, epoch as u32)?;
        program.run()?;
        if (step + 1) % every == 0 || step + 1 == steps {
            let rows = (step % every) + 1;
            let measured = watch::measure(&program, log, rows)?;
            let point = Point { step: step as u64 + 1, epoch: (step + 1) as f64 / per_epoch as f64, lr: rate[0] as f64, ..measured };
            watch::check(job, &curve, &point)?;
            curve.push(point);
            progress.advance(rows as u64, &watch::line(&point));
            if (saved.elapsed() >= pause || progress.stopped()) && step + 1 < steps {
                let start = Instant::now();
                let metadata = [("fingerprint", fingerprint.clone()), ("curve", to_json(&curve))];
                weights.save(&job.checkpoint_path(), "", &metadata.map(|(k, v)| (k.to_string(), v)).into())?;
                (saved, done) = (Instant::now(), step + 1);
                pause = job.checkpoint.max(50 * (saved - start).min(job.checkpoint));
            }
        }
        if progress.stopped() && step + 1 < steps {
            let what =
                format!("{done} of {steps} steps of {} are kept in {}; the same command goes on from there", job.name, job.dir.display());
            return Err(Error::stopped(what));
        }
    }
    progress.done();
    files::write_whole(job.curve_path(), to_json(&curve).as_bytes())?;
    let metadata = metadata(job, &job.recipe.train_view()?, fingerprint);
    let of = [("heads_of", job.recipe.method.name.clone()), ("encoder", format!("{}.safetensors", job.name))];
    let heads = metadata.clone().into_iter().chain(of.map(|(k, v)| (k.to_string(), v))).collect();
    weights.save_named(&job.heads_path(), head, &heads)?;
    // Last, because its presence says that the training is done.
    weights.save(&job.weights_path(), "encoder.", &metadata)?;
    if files::exists(job.checkpoint_path())? {
        std::fs::remove_file(job.checkpoint_path()).map_err(Error::io("remove", job.checkpoint_path()))?;
    }
    Ok(curve)
}

/// The name of what is part of a head, which it keeps.
fn head(name: &str) -> Option<&str> {
    let others = ["encoder.", "teacher.encoder.", "optimizer.", "schedule."];
    (!others.iter().any(|other| name.starts_with(other))).then_some(name)
}

/// The training curve that was written beside the weights, unless somebody took it away.
pub fn read_curve(path: &Path) -> Result<Option<Vec<Point>>> {
    if !files::exists(path)? {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::format(path, format!("is not a training curve ({e})")))
}

fn to_json(curve: &[Point]) -> String {
    serde_json::to_string(curve).expect("numbers and nothing else")
}

fn metadata(job: &Job, view: &View, fingerprint: String) -> BTreeMap<String, String> {
    let e = &job.recipe.encoder;
    let pairs = [
        ("fingerprint", fingerprint),
        ("arch", e.arch.clone()),
        ("stem", word(&e.stem)),
        ("patch", e.patch.to_string()),
        ("positions", word(&e.positions)),
        ("heads", e.heads.to_string()),
        ("norm_eps", format!("{:?}", e.norm_eps)),
        ("size", e.size.to_string()),
        ("resize", word(&e.resize)),
        ("interpolation", word(&e.interpolation)),
        ("mean", format!("{:?}", view.mean)),
        ("std", format!("{:?}", view.std)),
        ("method", job.recipe.method.name.clone()),
        ("epochs", job.recipe.train.epochs.to_string()),
        ("seed", job.seed.to_string()),
        ("device", job.device.name()),
        ("samples", job.samples.len().to_string()),
        ("data", job.source.digest().to_string()),
        ("sslmem", env!("CARGO_PKG_VERSION").to_string()),
    ];
    pairs.map(|(k, v)| (k.to_string(), v)).into()
}

/// A value of the recipe as it is written there.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// Refuses an encoder that is there and was not trained as the job says.
///
/// # Errors
/// The file was made by another recipe, on other data or other samples; it is missing or damaged.
pub fn check(job: &Job) -> Result<()> {
    let metadata = Weights::new(job.seed).load(&job.weights_path(), "encoder.")?;
    same_recipe(&metadata, &job.fingerprint()?, &job.weights_path())
}

fn same_recipe(metadata: &HashMap<String, String>, fingerprint: &str, path: &Path) -> Result<()> {
    if metadata.get("fingerprint").map(String::as_str) == Some(fingerprint) {
        return Ok(());
    }
    let what = format!("{} was made by another recipe, on other data or other samples", path.display());
    Err(Error::config(what, "choose another folder with --out, or delete the file"))
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
