//! Training one encoder. A step is one program; this module adds the order of the samples, the watch on loss and collapse, and checkpoints
//! from which a killed training resumes to the same bytes.

mod curve;
mod session;
mod step;
mod watch;

pub use curve::{Point, read_curve};
pub use step::peak_rate;
pub use watch::rank;

use crate::checkpoint::{Checkpoint, SEAL};
use crate::config::Recipe;
use crate::data::{Content, Source, class_count};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files;
use crate::methods::{self, Method};
use crate::progress::Progress;
use crate::stage::{Existing, Found, Identity, Next, Stage, setting};
use serde::Serialize;
use serde_json::json;
use session::Session;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An encoder to train, its data, and the place of its files.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub recipe: &'a Recipe,
    /// The recipe's method, or the caller's own.
    pub method: &'a dyn Method,
    /// Seed of the initial weights, of the order and of the views.
    pub seed: u64,
    pub source: &'a dyn Source,
    /// The training samples.
    pub samples: &'a [u32],
    /// `f` or `g`: the stem of the file names.
    pub name: &'a str,
    pub dir: &'a Path,
    /// Least time between checkpoints; writing them never takes more than 2 % of the training.
    pub checkpoint: Duration,
    pub device: &'a Device,
}

/// The usual time between checkpoints.
pub const CHECKPOINT: Duration = Duration::from_secs(10);

impl<'a> Job<'a> {
    /// The training of a recipe, on the CPU, with its seed and method.
    ///
    /// # Errors
    /// There is no such method.
    pub fn new(recipe: &'a Recipe, source: &'a dyn Source, samples: &'a [u32], name: &'a str, dir: &'a Path) -> Result<Job<'a>> {
        let method = methods::find(&recipe.method.name)?;
        Ok(Job { recipe, method, seed: recipe.seed, source, samples, name, dir, checkpoint: CHECKPOINT, device: &Device::Cpu })
    }

    /// The path of the encoder's weights.
    pub fn weights_path(&self) -> PathBuf {
        self.dir.join(format!("{}.safetensors", self.name))
    }
    /// The path of the heads: projector, predictor, decoder, classifier, and those of the teacher.
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

    /// Existing work: weights, a checkpoint, or nothing.
    fn found(&self) -> Result<Found> {
        let there = |path: PathBuf| {
            let damaged = "cannot be read, so it was damaged; delete it, and the same command trains again";
            let file = Checkpoint::open(&path).map_err(|error| match error {
                Error::Format { .. } => Error::format(&path, damaged),
                error => error,
            })?;
            file.verify()?;
            if file.metadata.contains_key("identity") && !file.metadata.contains_key(SEAL) {
                return Err(Error::format(
                    &path,
                    "has lost the digest of its tensors, so it was changed; delete it, and the same command trains again",
                ));
            }
            let identity = file.metadata.get("identity").and_then(|text| Identity::parse(text));
            identity.ok_or_else(|| {
                let what = "does not say what it was trained on: another program wrote it, `sslmem convert`, or an earlier version";
                Error::format(&path, format!("{what}; move it away, or choose another folder with --out"))
            })
        };
        if files::exists(self.weights_path())? {
            return Ok(Found::Made(there(self.weights_path())?));
        }
        if files::exists(self.checkpoint_path())? {
            return Ok(Found::Begun(there(self.checkpoint_path())?));
        }
        Ok(Found::Nothing)
    }

    /// The work left, or an error if the place has another training.
    fn next(&self, found: &Found, identity: &Identity) -> Result<Next> {
        let path = if let Found::Begun(_) = found { self.checkpoint_path() } else { self.weights_path() };
        Existing::Keep.next(found, identity, |what| {
            let what = format!("{} is of another training: {what}", path.display());
            Error::config(what, "choose another folder with --out, or delete the file")
        })
    }

    /// Advice for the error that memory is short.
    fn less_memory(&self) -> &'static str {
        if self.method.by_sample() {
            "raise train.accumulate, lower train.batch or take a smaller encoder"
        } else {
            "lower train.batch or take a smaller encoder"
        }
    }

