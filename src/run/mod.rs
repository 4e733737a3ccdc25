//! A whole run in one folder: split, train f and g of every pair, score, report. What is there already and
//! belongs to the same recipe is kept, so a run that was stopped goes on where it stopped.
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
use crate::train::{self, rehearse};
use std::path::{Path, PathBuf};

/// Which encoders to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    F,
    G,
    Both,
}

/// A recipe with its data opened and its split drawn, in its folder.
pub struct Run {
    pub recipe: Recipe,
    pub dir: PathBuf,
    pub source: Box<dyn Source>,
    pub split: Split,
    /// Where it is trained and scored. No part of the recipe: another device takes up what one began.
    pub device: Device,
    /// Keeps other processes out.
    pub lock: Lock,
    pairs: Vec<Pair>,
    /// What f and what g are trained on.
    trained: [Vec<u32>; 2],
    /// What is scored, in the order of the data set.
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
    /// Start a run in `dir`, or take up the one that is there. How it is scored may be changed: the scores are made again, and nothing is
    /// trained again. `given` is the split to use in place of one that is drawn. Nothing is written before everything is checked.
    ///
    /// # Errors
    /// The recipe cannot be carried out; `dir` holds a run of another recipe, split or data, or what no run wrote; it cannot be written;
    /// another process is at work in it; more images are bad than the recipe allows.
    pub fn open(recipe: Recipe, dir: &Path, given: Option<Split>, device: Device) -> Result<Run> {
        let lock = Run::enter(&recipe, dir)?;
        let source = recipe.data.open(recipe.data.on_bad_image)?;
        Run::begin(recipe, dir, source, given, device, lock)
    }

    /// The same on data of one's own. `data.source` of the recipe is then no more than their name.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn on(recipe: Recipe, dir: &Path, source: Box<dyn Source>, given: Option<Split>, device: Device) -> Result<Run> {
        let lock = Run::enter(&recipe, dir)?;
        Run::begin(recipe, dir, source, given, device, lock)
    }

    /// Refuses a folder in which this recipe has no place. Keeps others out if it is there.
    fn enter(recipe: &Recipe, dir: &Path) -> Result<Option<Lock>> {
        recipe.validate()?;
        let lock = files::exists(dir)?.then(|| Run::lock(dir)).transpose()?;
        let at = dir.join(RECIPE);
        if files::exists(&at)? {
            same_training(&Run::recipe(dir)?.resolve()?, recipe, &at)?;
        } else {
            spare_others(dir)?;
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
                spare_others(dir)?; // another process may have been faster
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

    /// Keep other processes out of `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// Another one is at work in it, or it cannot be written.
    pub fn lock(dir: &Path) -> Result<Lock> {
        files::create_dir(dir)?;
        Lock::take(dir.join("run.lock"), dir)
    }

    /// The run that is in `dir`.
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
            let what = "does not say which data the run is of, so it was damaged; delete it, and start the run with the command that it began with";
            return Err(Error::format(at, what));
        }
        // Keys that came later have a default.
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

    /// What the user should know of its lock.
    pub fn warning(&self) -> Option<String> {
        self.lock.warning()
    }
}

/// What of a split is scored, in the order of the data set: all of S_C, S_I and S_E, and of S_S, which is eight
/// times as large, the first ones, as many as the largest of the others.
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
/// What a run writes into its folder.
const OWN: [&str; 8] = [RECIPE, "split.json", "scores.parquet", "scores.json", "report.html", "figures", PROBES, "pair1"];

/// Refuses a folder that holds what a run would write over, and no run.
fn spare_others(dir: &Path) -> Result<()> {
    match OWN.iter().map(|name| dir.join(name)).find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => {
            let what = format!("{} is in the way, and is not of a run (there is no recipe.toml beside it)", path.display());
            Err(Error::config(what, "move it away, or choose another folder with --out"))
        }
    }
}

/// Refuses a recipe by which other encoders would be trained than by the one in the folder.
fn same_training(there: &Recipe, here: &Recipe, at: &Path) -> Result<()> {
    let mut like = here.clone();
    like.data.max_bad = there.data.max_bad;
    // The limit on the alignment looks at views of the score's policy.
    let view = there.score.view == here.score.view || here.method.alignment_limit == 0.0;
    like.score = there.score.clone();
    if view && like == *there {
        return Ok(());
    }
    let what = format!("{} holds a run of another recipe", at.parent().unwrap_or(Path::new("")).display());
    let remedy = "choose another folder with --out, or `sslmem show recipe --recipe";
    Err(Error::config(what, format!("{remedy} {}` to see the difference; only [score] can be changed", at.display())))
}

/// Everything that can be known before the first step to go wrong in training, if that is `new`, or scoring.
fn check(recipe: &Recipe, source: &dyn Source, trained: &[Vec<u32>; 2], device: &Device, new: bool) -> Result<()> {
    for (role, samples) in ROLES.iter().zip(trained).filter(|_| new) {
        rehearse(&train::Job { device, ..train::Job::new(recipe, source, samples, role, Path::new(""))? })?;
    }
    score::rehearse(recipe.encoder_file(Path::new(""))?, &recipe.protocol(), device)
}
