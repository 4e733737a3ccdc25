//! Manifests: a JSON file beside each result that states what made it, so that it can be verified and reproduced.

use crate::checkpoint;
use crate::data::{Exif, Source};
use crate::encoders::Network;
use crate::error::{Error, Result};
use crate::files;
use crate::table::{self, Row};
use crate::view::View;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this program.
    pub sslmem: String,
    pub device: String,
    pub data: DataFacts,
    /// The encoders, f and g of each pair.
    pub encoders: Vec<EncoderFacts>,
    /// The compared layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Every setting that the scores depend on, by name.
    pub settings: Value,
    /// The job's identity. A job resumes, and shards merge, only if this is equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Value>,
    pub rows: usize,
    /// BLAKE3 of the table file.
    pub table: String,
    /// Files with the features of the un-augmented images, row for row with the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<FeatureFacts>,
    /// Wall time of scoring.
    pub seconds: f64,
    #[serde(default)]
    pub throughput: Throughput,
}

/// A manifest with the fields that only its file has.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// Date and time, UTC.
    written: String,
    command: Vec<String>,
    /// Last, because it is the digest of everything before it: see [`sealed`].
    seal: &'static str,
}

/// Text before the digits of a seal.
const SEAL: &str = "\"seal\": \"";

/// The text of a manifest with its seal filled in: BLAKE3 of the text without these digits.
fn sealed(text: String) -> String {
    let seal = blake3::hash(text.as_bytes()).to_hex();
    match text.rfind(SEAL).map(|at| text.split_at(at + SEAL.len())) {
        Some((before, after)) => [before, &seal, after].concat(),
        None => text,
    }
}

/// Whether the text of a manifest matches its seal. Manifests of earlier versions have none.
fn intact(text: &str) -> bool {
    let Some((before, rest)) = text.rfind(SEAL).map(|at| text.split_at(at + SEAL.len())) else { return true };
    let whole = |(seal, after)| blake3::hash([before, after].concat().as_bytes()).to_hex().as_str() == seal;
    rest.split_at_checked(2 * blake3::OUT_LEN).is_some_and(whole)
}

/// Speed of scoring, and where its time went. For a resumed job it is that of the last call; for merged shards it is the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    pub threads: usize,
    /// Samples that were scored.
    pub samples: u64,
    pub per_second: f64,
    /// Seconds of decoding, summed over threads; most of it overlaps with `compute`.
    pub decode: f64,
    /// Seconds of augmentation and both encoders.
    pub compute: f64,
    /// Seconds in which the encoders waited for images.
    pub wait: f64,
}

impl std::ops::Add for Throughput {
    type Output = Throughput;
    fn add(self, other: Throughput) -> Throughput {
        Throughput {
            threads: self.threads + other.threads,
            samples: self.samples + other.samples,
            per_second: self.per_second + other.per_second,
            decode: self.decode + other.decode,
            compute: self.compute + other.compute,
            wait: self.wait + other.wait,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    pub name: String,
    pub digest: String,
    pub samples: usize,
    /// Digest of the content of the image files, and of which were left out, hexadecimal. Digests of shards add up to that of the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Digest of at most 64 files spread over the samples of all shards. It is equal in all shards, so that shards of other data are not
    /// merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<String>,
    /// Images left out: (path, reason).
    pub skipped: Vec<(String, String)>,
    /// Entries beside the samples that are no samples, and metadata that cannot be read: (name, reason).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderFacts {
    pub role: String,
    pub arch: String,
    /// Its configuration, in words.
    #[serde(default)]
    pub network: String,
    /// The preparation of an un-augmented image, in words.
    #[serde(default)]
    pub sees: String,
    pub file: String,
    /// BLAKE3 of the file, or of an index and its files.
    pub digest: String,
}

/// A file of `features` [rows, width].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureFacts {
    /// The encoder's.
    pub role: String,
    pub file: String,
    pub width: usize,
    /// BLAKE3 of the file.
    pub digest: String,
}

impl DataFacts {
    pub fn of(source: &dyn Source) -> DataFacts {
        let (name, digest, samples, skipped) = (source.name().into(), source.digest().into(), source.len(), source.skipped().to_vec());
        DataFacts { name, digest, samples, skipped, left_out: source.left_out().to_vec(), ..DataFacts::default() }
    }
}

impl EncoderFacts {
    /// The facts of an encoder in `file`.
    pub fn of(role: impl Into<String>, network: &Network, sees: &View, file: &Path) -> Result<EncoderFacts> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (arch, digest) = (network.encoder.name().into(), checkpoint::digest(file)?);
        Ok(EncoderFacts { role: role.into(), arch, network: network.describe(), sees: sees.seen(), file: name, digest })
    }
}