    /// Metadata of the weights: the encoder's configuration, which every verb reads, and its training.
    fn metadata(&self, identity: &Identity) -> Result<BTreeMap<String, String>> {
        let (e, view) = (&self.recipe.encoder, self.recipe.train_view()?);
        let pairs = [
            ("identity", identity.to_string()),
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
            ("method", self.method.name().to_string()),
            ("epochs", self.recipe.train.epochs.to_string()),
            ("seed", self.seed.to_string()),
            ("device", self.device.name()),
            ("samples", self.samples.len().to_string()),
            ("data", self.source.digest().to_string()),
            ("sslmem", env!("CARGO_PKG_VERSION").to_string()),
        ];
        Ok(pairs.map(|(k, v)| (k.to_string(), v)).into())
    }
}

impl Stage for Job<'_> {
    fn name(&self) -> String {
        format!("train {}", self.name)
    }

    /// Without the device: a training may resume on another one.
    fn identity(&self) -> Result<Identity> {
        let (r, digest) = (self.recipe, |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string());
        let mut method = setting(&r.method)?;
        method["name"] = self.method.name().into();
        // The data's digest covers names and lengths; this one covers the content of some files.
        let content = Content::sampled(self.source, self.samples)?.and_then(Content::hex);
        let mut identity = json!({
            "seed": self.seed,
            "data": { "digest": self.source.digest(), "content": content },
            "samples": { "digest": digest(bytemuck::cast_slice(self.samples)), "count": self.samples.len() },
            "encoder": setting(&r.encoder)?,
            "method": method,
            "optim": setting(&r.optim)?,
            "train": setting(&r.train)?,
        });
        // With an alignment limit (Eq. 3) training may use views of the score's policy.
        if r.method.alignment_limit > 0.0 {
            identity["score"] = json!({ "view": setting(&r.score.view)? });
        }
        Ok(Identity::new(identity))
    }

    fn outputs(&self) -> Vec<PathBuf> {
        vec![self.weights_path(), self.heads_path(), self.curve_path()]
    }

    fn run(&self, progress: &mut dyn Progress) -> Result<()> {
        train(self, progress).map(drop)
    }
}

/// Checks that there are enough samples and enough memory, before anything is written.
///
/// # Errors
/// The samples are fewer than a batch, or memory is short.
pub fn rehearse(job: &Job) -> Result<()> {
    enough(job)?;
    labelled(job)?;
    let tape = step::record(job, &step::rates(job), 1)?.tape;
    tape.plan(job.device).must_fit(job.device, "training", job.less_memory())
}

fn enough(job: &Job) -> Result<()> {
    if job.steps() > 0 {
        return Ok(());
    }
    let what = format!("{} has {} samples, fewer than one batch of {}", job.name, job.samples.len(), job.recipe.train.batch);
    Err(Error::config(what, "lower train.batch or give it more samples"))
}

/// Refuses a supervised method on samples without a class.
fn labelled(job: &Job) -> Result<()> {
    let method = job.method.name();
    if !job.method.supervised() {
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

/// Trains the encoder, or resumes a stopped training. Does nothing if the weights exist and are of the same identity. Returns the training
/// curve.
///
/// # Errors
/// The place has another training; the samples are too few or have no class; memory is short; the loss is NaN or infinite, or the
/// embeddings collapse; an image cannot be read; the disk is full or failed; [`Error::Stopped`], with a checkpoint kept.
pub fn train(job: &Job, progress: &mut dyn Progress) -> Result<Vec<Point>> {
    let identity = job.identity()?;
    if job.next(&job.found()?, &identity)? == Next::Reuse {
        return Ok(read_curve(&job.curve_path())?.unwrap_or_default());
    }
    enough(job)?;
    labelled(job)?;
    let mut session = Session::open(job, &identity, progress)?;
    session.train(progress)?;
    session.finish()
}

/// A value of the recipe, written as TOML does.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// Refuses existing weights that are not of this job.
///
/// # Errors
/// The file was made by another recipe, on other data or other samples; it is missing or damaged.
pub fn check(job: &Job) -> Result<()> {
    match job.found()? {
        found @ Found::Made(_) => job.next(&found, &job.identity()?).map(drop),
        _ => Err(Error::format(job.weights_path(), "is not there: its training is not done")),
    }
}
