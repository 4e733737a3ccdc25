//! The stages of a run: training, scoring and probing its encoders, and the mean of its pairs.

use super::page::Report;
use super::{PROBES, Pair, ROLES, Run, Which};
use crate::error::{Error, Result};
use crate::files;
use crate::manifest::{self, EncoderFacts, Manifest, Trust};
use crate::probe;
use crate::progress::Progress;
use crate::score::{self, Task, classifier};
use crate::split::Split;
use crate::stage::{Existing, Identity, Stage, setting};
use crate::table::{self, Row};
use crate::train;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

impl Run {
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
    pub(super) fn check_scores(&self, manifest: &Manifest) -> Result<()> {
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
