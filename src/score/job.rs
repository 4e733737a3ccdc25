//! A scoring job on files: blocks as they come, so that whatever stops it costs little, then the tables.
//!
//! ```text
//! scores.parquet.parts/job.json         what the scores depend on; written first, removed last
//! scores.parquet.parts/0000000.block    of the samples from the first on, at most 1,024 or what 30 s give; 0000000.features if they are wanted
//! scores.parquet.lock                   as long as a process is at work on it
//! scores.parquet scores.json            when all are there; then the folder goes
//! ```

use super::assemble::Ready;
use super::blocks::{BLOCK, Block, Blocks, Open};
use super::features::{self, ROLES};
use super::measure::heads_of;
use super::parts::Parts;
use super::{Layer, Scorer, Shard, Task, table_name};
use crate::data::{Content, OnBadImage};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{self, DataFacts, EncoderFacts, Manifest, Throughput};
use crate::progress::Progress;
use crate::split::Subset;
use serde::Serialize;
use serde_json::{Value, json};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The usual time after which a block is closed: what a crash costs at most.
pub const CLOSE: Duration = Duration::from_secs(30);

/// What happens to tables that are in the place of a job's, and to the work of another job there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// The job is refused, unless they are its own.
    Keep,
    /// They are replaced, unless they are its own.
    Renew,
    /// They are replaced.
    Replace,
}

/// What to score, and where to.
pub struct Job<'a> {
    pub task: Task<'a>,
    /// All samples, whichever shard this is, in the order of the rows.
    pub samples: &'a [(u32, Subset)],
    pub shard: Option<Shard>,
    /// The table's name; see [`table_name`] for what is made of it.
    pub out: &'a Path,
    pub encoders: Vec<EncoderFacts>,
    /// How it was asked for, for the manifest.
    pub settings: Value,
    pub existing: Existing,
    /// Time after which a block is closed.
    pub close: Duration,
}

/// What a job has made.
pub struct Done {
    pub tables: Vec<PathBuf>,
    /// Files of features, f and g of each table.
    pub embeddings: Vec<PathBuf>,
    pub rows: u64,
    /// Images without a row: (id, reason).
    pub skipped: Vec<(String, String)>,
    pub throughput: Throughput,
    /// All of it was there before.
    pub before: bool,
    /// What the user should know besides.
    pub notes: Vec<String>,
}

