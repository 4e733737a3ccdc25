//! A whole run in one folder: split, train f and g of every pair, score, report. Finished work of the same recipe is kept, so a stopped run
//! resumes.
//!
//! ```text
//! RUN/recipe.toml  split.json  pair1/{f,g}.safetensors  pair1/{f,g}.heads.safetensors  pair1/{f,g}.curve.json  pair1/scores.parquet
//! RUN/scores.parquet  scores.json  report.html  report.figures/
//! ```

use crate::config::{Layers, Recipe};
use crate::data::{Source, few_bad};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{self, EncoderFacts, Manifest, Trust};
use crate::probe::{self, Accuracy, Probed, Results};
use crate::progress::Progress;
use crate::report::{self, Curve};
use crate::score::{self, Protocol, Task, classifier};
use crate::split::{Split, Subset};
use crate::stage::{Existing, Identity, Stage, setting};
use crate::table::{self, Row};
use crate::train::{self, read_curve, rehearse};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
                spare_others(dir)?; // another process may have filled it in the meantime
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
            let what = "does not say which data the run is of, so it was damaged; delete it, and start the run with the command that it began with";
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

    /// All stages of the run, in order.
    pub fn stages(&self) -> Vec<Box<dyn Stage + '_>> {
        let mut stages: Vec<Box<dyn Stage>> = vec![];
        for pair in 0..self.pairs.len() {
            for role in [0, 1] {
                stages.push(Box::new(Training { run: self, pair, role }));
            }
        }
        stages.extend((0..self.pairs.len()).map(|pair| Box::new(Scoring { run: self, pair }) as Box<dyn Stage>));
        stages.push(Box::new(Mean(self)));
        stages.push(Box::new(Report(self)));
        stages
    }

    /// Trains the encoders that are asked for; finished ones are kept.
    pub fn train(&self, which: Which, progress: &mut dyn Progress) -> Result<()> {
        self.say(progress);
        let roles: &[usize] = match which {
            Which::F => &[0],
            Which::G => &[1],
            Which::Both => &[0, 1],
        };
        for pair in 0..self.pairs.len() {
            roles.iter().try_for_each(|&role| Training { run: self, pair, role }.run(progress))?;
        }
        Ok(())
    }

    /// Warnings for the user before any work.
    fn say(&self, progress: &mut dyn Progress) {
        self.lock.warning().iter().for_each(|text| progress.warning(text));
        if Split::draw(&*self.source, &self.recipe.sizes(), self.recipe.how()).ok().as_ref() != Some(&self.split) {
            progress.line("the split is that of split.json, which is not the one that [split] of the recipe would draw");
        }
    }

    /// The training of an encoder of a pair: role 0 is f, 1 is g.
    fn training(&self, pair: usize, role: usize) -> Result<train::Job<'_>> {
        let seed = self.recipe.seed + pair as u64;
        let job = train::Job::new(&self.recipe, &*self.source, &self.trained[role], ROLES[role], &self.pairs[pair].dir)?;
        Ok(train::Job { seed, device: &self.device, ..job })
    }

    /// The scoring job of a trained pair.
    fn scoring(&self, pair: usize) -> Result<score::Job<'_>> {
        let Pair { weights: [f, g], scores, .. } = &self.pairs[pair];
        let [mut f, mut g] = [self.recipe.encoder_file(f)?, self.recipe.encoder_file(g)?];
        if self.recipe.supervised()? {
            for side in [&mut f, &mut g] {
                side.classifier = Some(classifier(side.path, &*self.source)?);
            }
        }
        // Bad images were already left out when the data was opened.
        let task = Task { device: &self.device, ..Task::new(f, g, &self.protocol, &*self.source) };
        Ok(score::Job { existing: Existing::Renew, ..score::Job::new(task, &self.scored, scores, setting(&self.recipe)?)? })
    }

    /// The probe of a trained encoder of a pair. It learns from the encoder's own training samples.
    ///
    /// # Errors
    /// The recipe has no such encoder.
    pub fn probing(&self, pair: usize, role: usize, how: &probe::How) -> Result<probe::Job<'_>> {
        let side = self.recipe.encoder_file(&self.pairs[pair].weights[role])?;
        Ok(probe::Job {
            name: format!("{}{}", ROLES[role], pair + 1),
            side,
            layer: probe::vector(self.recipe.score.features),
            source: &*self.source,
            samples: self.trained[role].clone(),
            method: Some(self.recipe.method.name.clone()),
            how: how.clone(),
            batch: self.recipe.score.batch,
            on_bad: self.recipe.data.on_bad_image,
            device: &self.device,
        })
    }

    /// The probes of f and g of every pair. Results go to `probe.json`.
    ///
    /// # Errors
    /// As [`Run::check_encoders`].
    pub fn probes(&self, how: &probe::How) -> Result<probe::Probing<'_>> {
        self.check_encoders()?;
        let each = (0..self.pairs.len()).flat_map(|pair| [0, 1].map(|role| self.probing(pair, role, how)));
        let (data, out) = (self.recipe.data.source.clone(), Some(self.dir.join(PROBES)));
        Ok(probe::Probing { jobs: each.collect::<Result<_>>()?, data, out })
    }

    /// Refuses encoders that were not trained by the folder's recipe, data and split.
    ///
    /// # Errors
    /// One was made by another recipe, on other data or other samples; it is missing or damaged.
    pub fn check_encoders(&self) -> Result<()> {
        let all = (0..self.pairs.len()).flat_map(|pair| [(pair, 0), (pair, 1)]);
        all.into_iter().try_for_each(|(pair, role)| train::check(&self.training(pair, role)?))
    }

    /// Scores every pair and writes their mean as the run's table. Scores of the same encoders, samples and settings are kept.
    pub fn score(&self, progress: &mut dyn Progress) -> Result<Vec<Row>> {
        (0..self.pairs.len()).try_for_each(|pair| Scoring { run: self, pair }.run(progress))?;
        self.mean()
    }

    /// Writes the mean of the pairs' tables.
    fn mean(&self) -> Result<Vec<Row>> {
        let start = Instant::now();
        let (mut tables, mut encoders, mut made) = (vec![], vec![], vec![]);
        for (pair, files) in self.pairs.iter().enumerate() {
            let table = manifest::scored(&files.scores, Trust::Verified)?;
            let manifest = table.manifest.unwrap_or_default();
            encoders.extend(manifest.encoders.iter().map(|e| EncoderFacts { role: format!("{}{}", e.role, pair + 1), ..e.clone() }));
            tables.push(table.rows);
            made.push(manifest);
        }
        let rows = table::aggregate(&tables)?;
        let jobs = made.iter().map(|manifest| manifest.job.clone().unwrap_or_default()).collect::<Vec<_>>();
        // From the current recipe: the first pair's manifest may hold settings that do not change scores and have changed since.
        let settings = setting(&self.recipe)?;
        let like = Manifest { settings, ..made.into_iter().next().unwrap_or_default() };
        manifest::publish(&self.table_path(), &rows, &like, encoders, json!({ "pairs": jobs }), start)?;
        Ok(rows)
    }

    /// Refuses scores that are not of the folder's weights, recipe, split and data.
    fn check_scores(&self, manifest: &Manifest) -> Result<()> {
        // Device and version are stated in the manifest, but a report need not run on the same ones.
        let stated = |identity: Identity| identity.without(&["device", "sslmem"]);
        let now = (0..self.pairs.len()).map(|pair| Ok(stated(self.scoring(pair)?.identity()?))).collect::<Result<Vec<_>>>()?;
        let there = manifest.job.as_ref().and_then(|job| job["pairs"].as_array());
        let there = there.map(|jobs| jobs.iter().map(|job| stated(Identity::new(job.clone()))).collect::<Vec<_>>());
        let what = match there {
            None => Some("it is not known what they were made of".to_string()),
            Some(there) if there.len() != now.len() => Some(format!("they are of {} pairs of encoders", there.len())),
            Some(there) => there.iter().zip(&now).find_map(|(there, now)| now.difference(there)),
        };
        let Some(what) = what else { return Ok(()) };
        let what = what.replace(" there ", " in them ").replace(" here", " in the folder");
        let what = format!("the scores in {} are not of what the folder holds: {what}", self.dir.display());
        Err(Error::config(what, format!("make them again with `sslmem run --out {}`", self.dir.display())))
    }

    /// Writes the report from the folder's table and curves; returns its path.
    ///
    /// # Errors
    /// The table was changed, or is not of the folder's weights, recipe, split and data.
    pub fn report(&self) -> Result<PathBuf> {
        let table = manifest::scored(&self.table_path(), Trust::Verified)?;
        let (rows, manifest) = (table.rows, table.manifest.unwrap_or_default());
        self.check_scores(&manifest)?;
        self.check_encoders()?;
        let warnings = manifest.warnings();
        let mut lost = vec![];
        let mut curves = vec![];
        for pair in 0..self.pairs.len() {
            for name in ROLES {
                let path = self.curve(pair, name);
                let label = if self.recipe.pairs == 1 { name.to_string() } else { format!("{name} pair {}", pair + 1) };
                match read_curve(&path)? {
                    Some(points) => curves.push(Curve { name: label, points }),
                    None => {
                        lost.push(("training curve".to_string(), format!("that of {label} is not there: {} was removed", path.display())))
                    }
                }
            }
        }
        let r = &self.recipe;
        let truth = rows.iter().map(|row| self.source.truth(row.index as usize).map(|k| k.name().to_string())).collect();
        let mut facts: Vec<(String, String)> = vec![
            ("data".into(), format!("{} ({} samples, BLAKE3 {})", r.data.source, manifest.data.samples, manifest.data.digest)),
            ("device".into(), manifest.device),
            ("sslmem".into(), manifest.sslmem),
        ];
        match self.split.left_out(&*self.source) {
            0 => (),
            n => facts.push(("in no subset".into(), format!("{n} of {} samples", self.source.len()))),
        }
        facts.extend(lost);
        facts.extend(manifest.encoders.into_iter().map(|e| (format!("encoder {}", e.role), format!("{} (BLAKE3 {})", e.arch, e.digest))));
        facts.extend(r.to_toml()?.split("\n\n").map(|part| ("recipe".to_string(), part.trim().to_string())));
        let pairs = if r.pairs == 1 { "one pair of encoders".to_string() } else { format!("{} pairs of encoders", r.pairs) };
        let input = report::Input {
            title: format!("SSLMem of {} on {}", r.method.name, self.source.name()),
            subtitle: format!("{} for {} epochs, {pairs}, {} views per image", r.encoder.arch, r.train.epochs, r.score.views),
            rows: &rows,
            source: Some(&*self.source),
            curves,
            facts,
            truth,
            probes: self.probed()?,
            skipped: manifest.data.skipped,
            warnings,
        };
        let out = self.page_path();
        report::write(&out, &input)?;
        Ok(out)
    }

    /// The results in `probe.json` that belong to the folder's current encoders.
    fn probed(&self) -> Result<Vec<report::Probes>> {
        let Some(results) = Results::read(&self.dir.join(PROBES))? else { return Ok(vec![]) };
        let shares = |a: Vec<Accuracy>| a.into_iter().map(|a| (a.protocol, a.top1)).collect();
        let of = |e: Probed| report::Probes { found: shares(e.accuracy), encoder: e.encoder };
        Ok(results.encoders.into_iter().map(of).collect())
    }

    /// Trains, scores and reports. Returns the path of the report.
    pub fn everything(&self, progress: &mut dyn Progress) -> Result<PathBuf> {
        self.say(progress);
        self.stages().iter().try_for_each(|stage| stage.run(progress))?;
        Ok(self.page_path())
    }
}

