//! A scoring job on files. It writes blocks of results as it goes, so that a crash costs little, and assembles them into tables.
//!
//! ```text
//! scores.parquet.parts/job.json         the identity of the job; written first, removed last
//! scores.parquet.parts/0000000.block    results from the first sample on, at most 1,024 samples or 30 s; 0000000.features beside it
//! scores.parquet.lock                   while a process works on the job
//! scores.parquet scores.json            the table and its manifest, at the end; then the folder is removed
//! ```

use super::assemble::Ready;
use super::blocks::{BLOCK, Block, BlockWriter, Blocks};
use super::features::{self, ROLES};
use super::measure::heads_of;
use super::parts::Parts;
use super::{Layer, Scorer, Shard, Task, table_name};
use crate::data::{Content, OnBadImage};
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{DataFacts, EncoderFacts, Manifest, Throughput};
use crate::progress::Progress;
use crate::split::Subset;
use crate::stage::{Existing, Found, Identity, Next, Stage, setting};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Default time after which a block closes, and so the most work that a crash loses.
pub const CLOSE: Duration = Duration::from_secs(30);

/// Samples to score, with their encoders, and the place of the table.
pub struct Job<'a> {
    pub task: Task<'a>,
    /// The samples of all shards, in the order of the rows.
    pub samples: &'a [(u32, Subset)],
    pub shard: Option<Shard>,
    /// The table's path; [`table_name`] derives those of layers and shards from it.
    pub out: &'a Path,
    pub encoders: Vec<EncoderFacts>,
    /// The recipe's scoring settings, for the manifest.
    pub settings: Value,
    pub existing: Existing,
    /// Time after which a block closes.
    pub close: Duration,
}

/// Results of a job.
pub struct JobReport {
    pub tables: Vec<PathBuf>,
    /// Files of features, f and g of each table.
    pub embeddings: Vec<PathBuf>,
    pub rows: u64,
    /// Images without a row: (id, reason).
    pub skipped: Vec<(String, String)>,
    pub throughput: Throughput,
    /// Whether the tables existed already and nothing was scored.
    pub before: bool,
    /// Further remarks for the user.
    pub notes: Vec<String>,
}

