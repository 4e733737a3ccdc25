//! A whole run in one folder: split, train f and g of every pair, score, report. What is there already and
//! belongs to the same recipe is kept, so a run that was stopped goes on where it stopped.
//!
//! ```text
//! RUN/recipe.toml  split.json  pair1/{f,g}.safetensors  pair1/{f,g}.heads.safetensors  pair1/{f,g}.curve.json  pair1/scores.parquet
//! RUN/scores.parquet  scores.json  report.html  report.figures/
//! ```

use crate::config::{Layers, Recipe};
use crate::data::Source;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{self, EncoderFacts, Manifest};
use crate::probe::{Accuracy, Probed, Results};
use crate::progress::Progress;
use crate::report::{self, Curve};
use crate::score::score;
use crate::split::{Split, Subset};
use crate::table::{self, Row};
use crate::train::{CHECKPOINT, Job, read_curve, train};
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
    /// Start a run in `dir`, or take up the one that is there.
    ///
    /// # Errors
    /// `dir` holds a run of another recipe or of other data, cannot be written, or another process is at work in it.
    pub fn open(recipe: Recipe, dir: &Path) -> Result<Run> {
        recipe.validate()?;
        let lock = Run::lock(dir)?;
        files::remove_unfinished(dir)?;
        let at = dir.join("recipe.toml");
        if at.exists() {
            // Not the text: keys that came later have a default.
            if Layers::presets::<&str>(&[])?.file(&at)?.resolve()? != recipe {
                let what = format!("{} holds a run of another recipe", dir.display());
                return Err(Error::config(
                    what,
                    format!("choose another folder with --out, or `sslmem show recipe --recipe {}` to see the difference", at.display()),
                ));
            }
        } else {
            files::check_writable(&at)?;
        }
        let source = recipe.data.open(recipe.data.on_bad_image)?;
        let path = dir.join("split.json");
        let split = if path.exists() {
            let split = Split::read(&path)?;
            split.check(&*source)?;
            split
        } else {
            let split = Split::draw(&*source, &recipe.sizes(), recipe.how())?;
            split.write(&path)?;
            split
        };
        files::write_whole(&at, recipe.to_toml()?.as_bytes())?;
        Ok(Run { recipe, dir: dir.to_path_buf(), source, split, device: Device::Cpu, lock })
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
    pub fn read(dir: &Path) -> Result<Run> {
        let at = dir.join("recipe.toml");
        if !at.exists() {
            let what = format!("{} is not the folder of a run (it has no recipe.toml)", dir.display());
            return Err(Error::config(what, "name the folder that `sslmem run --out` wrote"));
        }
        let recipe = Layers::presets::<&str>(&[])?.file(&at)?.resolve()?;
        Run::open(recipe, dir)
    }

    /// The folder of pair `pair`, counted from 0.
    fn folder(&self, pair: usize) -> PathBuf {
        self.dir.join(format!("pair{}", pair + 1))
    }

    fn table_path(&self) -> PathBuf {
        self.dir.join("scores.parquet")
    }

    /// Train what is asked for of every pair; what is there already stays.
    pub fn train(&self, which: Which, progress: &mut dyn Progress) -> Result<()> {
        self.lock.warning().iter().for_each(|text| progress.line(text));
        for pair in 0..self.recipe.pairs {
            let dir = self.folder(pair);
            files::create_dir(&dir)?;
            files::remove_unfinished(&dir)?;
            for (name, skipped, samples) in [("f", Which::G, self.split.f_indices()), ("g", Which::F, self.split.g_indices())] {
                if which != skipped {
                    let seed = self.recipe.seed + pair as u64;
                    train(
                        &Job {
                            recipe: &self.recipe,
                            seed,
                            source: &*self.source,
                            samples: &samples,
                            name,
                            dir: &dir,
                            checkpoint: CHECKPOINT,
                            device: &self.device,
                        },
                        progress,
                    )?;
                }
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

    /// Score every pair and write their mean as the run's table.
    pub fn score(&self, progress: &mut dyn Progress) -> Result<Vec<Row>> {
        let (start, samples) = (Instant::now(), self.samples());
        let (mut tables, mut encoders) = (vec![], vec![]);
        for pair in 0..self.recipe.pairs {
            let dir = self.folder(pair);
            let (f, g) = (dir.join("f.safetensors"), dir.join("g.safetensors"));
            let facts = [("f", &f), ("g", &g)].map(|(role, path)| {
                let side = self.recipe.side(path)?;
                EncoderFacts::of(format!("{role}{}", pair + 1), &side.network, &side.original, path)
            });
            let facts = facts.into_iter().collect::<Result<Vec<_>>>()?;
            let path = dir.join("scores.parquet");
            let done = Manifest::read(&path).is_ok_and(|m| m.encoders == facts) && path.exists();
            tables.push(if done { table::read(&path)? } else { self.score_pair(&f, &g, &samples, facts.clone(), &path, progress)? });
            encoders.extend(facts);
        }
        let rows = table::aggregate(&tables)?;
        manifest::publish(&self.table_path(), &rows, &*self.source, encoders, &self.recipe, &self.device, start)?;
        Ok(rows)
    }

    fn score_pair(
        &self,
        f: &Path,
        g: &Path,
        samples: &[(u32, Subset)],
        facts: Vec<EncoderFacts>,
        path: &Path,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Row>> {
        let (start, r) = (Instant::now(), &self.recipe);
        let mut rows = score(r.side(f)?, r.side(g)?, &r.protocol(), &*self.source, samples, &self.device, progress)?;
        table::finish(&mut rows);
        manifest::publish(path, &rows, &*self.source, facts, r, &self.device, start)?;
        Ok(rows)
    }

    /// Write the report from the table and the curves in the folder; returns its path.
    pub fn report(&self) -> Result<PathBuf> {
        let rows = table::read(self.table_path())?;
        let manifest = Manifest::read(&self.table_path())?;
        let warnings = manifest.warnings();
        let mut curves = vec![];
        for pair in 0..self.recipe.pairs {
            for name in ["f", "g"] {
                let path = self.folder(pair).join(format!("{name}.curve.json"));
                let label = if self.recipe.pairs == 1 { name.to_string() } else { format!("{name} pair {}", pair + 1) };
                curves.push(Curve { name: label, points: read_curve(&path)? });
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
        if !path.exists() {
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
