//! A whole run in one folder: split, train f and g of every pair, score, report. Finished work of the same recipe is kept, so a stopped run
//! resumes.
//!
//! ```text
//! RUN/recipe.toml  split.json  pair1/{f,g}.safetensors  pair1/{f,g}.heads.safetensors  pair1/{f,g}.curve.json  pair1/scores.parquet
//! RUN/scores.parquet  scores.json  report.html  report.figures/
//! ```

mod page;
mod stages;

use crate::config::{Layers, Recipe};
use crate::data::{Source, few_bad};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::score::{self, Protocol};
use crate::split::{Split, Subset};
use crate::stage::{Identity, setting};
use crate::train::{self, rehearse};
use std::path::{Path, PathBuf};

/// Which encoders to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    F,
    G,
    Both,
}

/// A recipe with open data and a split, in its folder.
pub struct Run {
    pub recipe: Recipe,
    pub dir: PathBuf,
    pub source: Box<dyn Source>,
    pub split: Split,
    /// Device of training and scoring. It is no part of the recipe, so a run may resume on another device.
    pub device: Device,
    /// Keeps other processes out.
    pub lock: Lock,
    pairs: Vec<Pair>,
    /// Training samples of f and of g.
    trained: [Vec<u32>; 2],
    /// Samples to score, in the order of the data set.
    scored: Vec<(u32, Subset)>,
    protocol: Protocol,
}

/// The files of a pair of encoders.
struct Pair {
    dir: PathBuf,
    /// Weights of f and of g.
    weights: [PathBuf; 2],
    scores: PathBuf,
}

/// The names of the encoders of a pair.
const ROLES: [&str; 2] = ["f", "g"];

impl Run {
    /// Starts a run in `dir`, or resumes the one there. Score settings may differ from those of the folder: then only the scores are
    /// computed again. `given` is a split to use instead of drawing one. Nothing is written before all checks pass.
    ///
    /// # Errors
    /// The recipe cannot be carried out; `dir` holds a run of another recipe, split or data, or files that no run wrote; it cannot be
    /// written; another process works in it; more images are bad than the recipe allows.
    pub fn open(recipe: Recipe, dir: &Path, given: Option<Split>, device: Device) -> Result<Run> {
        let lock = Run::enter(&recipe, dir)?;
        let source = recipe.data.open(recipe.data.on_bad_image)?;
        Run::begin(recipe, dir, source, given, device, lock)
    }

    /// As [`Run::open`] on the caller's own data. `data.source` of the recipe then only names them.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn on(recipe: Recipe, dir: &Path, source: Box<dyn Source>, given: Option<Split>, device: Device) -> Result<Run> {
        let lock = Run::enter(&recipe, dir)?;
        Run::begin(recipe, dir, source, given, device, lock)
    }

    /// Refuses a folder with another training or foreign files. Locks the folder if it exists.
    fn enter(recipe: &Recipe, dir: &Path) -> Result<Option<Lock>> {
        recipe.validate()?;
        let lock = files::exists(dir)?.then(|| Run::lock(dir)).transpose()?;
        let at = dir.join(RECIPE);
        if files::exists(&at)? {
            same_training(&Run::recipe(dir)?.resolve()?, recipe, &at)?;
        } else {
            spare_others(dir, recipe.pairs)?;
        }
        Ok(lock)
    }

    fn begin(recipe: Recipe, dir: &Path, source: Box<dyn Source>, given: Option<Split>, device: Device, lock: Option<Lock>) -> Result<Run> {
        few_bad(dir, source.skipped(), source.len() + source.skipped().len(), recipe.data.max_bad)?;
        let (at, path) = (dir.join(RECIPE), dir.join("split.json"));
        let kept = files::exists(&path)?.then(|| Split::read(&path)).transpose()?;
        if let (Some(kept), Some(given)) = (&kept, &given)
            && kept != given
        {
            return Err(Error::config(format!("{} holds a run with another split", dir.display()), "choose another folder with --out"));
        }
        if let Some(kept) = &kept {
            kept.check(&*source).map_err(|error| error.of(&path))?;
        }
        let split = match kept.or(given) {
            Some(split) => split,
            None => Split::draw(&*source, &recipe.sizes(), recipe.how())?,
        };
        split.check(&*source)?;
        let trained = [split.f_indices(), split.g_indices()];
        check(&recipe, &*source, &trained, &device, !files::exists(&at)?)?;
        let lock = match lock {
            Some(lock) => lock,
            None => {
                let lock = Run::lock(dir)?;
                spare_others(dir, recipe.pairs)?; // another process may have filled it in the meantime
                lock
            }
        };
        files::remove_unfinished(dir)?;
        files::write_whole(&at, recipe.to_toml()?.as_bytes())?;
        if !files::exists(&path)? {
            split.write(&path)?;
        }
        let pair = |number: usize| {
            let dir = dir.join(format!("pair{}", number + 1));
            let weights = ROLES.map(|role| dir.join(format!("{role}.safetensors")));
            Pair { weights, scores: dir.join("scores.parquet"), dir }
        };
        let pairs = (0..recipe.pairs).map(pair).collect();
        let (scored, protocol) = (sampled(&split), recipe.protocol());
        Ok(Run { recipe, dir: dir.to_path_buf(), source, split, device, lock, pairs, trained, scored, protocol })
    }

    /// Locks `dir`, which is created if it does not exist.
    ///
    /// # Errors
    /// Another process works in it, or it cannot be written.
    pub fn lock(dir: &Path) -> Result<Lock> {
        files::create_dir(dir)?;
        Lock::take(dir.join("run.lock"), dir)
    }

    /// Opens the existing run in `dir`.
    pub fn read(dir: &Path, device: Device) -> Result<Run> {
        if !files::exists(dir.join(RECIPE))? {
            let what = format!("{} is not the folder of a run (it has no {RECIPE})", dir.display());
            return Err(Error::config(what, "name the folder that `sslmem run --out` wrote"));
        }
        Run::open(Run::recipe(dir)?.resolve()?, dir, None, device)
    }

    /// The recipe in the folder of a run.
    pub fn recipe(dir: &Path) -> Result<Layers> {
        let at = dir.join(RECIPE);
        let text = files::read_text(&at)?;
        if !text.lines().any(|line| line.trim_start().starts_with("source")) {
            let what = "does not say which data the run is of, so it is of no run, or was damaged; move it away, and start the run with the command that it began with";
            return Err(Error::format(at, what));
        }
        // Keys that are newer than the folder take their default.
        Layers::presets::<&str>(&[])?.text(&at.display().to_string(), &text)
    }

    fn curve(&self, pair: usize, role: &str) -> PathBuf {
        self.pairs[pair].dir.join(format!("{role}.curve.json"))
    }

    fn page_path(&self) -> PathBuf {
        self.dir.join("report.html")
    }

    fn table_path(&self) -> PathBuf {
        self.dir.join("scores.parquet")
    }

    /// Passes on the warning of the lock.
    pub fn warning(&self) -> Option<String> {
        self.lock.warning()
    }
}