impl<'a> Job<'a> {
    /// A job without shards that keeps existing files. `settings` are the recipe's scoring settings ([`crate::config::Recipe::scoring`]).
    ///
    /// # Errors
    /// The weights of f or g cannot be read.
    pub fn new(task: Task<'a>, samples: &'a [(u32, Subset)], out: &'a Path, settings: Value) -> Result<Job<'a>> {
        let facts = [("f", task.f), ("g", task.g)].map(|(role, side)| EncoderFacts::of(role, &side.network, &side.original, side.path));
        let encoders = facts.into_iter().collect::<Result<_>>()?;
        Ok(Job { task, samples, shard: None, out, encoders, settings, existing: Existing::Keep, close: CLOSE })
    }

    /// Scores the samples that have no block yet and writes the tables. The same job in the same place resumes after a stop and ends in the
    /// same bytes as an uninterrupted one.
    ///
    /// # Errors
    /// Another process works here; the place holds another job, its tables or files that no job wrote; [`Scorer`] refuses the task; no
    /// image can be decoded; the disk is full or failed; [`Error::Stopped`], with the measured blocks kept.
    pub fn score(&self, progress: &mut dyn Progress) -> Result<JobReport> {
        let start = Instant::now();
        self.task.protocol.validate()?;
        let (table, tables) = (table_name(self.out, None, self.shard), self.tables());
        let lock = Lock::output(&table)?;
        lock.warning().iter().for_each(|text| progress.warning(text));
        self.spare_weights()?;
        self.outputs().iter().try_for_each(|path| files::remove_unfinished_of(path))?;
        let own = self.own();
        let ids: Vec<u32> = own.iter().map(|(index, _)| *index).collect();
        let identity = self.identity()?;
        let parts = Parts::of(&table);
        if let Some(done) = self.resume(&identity, &parts, &tables, progress)? {
            return Ok(done);
        }
        let blocks = Blocks {
            parts: &parts,
            job: identity.digest(),
            samples: &ids,
            layers: self.task.protocol.layers.len(),
            more: self.task.more().len(),
            features: self.task.features,
        };
        let mut there = self.kept(&blocks, progress)?;
        let mut throughput = Throughput { threads: rayon::current_num_threads(), ..Throughput::default() };
        let missing = missing(&there, ids.len());
        if !missing.is_empty() {
            let Task { f, g, .. } = self.task;
            ROLES.iter().zip([f, g]).for_each(|(role, side)| progress.line(&side.describe(role)));
            // Before the folder is made, so that weights that do not fit leave no files behind.
            let mut scorer = Scorer::new(self.task)?;
            parts.begin(&identity)?;
            there.extend(self.measure(&mut scorer, &blocks, &missing, &mut throughput, progress)?);
            there.sort_unstable_by_key(|range| range.start);
        }
        let ready = Ready { job: self, blocks: &blocks, there: &there, identity: &identity, tables: &tables, throughput, start };
        let mut done = ready.write()?;
        done.notes.extend(parts.remove()?);
        (done.embeddings, done.tables) = (self.embeddings(&tables), tables);
        Ok(done)
    }

    /// The samples of this shard.
    pub(super) fn own(&self) -> &[(u32, Subset)] {
        match self.shard {
            Some(shard) => &self.samples[shard.range(self.samples.len())],
            None => self.samples,
        }
    }

    /// One path for each layer.
    fn tables(&self) -> Vec<PathBuf> {
        let layers = &self.task.protocol.layers;
        let several = layers.len() > 1;
        layers.iter().map(|layer| table_name(self.out, several.then_some(layer), self.shard)).collect()
    }

    /// Paths of the features of f and g, for each table; none if they are not asked for.
    fn embeddings(&self, tables: &[PathBuf]) -> Vec<PathBuf> {
        let tables = if self.task.features { tables } else { &[] };
        tables.iter().flat_map(|table| ROLES.map(|role| features::path(table, role))).collect()
    }

    /// Refuses an `--out` whose feature files would overwrite the weights.
    fn spare_weights(&self) -> Result<()> {
        let same = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
        let weights = [self.task.f.path, self.task.g.path];
        match self.embeddings(&self.tables()).iter().find(|path| weights.iter().any(|weights| same(path, weights))) {
            None => Ok(()),
            Some(path) => {
                Err(Error::config(format!("the features would take the place of the weights {}", path.display()), "choose another --out"))
            }
        }
    }

    /// Looks for existing work. Returns a report if the tables are finished and current, `None` if work is left.
    fn resume(&self, identity: &Identity, parts: &Parts, tables: &[PathBuf], progress: &mut dyn Progress) -> Result<Option<JobReport>> {
        let begun = parts.begun()?;
        let embeddings = self.embeddings(tables);
        for path in tables.iter().chain(&embeddings) {
            files::check_writable(path)?;
        }
        let manifests: Vec<Manifest> = tables.iter().map_while(|table| Manifest::read(table).ok()).collect();
        let is = |path: &Path, digest: &str| files::digest_file(path).is_ok_and(|found| found == digest);
        let whole = |(table, m): (&PathBuf, &Manifest)| {
            let features = || m.embeddings.iter().all(|e| is(&features::path(table, &e.role), &e.digest));
            m.job == manifests[0].job && is(table, &m.table) && features()
        };
        let whole = manifests.len() == tables.len() && tables.iter().zip(&manifests).all(whole);
        let made = manifests.first().filter(|_| whole).and_then(|first| first.job.clone()).map(Identity::new);
        let found = match (made, begun) {
            // A crash during the removal of the folder leaves the rest of it beside finished tables.
            (Some(made), begun) if made == *identity || begun.is_none() => Found::Made(made),
            (_, Some(begun)) => Found::Begun(begun),
            (_, None) => Found::Nothing,
        };
        let refused = |what| match &found {
            Found::Made(_) => {
                let what = format!("{} is of another job: {what}", tables[0].display());
                Error::config(what, "choose another name, or replace it with --force")
            }
            _ => parts.refused(what),
        };
        match self.existing.next(&found, identity, refused)? {
            Next::Reuse if self.unchanged(&manifests[0]) => {
                let notes = parts.remove()?.into_iter().collect();
                let first = manifests.into_iter().next().unwrap_or_default();
                let (rows, skipped, throughput) = (first.rows as u64, first.data.skipped, first.throughput);
                Ok(Some(JobReport { tables: tables.to_vec(), embeddings, rows, skipped, throughput, before: true, notes }))
            }
            Next::Reuse if self.existing == Existing::Keep => {
                let what =
                    format!("{} was scored from other images: files of the same names and lengths have changed", tables[0].display());
                Err(Error::config(what, "choose another name, or score them again with --force"))
            }
            Next::Start => {
                if self.existing == Existing::Keep {
                    files::spare(self.outputs())?;
                }
                parts.remove()?.iter().for_each(|text| progress.line(text));
                Ok(None)
            }
            Next::Reuse | Next::Resume => Ok(None),
        }
    }

    /// Whether the image files behind a finished table have the same content as when they were scored.
    fn unchanged(&self, manifest: &Manifest) -> bool {
        let ids: std::collections::HashSet<&str> = manifest.data.skipped.iter().map(|(id, _)| &id[..]).collect();
        let source = self.task.source;
        let own = self.own().iter().map(|(index, _)| *index);
        let (left_out, rows): (Vec<u32>, Vec<u32>) = own.partition(|&index| ids.contains(&source.id(index as usize)[..]));
        Content::now(source, &rows, &left_out) == Content::parse(manifest.data.content.as_deref())
    }

    /// The positions of the samples with a valid block, one range per block. Blocks of changed images are removed.
    fn kept(&self, blocks: &Blocks, progress: &mut dyn Progress) -> Result<Vec<Range<usize>>> {
        let mut changed = 0;
        let good = |block: &Block| {
            if progress.stopped() {
                return Err(Error::stopped("nothing was scored; the same command goes on"));
            }
            let left_out: Vec<u32> = block.skipped.iter().map(|(index, _)| *index).collect();
            let same = Content::now(self.task.source, &block.indices, &left_out) == Some(block.content);
            changed += !same as usize;
            // A block with skipped images is rescored when `--on-bad-image fail`.
            Ok(same && (block.skipped.is_empty() || self.task.on_bad == OnBadImage::Skip))
        };
        let (kept, removed) = blocks.kept(good)?;
        let at = blocks.parts.folder().display();
        let (count, samples) = (kept.len() + removed, kept.iter().map(|range| range.len()).sum::<usize>());
        if changed > 0 {
            progress.line(&format!("the images of {changed} of {count} blocks in {at} have changed since; they are scored again"));
        }
        if removed > changed {
            progress.line(&format!("{} of {count} blocks in {at} are damaged and scored again", removed - changed));
        }
        if samples > 0 {
            progress.line(&format!("{samples} of {} samples are kept from before", blocks.samples.len()));
        }
        Ok(kept)
    }

    /// Measures the samples at these positions and returns one range per block.
    fn measure(
        &self,
        scorer: &mut Scorer,
        blocks: &Blocks,
        missing: &[Range<usize>],
        throughput: &mut Throughput,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Range<usize>>> {
        let start = Instant::now();
        let list: Vec<u32> = missing.iter().flat_map(|range| &blocks.samples[range.clone()]).copied().collect();
        progress.start("score", blocks.samples.len() as u64, "sample");
        progress.advance((blocks.samples.len() - list.len()) as u64, "");
        let mut writer =
            Writer { blocks, gaps: missing, widths: scorer.widths(), close: self.close, list: &list, at: 0, open: None, made: vec![] };
        let outcome = scorer.measure(&list, |measured| {
            writer.add(measured)?;
            progress.advance((measured.places.len() + measured.bad.len()) as u64, "");
            if progress.stopped() { Err(Error::stopped("")) } else { Ok(()) }
        });
        // Also after an error, so that no measured sample is lost.
        let written = writer.write();
        progress.done();
        let times = match outcome {
            Err(Error::Stopped { .. }) => {
                written?;
                let (all, kept) = (blocks.samples.len(), blocks.samples.len() - list.len() + writer.at);
                let at = blocks.parts.folder().display();
                return Err(Error::stopped(format!(
                    "{kept} of {all} samples are scored and kept in {at}; the same command goes on from there"
                )));
            }
            outcome => outcome?,
        };
        written?;
        let seconds = start.elapsed().as_secs_f64();
        let (samples, per_second) = (list.len() as u64, list.len() as f64 / seconds);
        let (decode, compute, wait) = (times.decode, times.compute, times.wait);
        *throughput = Throughput { samples, per_second, decode, compute, wait, ..*throughput };
        Ok(writer.made)
    }
}

impl Stage for Job<'_> {
    fn name(&self) -> String {
        "score".into()
    }
    /// Without the batch size, the number of threads and paths: scores do not depend on them.
    fn identity(&self) -> Result<Identity> {
        let Task { f, g, protocol, source, device, .. } = self.task;
        let digest = |role: &str| self.encoders.iter().find(|e| e.role == role).map(|e| e.digest.clone());
        let side = |role: &str, side: super::EncoderFile| {
            let config = side.network.config;
            Ok::<_, Error>(json!({
                "weights": digest(role), "arch": side.network.encoder.name(), "stem": config.stem, "patch": config.patch,
                "positions": config.positions, "heads": config.heads, "norm_eps": setting(&config.norm_eps)?, "size": config.size,
                "view": setting(&side.view)?, "original": setting(&side.original)?,
            }))
        };
        let DataFacts { name, digest, samples, .. } = DataFacts::of(source);
        let mut split = blake3::Hasher::new();
        for (index, subset) in self.samples {
            split.update(&index.to_le_bytes()).update(&[*subset as u8]);
        }
        let mut identity = json!({
            "sslmem": env!("CARGO_PKG_VERSION"),
            "data": { "name": name, "digest": digest, "samples": samples },
            "split": { "digest": split.finalize().to_hex().to_string(), "samples": self.samples.len() },
            "f": side("f", f)?,
            "g": side("g", g)?,
            "views": protocol.views,
            "pairs": protocol.pairs,
            "seed": protocol.seed,
            "layers": protocol.layers.iter().map(Layer::name).collect::<Vec<_>>(),
            "shard": self.shard.map(|shard| shard.to_string()),
            "device": device.arithmetic(),
        });
        if self.task.features {
            identity["also"] = "embeddings".into();
        }
        for (role, side) in ROLES.iter().zip([f, g]).filter(|(_, side)| side.classifier.is_some()) {
            identity[*role]["classifier"] = files::digest_file(heads_of(side.path))?.into();
        }
        Ok(Identity::new(identity))
    }

    fn outputs(&self) -> Vec<PathBuf> {
        let tables = self.tables();
        let embeddings = self.embeddings(&tables);
        tables.iter().flat_map(|table| [table.clone(), Manifest::path(table)]).chain(embeddings).collect()
    }
    fn run(&self, progress: &mut dyn Progress) -> Result<()> {
        self.score(progress).map(drop)
    }
}

/// Groups the measured samples of a list into blocks. Samples of a block are consecutive in the job; the list may have gaps.
struct Writer<'a> {
    blocks: &'a Blocks<'a>,
    /// Positions in the job of the list's samples.
    gaps: &'a [Range<usize>],
    widths: Vec<usize>,
    close: Duration,
    list: &'a [u32],
    /// Position in the list at which the open block begins.
    at: usize,
    open: Option<(BlockWriter, Instant)>,
    made: Vec<Range<usize>>,
}