impl Job<'_> {
    /// Score what is not scored yet and write the tables. The same job in the same place goes on where it was stopped,
    /// and ends in the same bytes as one that was never stopped.
    ///
    /// # Errors
    /// Another process is at work here; another job was begun in this place, its tables are there, or something that no job wrote; whatever
    /// [`Scorer`] refuses; no image can be decoded; the disk is full or failed; [`Error::Stopped`], with what was measured kept.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<Done> {
        let start = Instant::now();
        for (i, layer) in self.task.layers.iter().enumerate() {
            if self.task.layers[..i].contains(layer) {
                return Err(Error::config(format!("the layer `{}` is named twice", layer.name()), "name it once"));
            }
        }
        let (table, tables) = (table_name(self.out, None, self.shard), self.tables());
        let lock = Lock::output(&table)?;
        lock.warning().iter().for_each(|text| progress.warning(text));
        self.spare_weights()?;
        for path in tables.iter().flat_map(|table| [table.clone(), Manifest::path(table)]).chain(self.embeddings(&tables)) {
            files::remove_unfinished_of(&path)?;
        }
        let own = self.own();
        let ids: Vec<u32> = own.iter().map(|(index, _)| *index).collect();
        let identity = self.identity()?;
        let parts = Parts::of(&table);
        if let Some(done) = self.resume(&identity, &parts, &tables, progress)? {
            return Ok(done);
        }
        let digest = *blake3::hash(identity.to_string().as_bytes()).as_bytes();
        let blocks = Blocks {
            parts: &parts,
            job: digest,
            samples: &ids,
            layers: self.task.layers.len(),
            more: self.task.more().len(),
            features: self.task.features,
        };
        let mut there = self.kept(&blocks, progress)?;
        let mut throughput = Throughput { threads: rayon::current_num_threads(), ..Throughput::default() };
        let missing = missing(&there, ids.len());
        if !missing.is_empty() {
            let Task { f, g, .. } = self.task;
            ROLES.iter().zip([f, g]).for_each(|(role, side)| progress.line(&side.describe(role)));
            // Before anything is written: weights that do not fit leave nothing behind.
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

    /// One for each layer.
    fn tables(&self) -> Vec<PathBuf> {
        let several = self.task.layers.len() > 1;
        self.task.layers.iter().map(|layer| table_name(self.out, several.then_some(layer), self.shard)).collect()
    }

    /// Where the features of f and g belong, for each of the tables.
    fn embeddings(&self, tables: &[PathBuf]) -> Vec<PathBuf> {
        let tables = if self.task.features { tables } else { &[] };
        tables.iter().flat_map(|table| ROLES.map(|role| features::path(table, role))).collect()
    }

    /// Weights may be called as features would be.
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

    /// Everything that the scores depend on, by name; not the batch, the threads, or where files lie.
    pub fn identity(&self) -> Result<Value> {
        let Task { f, g, protocol, layers, source, device, .. } = self.task;
        let digest = |role: &str| self.encoders.iter().find(|e| e.role == role).map(|e| e.digest.clone());
        let side = |role: &str, side: super::Side| {
            let form = side.network.config;
            Ok::<_, Error>(json!({
                "weights": digest(role), "arch": side.network.encoder.name(), "stem": form.stem, "patch": form.patch,
                "positions": form.positions, "heads": form.heads, "norm_eps": exact(&form.norm_eps)?, "size": form.size,
                "view": exact(&side.view)?, "original": exact(&side.original)?,
            }))
        };
        let DataFacts { name, digest, samples, .. } = DataFacts::of(source);
        let mut split = blake3::Hasher::new();
        for (index, subset) in self.samples {
            split.update(&index.to_le_bytes()).update(&[*subset as u8]);
        }
        let device = match device {
            Device::Cpu => format!("cpu ({})", std::env::consts::ARCH),
            Device::Gpu(gpu) => format!("{}, {}", gpu.name(), gpu.dtype().name()),
        };
        let mut identity = json!({
            "sslmem": env!("CARGO_PKG_VERSION"),
            "data": { "name": name, "digest": digest, "samples": samples },
            "split": { "digest": split.finalize().to_hex().to_string(), "samples": self.samples.len() },
            "f": side("f", f)?,
            "g": side("g", g)?,
            "views": protocol.views,
            "pairs": protocol.pairs,
            "seed": protocol.seed,
            "layers": layers.iter().map(Layer::name).collect::<Vec<_>>(),
            "shard": self.shard.map(|shard| shard.to_string()),
            "device": device,
        });
        if self.task.features {
            identity["also"] = "embeddings".into();
        }
        for (role, side) in ROLES.iter().zip([f, g]).filter(|(_, side)| side.classifier.is_some()) {
            identity[*role]["classifier"] = files::digest_file(heads_of(side.path))?.into();
        }
        Ok(identity)
    }

    /// Look at what is there: this job, begun or done, another one, or nothing.
    fn resume(&self, identity: &Value, parts: &Parts, tables: &[PathBuf], progress: &mut dyn Progress) -> Result<Option<Done>> {
        let begun = parts.begun()?;
        let embeddings = self.embeddings(tables);
        for path in tables.iter().chain(&embeddings) {
            files::check_writable(path)?;
        }
        let manifests: Vec<Manifest> = tables.iter().map_while(|table| Manifest::read(table).ok()).collect();
        let is = |path: &Path, digest: &str| files::digest_file(path).is_ok_and(|found| found == digest);
        let same = |(table, m): (&PathBuf, &Manifest)| {
            let features = || m.embeddings.iter().all(|e| is(&features::path(table, &e.role), &e.digest));
            m.job.as_ref() == Some(identity) && is(table, &m.table) && features()
        };
        let done = manifests.len() == tables.len() && tables.iter().zip(&manifests).all(same);
        if done && self.existing != Existing::Replace {
            if self.unchanged(&manifests[0]) {
                let notes = parts.remove()?.into_iter().collect(); // what a crash left while it was taken away
                let first = manifests.into_iter().next().unwrap_or_default();
                let (rows, skipped, throughput) = (first.rows as u64, first.data.skipped, first.throughput);
                return Ok(Some(Done { tables: tables.to_vec(), embeddings, rows, skipped, throughput, before: true, notes }));
            }
            if self.existing == Existing::Keep && begun.is_none() {
                let what =
                    format!("{} was scored from other images: files of the same names and lengths have changed", tables[0].display());
                return Err(Error::config(what, "choose another name, or score them again with --force"));
            }
        }
        if let Some(there) = begun {
            return match difference(&there, identity, "") {
                None => Ok(None),
                Some(_) if self.existing != Existing::Keep => {
                    parts.remove()?.iter().for_each(|text| progress.line(text));
                    Ok(None)
                }
                Some(what) => {
                    let what = format!("{} is of another scoring job: {what}", parts.folder().display());
                    Err(Error::config(what, "go on with the same settings, choose another --out, or start again with --force"))
                }
            };
        }
        if self.existing == Existing::Keep {
            let outputs = tables.iter().flat_map(|table| [table.clone(), Manifest::path(table)]).chain(embeddings);
            files::spare(outputs)?;
        }
        Ok(None)
    }

    /// Whether the files that a finished table was made of contain what they did.
    fn unchanged(&self, manifest: &Manifest) -> bool {
        let ids: std::collections::HashSet<&str> = manifest.data.skipped.iter().map(|(id, _)| &id[..]).collect();
        let source = self.task.source;
        let own = self.own().iter().map(|(index, _)| *index);
        let (left_out, rows): (Vec<u32>, Vec<u32>) = own.partition(|&index| ids.contains(&source.id(index as usize)[..]));
        Content::now(source, &rows, &left_out) == Content::parse(manifest.data.content.as_deref())
    }

    /// The places of the samples that were measured before and are kept, block by block.
    fn kept(&self, blocks: &Blocks, progress: &mut dyn Progress) -> Result<Vec<Range<usize>>> {
        let mut changed = 0;
        let good = |block: &Block| {
            if progress.stopped() {
                return Err(Error::stopped("nothing was scored; the same command goes on"));
            }
            let left_out: Vec<u32> = block.skipped.iter().map(|(index, _)| *index).collect();
            let same = Content::now(self.task.source, &block.indices, &left_out) == Some(block.content);
            changed += !same as usize;
            // To fail at bad images is what is asked for now.
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

    /// Measure the samples at these places, and return them block by block.
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
        // Whatever ended it, what was measured is kept.
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

/// From what is measured of a list of samples to blocks of samples that follow each other in the job.
struct Writer<'a> {
    blocks: &'a Blocks<'a>,
    /// The places in the job of the samples of the list.
    gaps: &'a [Range<usize>],
    widths: Vec<usize>,
    close: Duration,
    list: &'a [u32],
    /// The place in the list at which the open block begins.
    at: usize,
    open: Option<(Open, Instant)>,
    made: Vec<Range<usize>>,
}

impl Writer<'_> {
    /// Where in the job the open block begins, and how many samples it can have.
    fn place(&self) -> Option<(usize, usize)> {
        let mut before = 0;
        let gap = self.gaps.iter().find(|gap| {
            before += gap.len();
            self.at < before
        })?;
        let left = before - self.at;
        Some((gap.end - left, left.min(BLOCK)))
    }

    fn add(&mut self, measured: &super::Measured) -> Result<()> {
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

    /// Write the open block as it is.
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

/// The places that are in none of these ranges, which are in order.
fn missing(there: &[Range<usize>], samples: usize) -> Vec<Range<usize>> {
    let ends = [0].into_iter().chain(there.iter().map(|range| range.end));
    let starts = there.iter().map(|range| range.start).chain([samples]);
    ends.zip(starts).filter(|(end, start)| end < start).map(|(end, start)| end..start).collect()
}

/// A number as the recipe has it, and what holds such.
fn exact(value: &impl Serialize) -> Result<Value> {
    manifest::settings(value).map_err(|e| Error::config(format!("a setting cannot be written as JSON ({e})"), "report this"))
}

/// The first setting in which two jobs differ, in words.
pub fn difference(there: &Value, here: &Value, name: &str) -> Option<String> {
    if let (Value::Object(a), Value::Object(b)) = (there, here) {
        let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
        keys.sort();
        let at = |key: &str| if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
        return keys
            .into_iter()
            .find_map(|key| difference(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), &at(key)));
    }
    let words = |value: &Value| match value {
        Value::Null => "none".to_string(),
        Value::String(text) if text.chars().count() > 40 => format!("{}...", text.chars().take(12).collect::<String>()),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (there != here).then(|| format!("{name} is {} there and {} here", words(there), words(here)))
}