/// Training one encoder of a run.
struct Training<'a> {
    run: &'a Run,
    pair: usize,
    role: usize,
}

impl Stage for Training<'_> {
    fn name(&self) -> String {
        format!("train {} of pair {}", ROLES[self.role], self.pair + 1)
    }
    fn identity(&self) -> Result<Identity> {
        self.run.training(self.pair, self.role)?.identity()
    }
    fn outputs(&self) -> Vec<PathBuf> {
        self.run.training(self.pair, self.role).map_or(vec![], |job| job.outputs())
    }
    fn run(&self, progress: &mut dyn Progress) -> Result<()> {
        let dir = &self.run.pairs[self.pair].dir;
        files::create_dir(dir)?;
        files::remove_unfinished(dir)?;
        self.run.training(self.pair, self.role)?.run(progress)
    }
}

/// Scoring one pair of a run. Its identity needs the digests of the weights, so it exists only after training.
struct Scoring<'a> {
    run: &'a Run,
    pair: usize,
}

impl Stage for Scoring<'_> {
    fn name(&self) -> String {
        format!("score pair {}", self.pair + 1)
    }
    fn identity(&self) -> Result<Identity> {
        self.run.scoring(self.pair)?.identity()
    }
    fn outputs(&self) -> Vec<PathBuf> {
        let scores = &self.run.pairs[self.pair].scores;
        vec![scores.clone(), Manifest::path(scores)]
    }
    fn run(&self, progress: &mut dyn Progress) -> Result<()> {
        let done = self.run.scoring(self.pair)?.score(progress)?;
        done.notes.iter().for_each(|text| progress.line(text));
        Ok(())
    }
}