impl Writer<'_> {
    /// Position in the job at which the open block begins, and the number of samples that fit before the next gap.
    fn place(&self) -> Option<(usize, usize)> {
        let mut before = 0;
        let gap = self.gaps.iter().find(|gap| {
            before += gap.len();
            self.at < before
        })?;
        let left = before - self.at;
        Some((gap.end - left, left.min(BLOCK)))
    }

    fn add(&mut self, measured: &super::BatchScores) -> Result<()> {
        while let Some((start, most)) = self.place() {
            let (mut block, since) = match self.open.take() {
                Some(open) => open,
                None => (self.blocks.open(start, &self.widths)?, Instant::now()),
            };
            block.add(measured, self.at..self.at + most, self.list)?;
            let (full, late) = (block.len() == most, block.len() > 0 && since.elapsed() >= self.close);
            self.open = Some((block, since));
            if full || late {
                self.write()?;
            }
            if !full {
                break;
            }
        }
        Ok(())
    }

    /// Closes the open block with the samples that it has.
    fn write(&mut self) -> Result<()> {
        let (Some((block, _)), Some((start, _))) = (self.open.take(), self.place()) else { return Ok(()) };
        let samples = block.len();
        if samples > 0 {
            self.blocks.write(start, block)?;
            self.made.push(start..start + samples);
            self.at += samples;
        }
        Ok(())
    }
}

/// The positions in none of these ascending ranges.
fn missing(there: &[Range<usize>], samples: usize) -> Vec<Range<usize>> {
    let ends = [0].into_iter().chain(there.iter().map(|range| range.end));
    let starts = there.iter().map(|range| range.start).chain([samples]);
    ends.zip(starts).filter(|(end, start)| end < start).map(|(end, start)| end..start).collect()
}
