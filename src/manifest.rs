//! What made a result: written as JSON beside it, so that it can be checked and made again.

use crate::checkpoint;
use crate::data::{Exif, Source};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files;
use crate::table::{self, Row};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    pub fn of(role: impl Into<String>, arch: &str, file: &Path) -> Result<EncoderFacts> {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(EncoderFacts { role: role.into(), arch: arch.into(), file: name, digest: checkpoint::digest(file)? })
    }
}

impl Manifest {
    /// Beside `table`, with the ending `.json`.
    pub fn path(table: &Path) -> PathBuf {
        table.with_extension("json")
    }
    /// Beside `table`, whole or not at all.
    pub fn write(&self, table: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::format(table, format!("its manifest cannot be written ({e})")))?;
        files::write_whole(Manifest::path(table), text.as_bytes())
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
    let settings = serde_json::to_value(settings).map_err(|e| Error::format(path, format!("its recipe cannot be written ({e})")))?;
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
