//! A scoring job on files: blocks as they come, so that whatever stops it costs little, then the tables.
//!
//! ```text
//! scores.parquet.parts/job.json         what the scores depend on; written first, removed first
//! scores.parquet.parts/0000000.block    of 1,024 samples, in the order of the samples; 0000000.features if they are wanted
//! scores.parquet.lock                   as long as a process is at work on it
//! scores.parquet scores.json            when all are there; then the folder goes
//! ```

use super::blocks::{BLOCK, Blocks};
use super::features::{self, ROLES};
use super::{Layer, Scorer, Shard, Task, assemble, table_name};
use crate::data::OnBadImage;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files::{self, Lock};
use crate::manifest::{DataFacts, EncoderFacts, Manifest, Throughput};
use crate::progress::Progress;
use crate::split::Subset;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    /// Replace tables that exist, and what is left of another job in this place.
    pub force: bool,
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
}

impl Job<'_> {
    /// Score what is not scored yet and write the tables. The same job in the same place goes on where it was stopped,
    /// and ends in the same bytes as one that was never stopped.
    ///
    /// # Errors
    /// Another process is at work here; another job was begun in this place or its tables are there; whatever [`Scorer`] refuses; the
    /// disk is full or failed.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<Done> {
        let start = Instant::now();
        for (i, layer) in self.task.layers.iter().enumerate() {
            if self.task.layers[..i].contains(layer) {
                return Err(Error::config(format!("the layer `{}` is named twice", layer.name()), "name it once"));
            }
        }
        let table = table_name(self.out, None, self.shard);
        let lock = Lock::take(beside(&table, "lock"), &table)?;
        lock.warning().iter().for_each(|text| progress.line(text));
        self.spare_weights()?;
        let own = self.own();
        let ids: Vec<u32> = own.iter().map(|(index, _)| *index).collect();
        let identity = self.identity()?;
        let folder = beside(&table, "parts");
        let begun = folder.join("job.json");
        if let Some(done) = self.resume(&identity, &folder, &begun)? {
            return Ok(done);
        }
        let digest = *blake3::hash(identity.to_string().as_bytes()).as_bytes();
        let blocks = Blocks { folder: &folder, job: digest, samples: &ids, layers: self.task.layers.len(), features: self.task.features };
        let missing = self.missing(&blocks, progress);
        let mut throughput = Throughput { threads: rayon::current_num_threads(), ..Throughput::default() };
        if !missing.is_empty() {
            let Task { f, g, .. } = self.task;
            ROLES.iter().zip([f, g]).for_each(|(role, side)| progress.line(&side.describe(role)));
            // Before anything is written: weights that do not fit leave nothing behind.
            let mut scorer = Scorer::new(self.task)?;
            files::create_dir(&folder)?;
            files::remove_unfinished(&folder)?;
            files::write_whole(&begun, pretty(&identity).as_bytes())?;
            self.measure(&mut scorer, &blocks, &missing, &mut throughput, progress)?;
        }
        let tables = self.tables();
        let mut done = assemble::tables(self, own, &blocks, &identity, &tables, throughput, start)?;
        Blocks::remove(&folder, &begun)?;
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
    fn identity(&self) -> Result<Value> {
        let Task { f, g, protocol, layers, source, device, .. } = self.task;
        let digest = |role: &str| self.encoders.iter().find(|e| e.role == role).map(|e| e.digest.clone());
        let side = |role: &str, side: super::Side| {
            let form = side.network.form;
            json!({
                "weights": digest(role), "arch": side.network.encoder.name(), "stem": form.stem, "patch": form.patch,
                "positions": form.positions, "heads": form.heads, "norm_eps": form.norm_eps, "size": form.size,
                "view": side.view, "original": side.original,
            })
        };
        let DataFacts { name, digest, samples, .. } = DataFacts::of(source);
        let mut split = blake3::Hasher::new();
        for (index, subset) in self.samples {
            split.update(&index.to_le_bytes()).update(&[*subset as u8]);
        }
        let device = match device {
            Device::Cpu => format!("cpu ({})", std::env::consts::ARCH),
            Device::Gpu(queue) => format!("{}, {}", queue.name(), queue.real().name()),
        };
        let mut identity = json!({
            "sslmem": env!("CARGO_PKG_VERSION"),
            "data": { "name": name, "digest": digest, "samples": samples },
            "split": { "digest": split.finalize().to_hex().to_string(), "samples": self.samples.len() },
            "f": side("f", f),
            "g": side("g", g),
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
        Ok(identity)
    }

    /// Look at what is there: this job, begun or done, another one, or nothing.
    fn resume(&self, identity: &Value, folder: &Path, begun: &Path) -> Result<Option<Done>> {
        if begun.exists() {
            let broken =
                |e: serde_json::Error| Error::format(begun, format!("is not what scoring writes ({e}); delete {}", folder.display()));
            let there = files::read_text(begun).and_then(|text| serde_json::from_str::<Value>(&text).map_err(broken));
            return match there.map(|there| difference(&there, identity, "")) {
                Ok(None) => Ok(None),
                _ if self.force => Blocks::remove(folder, begun).map(|()| None),
                Ok(Some(what)) => {
                    let what = format!("{} is of another scoring job: {what}", folder.display());
                    Err(Error::config(what, "go on with the same settings, choose another --out, or start again with --force"))
                }
                Err(error) => Err(error),
            };
        }
        let tables = self.tables();
        let embeddings = self.embeddings(&tables);
        for path in tables.iter().chain(&embeddings) {
            files::check_writable(path)?;
        }
        let manifests: Vec<Manifest> = tables.iter().map_while(|table| Manifest::read(table).ok()).collect();
        let is = |path: &Path, digest: &str| files::digest_file(path).is_ok_and(|found| found == digest);
        let same = |(table, m): (&PathBuf, &Manifest)| {
            let features = || m.embeddings.iter().all(|e| is(&features::path(table, &e.role), &e.digest));
            m.job.as_ref() == Some(identity) && is(table, &m.table) && features()
        };
        if !self.force && manifests.len() == tables.len() && tables.iter().zip(&manifests).all(same) {
            Blocks::remove(folder, begun)?; // what a crash left while it was taken away
            let first = manifests.into_iter().next().unwrap_or_default();
            let (rows, skipped, throughput) = (first.rows as u64, first.data.skipped, first.throughput);
            return Ok(Some(Done { tables, embeddings, rows, skipped, throughput, before: true }));
        }
        let taken = tables.iter().flat_map(|table| [table.clone(), Manifest::path(table)]).chain(embeddings).find(|path| path.exists());
        if let Some(path) = taken.filter(|_| !self.force) {
            let what = format!("{} exists already", path.display());
            return Err(Error::config(what, "choose another name, or replace it with --force"));
        }
        Ok(None)
    }

    /// The blocks that are yet to be scored.
    fn missing(&self, blocks: &Blocks, progress: &mut dyn Progress) -> Vec<usize> {
        let mut damaged = 0;
        let missing = (0..blocks.count()).filter(|&number| match blocks.whole(number) {
            // To fail at them is what is asked for now.
            Some(block) => !block.skipped.is_empty() && self.task.on_bad == OnBadImage::Fail,
            None => {
                damaged += blocks.exists(number) as usize;
                true
            }
        });
        let missing: Vec<usize> = missing.collect();
        if damaged > 0 {
            progress.line(&format!("{damaged} of {} blocks in {} are damaged and scored again", blocks.count(), blocks.folder.display()));
        }
        missing
    }

    fn measure(
        &self,
        scorer: &mut Scorer,
        blocks: &Blocks,
        missing: &[usize],
        throughput: &mut Throughput,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let start = Instant::now();
        // Only the last block of all is short, so place p of this list is in the block missing[p / BLOCK].
        let list: Vec<u32> = missing.iter().flat_map(|&number| blocks.samples(number)).copied().collect();
        progress.start("score", blocks.samples.len() as u64, "sample");
        progress.advance((blocks.samples.len() - list.len()) as u64, "");
        let widths = scorer.widths();
        let (mut at, mut open) = (0, None);
        let times = scorer.measure(&list, |measured| {
            while at < missing.len() {
                let range = at * BLOCK..list.len().min((at + 1) * BLOCK);
                let mut block = open.take().map_or_else(|| blocks.open(missing[at], &widths), Ok)?;
                block.add(measured, range.clone(), &list)?;
                if block.len() < range.len() {
                    open = Some(block);
                    break;
                }
                blocks.write(missing[at], block)?;
                at += 1;
            }
            progress.advance((measured.places.len() + measured.bad.len()) as u64, "");
            Ok(())
        })?;
        progress.done();
        let seconds = start.elapsed().as_secs_f64();
        let (samples, per_second) = (list.len() as u64, list.len() as f64 / seconds);
        let (decode, compute, wait) = (times.decode, times.compute, times.wait);
        *throughput = Throughput { samples, per_second, decode, compute, wait, ..*throughput };
        Ok(())
    }
}

/// What stands beside a table until it is there: its name with another ending.
fn beside(table: &Path, ending: &str) -> PathBuf {
    let mut name = table.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{ending}"));
    table.with_file_name(name)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The first setting in which two jobs differ, in words.
pub(super) fn difference(there: &Value, here: &Value, name: &str) -> Option<String> {
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