/// The table of a run: the mean over its pairs. It is made each time, because that is quicker than checking whether it is current.
struct Mean<'a>(&'a Run);

impl Stage for Mean<'_> {
    fn name(&self) -> String {
        "mean of the pairs".into()
    }
    fn identity(&self) -> Result<Identity> {
        let pairs = (0..self.0.pairs.len()).map(|pair| Ok(self.0.scoring(pair)?.identity()?.value().clone()));
        Ok(Identity::new(json!({ "pairs": pairs.collect::<Result<Vec<_>>>()? })))
    }
    fn outputs(&self) -> Vec<PathBuf> {
        let table = self.0.table_path();
        vec![Manifest::path(&table), table]
    }
    fn run(&self, _: &mut dyn Progress) -> Result<()> {
        self.0.mean().map(drop)
    }
}

/// The report of a run. It is made each time as well.
struct Report<'a>(&'a Run);

impl Stage for Report<'_> {
    fn name(&self) -> String {
        "report".into()
    }
    fn identity(&self) -> Result<Identity> {
        let digest = |path: PathBuf| Ok(files::exists(&path)?.then(|| files::digest_file(&path)).transpose()?);
        let curves = (0..self.0.pairs.len()).flat_map(|pair| ROLES.map(|role| digest(self.0.curve(pair, role))));
        Ok(Identity::new(json!({
            "sslmem": env!("CARGO_PKG_VERSION"),
            "scores": digest(self.0.table_path())?,
            "curves": curves.collect::<Result<Vec<_>>>()?,
            "probes": digest(self.0.dir.join(PROBES))?,
        })))
    }
    fn outputs(&self) -> Vec<PathBuf> {
        vec![self.0.page_path()]
    }
    fn run(&self, _: &mut dyn Progress) -> Result<()> {
        self.0.report().map(drop)
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
const OWN: [&str; 8] = [RECIPE, "split.json", "scores.parquet", "scores.json", "report.html", "figures", PROBES, "pair1"];

/// Refuses a folder without a recipe but with files that a run would overwrite.
fn spare_others(dir: &Path) -> Result<()> {
    match OWN.iter().map(|name| dir.join(name)).find(|path| path.symlink_metadata().is_ok()) {
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
    let what = format!("{} holds a run of another recipe", at.parent().unwrap_or(Path::new("")).display());
    let remedy = "choose another folder with --out, or `sslmem show recipe --recipe";
    Err(Error::config(what, format!("{remedy} {}` to see the difference; only [score] can be changed", at.display())))
}

/// Checks scoring, and training if that is `new`, for errors that can be known before the first step.
fn check(recipe: &Recipe, source: &dyn Source, trained: &[Vec<u32>; 2], device: &Device, new: bool) -> Result<()> {
    for (role, samples) in ROLES.iter().zip(trained).filter(|_| new) {
        rehearse(&train::Job { device, ..train::Job::new(recipe, source, samples, role, Path::new(""))? })?;
    }
    score::rehearse(recipe.encoder_file(Path::new(""))?, &recipe.protocol(), device)
}
