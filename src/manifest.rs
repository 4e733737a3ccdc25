//! What made a result: written as JSON beside it, so that it can be checked and made again.

use crate::checkpoint;
use crate::data::{Exif, Source};
use crate::device::Device;
use crate::encoders::Network;
use crate::error::{Error, Result};
use crate::files;
use crate::table::{self, Row};
use crate::view::View;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
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
    /// What of the encoders was compared, where one pass scores several layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// How the scores were taken: every setting, by name.
    pub settings: serde_json::Value,
    /// Everything that the scores depend on; a job is taken up again, and shards are merged, if this is equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<serde_json::Value>,
    pub rows: usize,
    /// BLAKE3 of the table file.
    pub table: String,
    /// Files with the features of the un-augmented images, whose rows are those of the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<FeatureFacts>,
    /// Wall time of scoring.
    pub seconds: f64,
    #[serde(default)]
    pub throughput: Throughput,
}

/// A manifest as it stands in its file.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    manifest: &'a Manifest,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// When, UTC.
    written: String,
    command: Vec<String>,
}

/// How fast scoring was, and where its time went. Of the last call of a job that was stopped, and the sum over shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    pub threads: usize,
    /// Samples that were scored.
    pub samples: u64,
    pub per_second: f64,
    /// Seconds of decoding, summed over threads; most of them beside `compute`.
    pub decode: f64,
    /// Seconds of augmentation and both encoders.
    pub compute: f64,
    /// Seconds in which the encoders had no images to work on.
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
    /// Images left out: (path, reason).
    pub skipped: Vec<(String, String)>,
    /// What lies with the samples and is none of them, and metadata that could not be understood: (name, reason).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderFacts {
    pub role: String,
    pub arch: String,
    /// Its form, in words.
    #[serde(default)]
    pub network: String,
    /// What it sees of an image without augmentation, in words.
    #[serde(default)]
    pub sees: String,
    pub file: String,
    /// BLAKE3 of the file, or of all that an index names.
    pub digest: String,
}

/// A file that is `features` [rows, width].
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
        DataFacts {
            name: source.name().into(),
            digest: source.digest().into(),
            samples: source.len(),
            skipped: source.skipped().to_vec(),
            left_out: source.left_out().to_vec(),
        }
    }
}

impl EncoderFacts {
    /// Of an encoder in `file`.
    pub fn of(role: impl Into<String>, network: &Network, sees: &View, file: &Path) -> Result<EncoderFacts> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (arch, digest) = (network.encoder.name().into(), checkpoint::digest(file)?);
        Ok(EncoderFacts { role: role.into(), arch, network: network.describe(), sees: sees.seen(), file: name, digest })
    }
}

impl Manifest {
    /// Beside `table`, with the ending `.json`.
    pub fn path(table: &Path) -> PathBuf {
        table.with_extension("json")
    }
    /// Beside `table`, whole or not at all, with what only a reader wants to know.
    pub fn write(&self, table: &Path) -> Result<()> {
        let file = File {
            manifest: self,
            warnings: self.warnings(),
            written: DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        };
        let text =
            serde_json::to_string_pretty(&file).map_err(|e| Error::format(table, format!("its manifest cannot be written ({e})")))?;
        files::write_whole(Manifest::path(table), text.as_bytes())
    }
    /// What makes the scores worthless, a sentence each without its full stop.
    pub fn warnings(&self) -> Vec<String> {
        same_weights(&self.encoders)
    }
    /// What was done with the orientation of the image files: a page of them shows what the encoders saw.
    pub fn exif(&self) -> Exif {
        self.settings.pointer("/data/exif").and_then(|exif| Exif::deserialize(exif).ok()).unwrap_or_default()
    }
    pub fn read(table: &Path) -> Result<Manifest> {
        let path = Manifest::path(table);
        serde_json::from_str(&files::read_text(&path)?)
            .map_err(|e| Error::format(&path, format!("is not the manifest of a score table ({e})")))
    }
}

/// A sentence, without its full stop, for each pair of encoders that are the same weights: their score is 0 whatever the image.
pub fn same_weights(encoders: &[EncoderFacts]) -> Vec<String> {
    let pair = |e: &EncoderFacts, letter: char| e.role.strip_prefix(letter).map(str::to_string);
    let same = |f: &EncoderFacts| {
        let number = pair(f, 'f')?;
        let g = encoders.iter().find(|g| pair(g, 'g').as_ref() == Some(&number) && g.digest == f.digest)?;
        Some(format!("{} and {} are the same weights ({} and {}), so every score of theirs is 0", f.role, g.role, f.file, g.file))
    };
    encoders.iter().filter_map(same).collect()
}

/// What serde makes of a value, with each f32 as the shortest decimal that is it: 0.9, not 0.8999999761581421.
///
/// # Errors
/// JSON has no word for it.
pub fn settings(value: &impl Serialize) -> serde_json::Result<serde_json::Value> {
    serde_json::from_str(&serde_json::to_string(value)?)
}

/// Write a score table and, beside it, what made it. `start` is when scoring began.
pub fn publish(
    path: &Path,
    rows: &[Row],
    source: &dyn Source,
    encoders: Vec<EncoderFacts>,
    settings: &impl Serialize,
    device: &Device,
    start: Instant,
) -> Result<()> {
    table::write(path, rows, &[])?;
    let settings = self::settings(settings).map_err(|e| Error::format(path, format!("its recipe cannot be written ({e})")))?;
    let manifest = Manifest {
        sslmem: env!("CARGO_PKG_VERSION").into(),
        device: device.name(),
        data: DataFacts::of(source),
        encoders,
        layer: None,
        settings,
        job: None,
        rows: rows.len(),
        table: files::digest_file(path)?,
        embeddings: vec![],
        seconds: start.elapsed().as_secs_f64(),
        throughput: Throughput { threads: rayon::current_num_threads(), ..Throughput::default() },
    };
    manifest.write(path)
}