impl Manifest {
    /// The path of a table's manifest: the same name, ending in `.json`.
    pub fn path(table: &Path) -> PathBuf {
        table.with_extension("json")
    }
    /// Writes the manifest beside `table`, with warnings, date and command line.
    pub fn write(&self, table: &Path) -> Result<()> {
        let file = File {
            manifest: self,
            warnings: self.warnings(),
            written: DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            seal: "",
        };
        let text =
            serde_json::to_string_pretty(&file).map_err(|e| Error::format(table, format!("its manifest cannot be written ({e})")))?;
        files::write_whole(Manifest::path(table), sealed(text).as_bytes())
    }
    /// Reasons why the scores mean nothing, each a sentence without its full stop.
    pub fn warnings(&self) -> Vec<String> {
        same_weights(&self.encoders)
    }
    /// The treatment of EXIF orientation, so that a page shows images as the encoders saw them.
    pub fn exif(&self) -> Exif {
        self.settings.pointer("/data/exif").and_then(|exif| Exif::deserialize(exif).ok()).unwrap_or_default()
    }
    pub fn read(table: &Path) -> Result<Manifest> {
        let path = Manifest::path(table);
        let text = files::read_text(&path)?;
        let manifest =
            serde_json::from_str(&text).map_err(|e| Error::format(&path, format!("is not the manifest of a score table ({e})")))?;
        if !intact(&text) {
            let what = "was changed or damaged since it was written; score again; `report` and `top` show the table with --unverified";
            return Err(Error::format(&path, what));
        }
        Ok(manifest)
    }
}

/// A sentence, without its full stop, for each pair of encoders with equal weights, whose score is 0 for every image.
pub fn same_weights(encoders: &[EncoderFacts]) -> Vec<String> {
    let pair = |e: &EncoderFacts, letter: char| e.role.strip_prefix(letter).map(str::to_string);
    let same = |f: &EncoderFacts| {
        let number = pair(f, 'f')?;
        let g = encoders.iter().find(|g| pair(g, 'g').as_ref() == Some(&number) && g.digest == f.digest)?;
        Some(format!("{} and {} are the same weights ({} and {}), so every score of theirs is 0", f.role, g.role, f.file, g.file))
    };
    encoders.iter().filter_map(same).collect()
}

/// Whether a table is compared with its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is compared, and a difference is an error.
    Verified,
    /// It is compared, and a difference is a warning.
    Unverified,
}

/// A score table and its manifest.
pub struct Scored {
    pub rows: Vec<Row>,
    /// `None` if there is no readable one.
    pub manifest: Option<Manifest>,
    /// A warning that the table has no manifest to compare with, or differs from it.
    pub note: Option<String>,
}

/// The only function that reads a score table: with its manifest, whose digest it verifies.
///
/// # Errors
/// As [`table::read`]; the table differs from its manifest's digest, or the manifest cannot be read.
pub fn scored(path: &Path, trust: Trust) -> Result<Scored> {
    let changed = "was changed or damaged since its manifest was written";
    let remedy = "score again; `report` and `top` show it as it is with --unverified";
    if !files::exists(Manifest::path(path))? {
        let rows = table::read(path)?;
        let note = format!("{} has no manifest beside it, so it is not known how it was made", path.display());
        return Ok(Scored { rows, manifest: None, note: Some(note) });
    }
    let (manifest, mut wrong) = match Manifest::read(path) {
        Ok(manifest) => (Some(manifest), None),
        Err(error) if trust == Trust::Verified => return Err(error),
        Err(error) => (None, Some(error.to_string())),
    };
    if let Some(manifest) = &manifest
        && files::digest_file(path)? != manifest.table
    {
        if trust == Trust::Verified {
            return Err(Error::format(path, format!("{changed}; {remedy}")));
        }
        wrong = Some(format!("{}: {changed}", path.display()));
    }
    let rows = table::read(path)?;
    if let Some(manifest) = manifest.as_ref().filter(|manifest| wrong.is_none() && manifest.rows != rows.len()) {
        let what = format!("has {} rows, and its manifest says {}", rows.len(), manifest.rows);
        if trust == Trust::Verified {
            return Err(Error::format(path, format!("{what}; {remedy}")));
        }
        wrong = Some(format!("{}: {what}", path.display()));
    }
    Ok(Scored { rows, manifest, note: wrong })
}

/// Writes the mean of several score tables and its manifest. `start` is when scoring began.
pub fn publish(path: &Path, rows: &[Row], like: &Manifest, encoders: Vec<EncoderFacts>, job: Value, start: Instant) -> Result<()> {
    table::write(path, rows, &[])?;
    let manifest = Manifest {
        encoders,
        layer: None,
        job: Some(job),
        rows: rows.len(),
        table: files::digest_file(path)?,
        embeddings: vec![],
        seconds: start.elapsed().as_secs_f64(),
        throughput: Throughput { threads: rayon::current_num_threads(), ..Throughput::default() },
        ..like.clone()
    };
    manifest.write(path)
}