/// The samples of a split to score, in the order of the data set: all of S_C, S_I and S_E, and the first samples of S_S. S_S is eight times
/// as large by default, so only as many are taken as the largest other subset has.
fn sampled(split: &Split) -> Vec<(u32, Subset)> {
    let others = [Subset::Candidate, Subset::Independent, Subset::External];
    let most = others.iter().map(|s| split.subset(*s).len()).max().unwrap_or(0);
    let mut samples: Vec<(u32, Subset)> = vec![];
    for subset in Subset::ALL {
        let take = if subset == Subset::Shared { most } else { usize::MAX };
        samples.extend(split.subset(subset).iter().take(take).map(|&i| (i, subset)));
    }
    samples.sort();
    samples
}

const RECIPE: &str = "recipe.toml";
const PROBES: &str = "probe.json";
/// Names of a run's outputs in its folder.
const OWN: [&str; 7] = [RECIPE, "split.json", "scores.parquet", "scores.json", "report.html", "report.figures", PROBES];

/// Refuses a folder without a recipe but with files that a run would overwrite.
fn spare_others(dir: &Path, pairs: usize) -> Result<()> {
    let names = OWN.iter().map(|name| name.to_string()).chain((1..=pairs).map(|pair| format!("pair{pair}")));
    match names.map(|name| dir.join(name)).find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => {
            let what = format!("{} is in the way, and is not of a run (there is no recipe.toml beside it)", path.display());
            Err(Error::config(what, "move it away, or choose another folder with --out"))
        }
    }
}

/// Refuses a recipe that would train other encoders than the recipe in the folder.
fn same_training(there: &Recipe, here: &Recipe, at: &Path) -> Result<()> {
    let mut like = here.clone();
    like.data.max_bad = there.data.max_bad;
    // With an alignment limit (Eq. 3) training uses views of the score's policy.
    let view = there.score.view == here.score.view || here.method.alignment_limit == 0.0;
    like.score = there.score.clone();
    if view && like == *there {
        return Ok(());
    }
    // Of the score only the view counts here, as above.
    like.score.view = here.score.view.clone();
    let [there, here] = [Identity::new(setting(there)?), Identity::new(setting(&like)?)];
    let what = here.difference(&there).unwrap_or_default();
    let what = format!("{} holds a run of another recipe: {what}", at.parent().unwrap_or(Path::new("")).display());
    Err(Error::config(what, "choose another folder with --out; only [score] can be changed"))
}

/// Checks scoring, and training if that is `new`, for errors that can be known before the first step.
fn check(recipe: &Recipe, source: &dyn Source, trained: &[Vec<u32>; 2], device: &Device, new: bool) -> Result<()> {
    for (role, samples) in ROLES.iter().zip(trained).filter(|_| new) {
        rehearse(&train::Job { device, ..train::Job::new(recipe, source, samples, role, Path::new(""))? })?;
    }
    score::rehearse(recipe.encoder_file(Path::new(""))?, &recipe.protocol(), device)
}
