//! A whole run in one folder: split, train f and g of every pair, score, report. What is there already and
//! belongs to the same recipe is kept, so a run that was stopped goes on where it stopped.
//!
//! ```text
//! RUN/recipe.toml  split.json  pair1/{f,g}.safetensors  pair1/{f,g}.heads.safetensors  pair1/{f,g}.curve.json  pair1/scores.parquet
//! RUN/scores.parquet  scores.json  report.html  report.figures/
//! ```

use crate::config::{Layers, Recipe};
use crate::data::{OnBadImage, Source, few_bad};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{self, EncoderFacts, Manifest, Trust};
use crate::probe::{Accuracy, Probed, Results};
use crate::progress::Progress;
use crate::report::{self, Curve};
use crate::score::{self, CLOSE, Existing, Protocol, Task, classifier};
use crate::split::{Split, Subset};
use crate::table::{self, Row};
use crate::train::{self, CHECKPOINT, Job, read_curve, rehearse, train};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
}

impl Run {
    /// Start a run in `dir`, or take up the one that is there. How it is scored may be changed: the scores are made again, and nothing is
    /// trained again. `given` is the split to use in place of one that is drawn. Nothing is written before everything is checked.
    ///
    /// # Errors
    /// The recipe cannot be carried out; `dir` holds a run of another recipe, split or data, or what no run wrote; it cannot be written;
    /// another process is at work in it; more images are bad than the recipe allows.
    pub fn open(recipe: Recipe, dir: &Path, given: Option<Split>, device: Device) -> Result<Run> {
        recipe.validate()?;
        let lock = files::exists(dir)?.then(|| Run::lock(dir)).transpose()?;
        let at = dir.join(RECIPE);
        let begun = files::exists(&at)?;
        if begun {
            same_training(&Run::recipe(dir)?.resolve()?, &recipe, &at)?;
        } else {
            spare_others(dir)?;
        }
        let source = recipe.data.open(recipe.data.on_bad_image)?;
        few_bad(dir, source.skipped(), source.len() + source.skipped().len(), recipe.data.max_bad)?;
        let path = dir.join("split.json");
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
        check(&recipe, &*source, &split, &device, !begun)?;
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
        Ok(Run { recipe, dir: dir.to_path_buf(), source, split, device, lock })
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

    /// The folder of pair `pair`, counted from 0.
    fn folder(&self, pair: usize) -> PathBuf {
        self.dir.join(format!("pair{}", pair + 1))
    }

    fn table_path(&self) -> PathBuf {
        self.dir.join("scores.parquet")
    }

    /// What the user should know of its lock.
    pub fn warning(&self) -> Option<String> {
        self.lock.warning()
    }

    /// Train what is asked for of every pair; what is there already stays.
    pub fn train(&self, which: Which, progress: &mut dyn Progress) -> Result<()> {
        self.lock.warning().iter().for_each(|text| progress.warning(text));
        if Split::draw(&*self.source, &self.recipe.sizes(), self.recipe.how()).ok().as_ref() != Some(&self.split) {
            progress.line("the split is that of split.json, which is not the one that [split] of the recipe would draw");
        }
        for pair in 0..self.recipe.pairs {
            let dir = self.folder(pair);
            files::create_dir(&dir)?;
            files::remove_unfinished(&dir)?;
            for (name, skipped, samples) in [("f", Which::G, self.split.f_indices()), ("g", Which::F, self.split.g_indices())] {
                if which != skipped {
                    train(&self.training(pair, name, &samples, &dir), progress)?;
                }
            }
        }
        Ok(())
    }

    /// How an encoder of a pair is trained.
    fn training<'a>(&'a self, pair: usize, name: &'a str, samples: &'a [u32], dir: &'a Path) -> Job<'a> {
        let seed = self.recipe.seed + pair as u64;
        let (recipe, source, device) = (&self.recipe, &*self.source, &self.device);
        Job { recipe, seed, source, samples, name, dir, checkpoint: CHECKPOINT, device }
    }

    /// Refuses encoders that were not trained as the folder says now.
    ///
    /// # Errors
    /// One was made by another recipe, on other data or other samples; it is missing or damaged.
    pub fn check_encoders(&self) -> Result<()> {
        for pair in 0..self.recipe.pairs {
            let dir = self.folder(pair);
            for (name, samples) in [("f", self.split.f_indices()), ("g", self.split.g_indices())] {
                train::check(&self.training(pair, name, &samples, &dir))?;
            }
        }
        Ok(())
    }

    /// What is scored, in the order of the data set: all of S_C, S_I and S_E, and of S_S, which is eight
    /// times as large, the first ones, as many as the largest of the others.
    fn samples(&self) -> Vec<(u32, Subset)> {
        let others = [Subset::Candidate, Subset::Independent, Subset::External];
        let most = others.iter().map(|s| self.split.subset(*s).len()).max().unwrap_or(0);
        let mut samples: Vec<(u32, Subset)> = vec![];
        for subset in Subset::ALL {
            let take = if subset == Subset::Shared { most } else { usize::MAX };
            samples.extend(self.split.subset(subset).iter().take(take).map(|&i| (i, subset)));
        }
        samples.sort();
        samples
    }

    /// Score every pair and write their mean as the run's table. Scores that were made of the same encoders, samples and settings are kept.
    pub fn score(&self, progress: &mut dyn Progress) -> Result<Vec<Row>> {
        let (start, samples, protocol) = (Instant::now(), self.samples(), self.recipe.protocol());
        let (mut tables, mut encoders, mut made) = (vec![], vec![], vec![]);
        for pair in 0..self.recipe.pairs {
            let table = self.of_pair(pair, &samples, &protocol, |job| {
                job.run(progress)?.notes.iter().for_each(|text| progress.line(text));
                manifest::scored(job.out, Trust::Verified)
            })?;
            let manifest = table.manifest.unwrap_or_default();
            encoders.extend(manifest.encoders.iter().map(|e| EncoderFacts { role: format!("{}{}", e.role, pair + 1), ..e.clone() }));
            tables.push(table.rows);
            made.push(manifest);
        }
        let rows = table::aggregate(&tables)?;
        let jobs = made.iter().map(|manifest| manifest.job.clone().unwrap_or_default()).collect::<Vec<_>>();
        // By the keys of the recipe that was scored, whatever they were when the first pair was.
        let settings = self.settings()?;
        let like = Manifest { settings, ..made.into_iter().next().unwrap_or_default() };
        manifest::publish(&self.table_path(), &rows, &like, encoders, json!({ "pairs": jobs }), start)?;
        Ok(rows)
    }

    fn settings(&self) -> Result<Value> {
        manifest::settings(&self.recipe).map_err(|e| Error::format(&self.dir, format!("its recipe cannot be written ({e})")))
    }

    /// Do something with the scoring job of a pair.
    fn of_pair<T>(
        &self,
        pair: usize,
        samples: &[(u32, Subset)],
        protocol: &Protocol,
        then: impl FnOnce(&score::Job) -> Result<T>,
    ) -> Result<T> {
        let dir = self.folder(pair);
        let (f, g, out) = (dir.join("f.safetensors"), dir.join("g.safetensors"), dir.join("scores.parquet"));
        let [mut f, mut g] = [self.recipe.side(&f)?, self.recipe.side(&g)?];
        if self.recipe.supervised()? {
            for side in [&mut f, &mut g] {
                side.classifier = Some(classifier(side.path, &*self.source)?);
            }
        }
        let facts = [("f", f), ("g", g)].map(|(role, side)| EncoderFacts::of(role, &side.network, &side.original, side.path));
        let encoders = facts.into_iter().collect::<Result<Vec<_>>>()?;
        let (layers, source, device) = ([protocol.compared()], &*self.source, &self.device);
        // Bad images were left out when the data was opened.
        let task = Task { f, g, protocol, layers: &layers, source, device, on_bad: OnBadImage::Fail, features: false };
        let (settings, existing) = (self.settings()?, Existing::Renew);
        then(&score::Job { task, samples, shard: None, out: &out, encoders, settings, existing, close: CLOSE })
    }

    /// Refuses scores that are not what the folder says now: of these weights, this recipe, this split and this data.
    fn check_scores(&self, manifest: &Manifest) -> Result<()> {
        let (samples, protocol) = (self.samples(), self.recipe.protocol());
        let jobs = (0..self.recipe.pairs).map(|pair| self.of_pair(pair, &samples, &protocol, |job| job.identity()));
        // Which device and version computed them is said, and is for nobody to repeat.
        let stated = |job: &Value| {
            let mut job = job.clone();
            job.as_object_mut().map(|job| (job.remove("device"), job.remove("sslmem")));
            job
        };
        let now: Vec<Value> = jobs.map(|job| Ok(stated(&job?))).collect::<Result<_>>()?;
        let there = manifest.job.as_ref().and_then(|job| job["pairs"].as_array()).map(|jobs| jobs.iter().map(stated).collect::<Vec<_>>());
        let what = match there {
            None => Some("it is not known what they were made of".to_string()),
            Some(there) if there.len() != now.len() => Some(format!("they are of {} pairs of encoders", there.len())),
            Some(there) => there.iter().zip(&now).find_map(|(there, now)| score::difference(there, now, "")),
        };
        let Some(what) = what else { return Ok(()) };
        let what = what.replace(" there ", " in them ").replace(" here", " in the folder");
        let what = format!("the scores in {} are not of what the folder holds: {what}", self.dir.display());
        Err(Error::config(what, format!("make them again with `sslmem run --out {}`", self.dir.display())))
    }

    /// Write the report from the table and the curves in the folder; returns its path.
    ///
    /// # Errors
    /// The table was changed, or is not of what is in the folder.
    pub fn report(&self) -> Result<PathBuf> {
        let table = manifest::scored(&self.table_path(), Trust::Verified)?;
        let (rows, manifest) = (table.rows, table.manifest.unwrap_or_default());
        self.check_scores(&manifest)?;
        self.check_encoders()?;
        let warnings = manifest.warnings();
        let mut lost = vec![];
        let mut curves = vec![];
        for pair in 0..self.recipe.pairs {
            for name in ["f", "g"] {
                let path = self.folder(pair).join(format!("{name}.curve.json"));
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
            probes: self.probes()?,
            skipped: manifest.data.skipped,
            warnings,
        };
        let out = self.dir.join("report.html");
        report::write(&out, &input)?;
        Ok(out)
    }

    /// What `probe.json` in the folder says of the encoders that are there now.
    fn probes(&self) -> Result<Vec<report::Probes>> {
        let path = self.dir.join("probe.json");
        if !files::exists(&path)? {
            return Ok(vec![]);
        }
        let broken = |e: serde_json::Error| Error::format(&path, format!("is not what `sslmem probe` writes ({e})"));
        let results: Results = serde_json::from_str(&files::read_text(&path)?).map_err(broken)?;
        let shares = |a: Vec<Accuracy>| a.into_iter().map(|a| (a.protocol, a.top1)).collect();
        let of = |e: Probed| report::Probes { found: shares(e.accuracy), encoder: e.encoder };
        Ok(results.encoders.into_iter().map(of).collect())
    }

    /// Everything: train, score, report. Returns the path of the report.
    pub fn everything(&self, progress: &mut dyn Progress) -> Result<PathBuf> {
        self.train(Which::Both, progress)?;
        self.score(progress)?;
        self.report()
    }
}

const RECIPE: &str = "recipe.toml";
/// What a run writes into its folder.
const OWN: [&str; 8] = [RECIPE, "split.json", "scores.parquet", "scores.json", "report.html", "figures", "probe.json", "pair1"];

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
fn check(recipe: &Recipe, source: &dyn Source, split: &Split, device: &Device, new: bool) -> Result<()> {
    for (name, samples) in [("f", split.f_indices()), ("g", split.g_indices())].into_iter().filter(|_| new) {
        let (seed, dir, checkpoint) = (recipe.seed, Path::new(""), CHECKPOINT);
        rehearse(&Job { recipe, seed, source, samples: &samples, name, dir, checkpoint, device })?;
    }
    let protocol = recipe.protocol();
    score::rehearse(recipe.side(Path::new(""))?, &protocol, &[protocol.compared()], device)
}
