//! Probing as a stage: one encoder after another, with the results written after each.

use super::{Accuracy, Features, Protocol, labelled, probe};
use crate::checkpoint;
use crate::data::{Content, OnBadImage, Source, class_count};
use crate::device::Device;
use crate::encoders::Features as Representation;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::score::{Embedding, EncoderFile, Layer};
use crate::stage::{Existing, Found, Identity, Next, Stage, setting};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Settings of a probe.
#[derive(Clone, Debug, PartialEq)]
pub struct How {
    pub protocols: Vec<Protocol>,
    /// Most labelled training and test samples; above that a random subset by the seed.
    pub limits: [Option<usize>; 2],
    pub seed: u64,
}

/// Probing one encoder.
#[derive(Clone)]
pub struct Job<'a> {
    /// Its name in the results: `f1` is f of the first pair.
    pub name: String,
    pub side: EncoderFile<'a>,
    /// The layer, which gives one vector per sample ([`vector`]).
    pub layer: Layer,
    /// The data; the labelled samples of its test part are classified.
    pub source: &'a dyn Source,
    /// Training samples of the probe; those without a label are left out.
    pub samples: Vec<u32>,
    /// The method that trained the encoder, if known: the paper's learning rate depends on it.
    pub method: Option<String>,
    pub how: How,
    /// Samples per run of the program. Results do not depend on it.
    pub batch: usize,
    pub on_bad: OnBadImage,
    pub device: &'a Device,
}

/// Probes several encoders with the same data. Results go to a file, or only to the caller.
pub struct Probing<'a> {
    pub jobs: Vec<Job<'a>>,
    /// The data's specification.
    pub data: String,
    /// File of results. Existing results of the same identity are reused.
    pub out: Option<PathBuf>,
}

/// Results of the probes of a run or of a file: `probe.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub sslmem: String,
    pub data: String,
    /// BLAKE3 of the data.
    pub digest: String,
    pub classes: usize,
    pub seed: u64,
    pub encoders: Vec<Probed>,
}

/// Results of one encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// `f1` is f of the first pair; for a file it is the file's name.
    pub encoder: String,
    /// BLAKE3 of the weights.
    pub digest: String,
    pub train: Count,
    pub test: Count,
    pub accuracy: Vec<Accuracy>,
    /// Images that cannot be decoded: (id, reason).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<(String, String)>,
    /// The job's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Value>,
}

/// Number of samples in a part, and of those left out because they have no label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Count {
    pub samples: usize,
    pub unlabelled: usize,
}

impl Probed {
    /// Whether it is what a probe of its weights makes, as far as that can be seen.
    fn is_whole(&self) -> bool {
        let shares = || self.accuracy.iter().flat_map(|a| [Some(a.top1), a.top5]).flatten();
        let own = self.job.as_ref().is_some_and(|job| job["weights"] == self.digest.as_str());
        own && !self.accuracy.is_empty() && shares().all(|share| (0.0..=1.0).contains(&share))
    }
}

impl Results {
    /// The results in a file; `None` if it does not exist.
    ///
    /// # Errors
    /// The file is not one of probing.
    pub fn read(path: &Path) -> Result<Option<Results>> {
        if !files::exists(path)? {
            return Ok(None);
        }
        let broken = |e: serde_json::Error| {
            Error::format(path, format!("is not what `sslmem probe` writes ({e}); move it away, or delete it to probe again"))
        };
        serde_json::from_str(&files::read_text(path)?).map(Some).map_err(broken)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::format(path, format!("cannot be written as JSON ({e})")))?;
        files::write_whole(path, (text + "\n").as_bytes())
    }
}

/// The layer that a probe reads: one vector per sample, even if whole maps are scored.
pub fn vector(features: Representation) -> Layer {
    Layer::Output(if features == Representation::Map { Representation::Pooled } else { features })
}

impl Job<'_> {
    /// Probes the encoder with its labelled samples.
    ///
    /// # Errors
    /// No sample has a label or can be decoded; as [`probe`] and [`Embedding::each`].
    pub fn probe(&self, data: &str, progress: &mut dyn Progress) -> Result<Probed> {
        let How { protocols, limits, seed } = &self.how;
        let test = self.source.train_len() as u32..self.source.len() as u32;
        let (train, without) = labelled(self.source, self.samples.clone(), limits[0], *seed);
        let (test, test_without) = labelled(self.source, test, limits[1], *seed);
        for (part, samples) in [("training", &train), ("test", &test)] {
            if samples.is_empty() {
                let what = format!("{data} has no labelled {part} sample to probe with");
                return Err(Error::config(what, "name data with labels, a training and a test part"));
            }
        }
        let &Job { side, ref layer, batch, device, on_bad, .. } = self;
        let classes = class_count(self.source);
        let mut features = |source| Features::of(&Embedding { side, layer, source, batch, device, on_bad }, classes, progress);
        let (train, mut skipped) = features(&train)?;
        let (test, more) = features(&test)?;
        skipped.extend(more);
        for (part, features) in [("training", &train), ("test", &test)] {
            if features.is_empty() {
                let what = format!("no image of the {part} part of {data} can be decoded");
                return Err(Error::config(what, "look at one with --on-bad-image fail"));
            }
        }
        Ok(Probed {
            encoder: self.name.clone(),
            digest: checkpoint::digest(side.path)?,
            train: Count { samples: train.len(), unlabelled: without },
            test: Count { samples: test.len(), unlabelled: test_without },
            accuracy: probe(&train, &test, protocols, self.method.as_deref(), *seed, progress)?,
            skipped,
            job: Some(self.identity()?.value().clone()),
        })
    }

    /// Identity of the results.
    ///
    /// # Errors
    /// The weights cannot be read.
    pub fn identity(&self) -> Result<Identity> {
        let How { protocols, limits, seed } = &self.how;
        let samples = blake3::hash(bytemuck::cast_slice(&self.samples)).to_hex().to_string();
        // The data's digest covers names and lengths; this one covers the content of some files.
        let content = Content::sampled(self.source, &self.samples)?.and_then(Content::hex);
        let network = &self.side.network;
        Ok(Identity::new(json!({
            "sslmem": env!("CARGO_PKG_VERSION"),
            "weights": checkpoint::digest(self.side.path)?,
            "network": network.describe(),
            "sees": setting(&self.side.original)?,
            "layer": self.layer.name(),
            "method": self.method,
            "data": { "digest": self.source.digest(), "content": content },
            "samples": { "digest": samples, "count": self.samples.len() },
            "protocols": protocols.iter().map(|protocol| protocol.name()).collect::<Vec<_>>(),
            "limits": limits,
            "seed": seed,
            "on_bad_image": self.on_bad,
            "device": self.device.arithmetic(),
        })))
    }
}

impl Probing<'_> {
    /// Probes every encoder without results; the file is written after each.
    ///
    /// # Errors
    /// As [`Job::probe`]; the disk is full or failed; [`Error::Stopped`], with the results of earlier encoders kept.
    ///
    /// # Panics
    /// There is no encoder.
    pub fn probe(&self, progress: &mut dyn Progress) -> Result<Results> {
        let first = self.jobs.first().expect("something to probe");
        let (digest, classes) = (first.source.digest().to_string(), first.source.classes().len());
        let (sslmem, data, seed) = (env!("CARGO_PKG_VERSION").into(), self.data.clone(), first.how.seed);
        let mut results = Results { sslmem, data, digest, classes, seed, encoders: vec![] };
        let there = self.out.as_deref().map(Results::read).transpose()?.flatten().map_or(vec![], |there| there.encoders);
        for job in &self.jobs {
            let identity = job.identity()?;
            let made = there.iter().find(|made| made.encoder == job.name && made.is_whole());
            let found = made.and_then(|made| made.job.clone()).map_or(Found::Nothing, |job| Found::Made(Identity::new(job)));
            let refused = |what| Error::config(format!("the results of {} are of another probe: {what}", job.name), "report this");
            let probed = match (Existing::Renew.next(&found, &identity, refused)?, made) {
                (Next::Reuse, Some(made)) => {
                    progress.line(&format!("{}: probed before, with the same settings", job.name));
                    made.clone()
                }
                _ => job.probe(&self.data, progress)?,
            };
            results.encoders.push(probed);
            self.out.iter().try_for_each(|out| results.write(out))?;
        }
        Ok(results)
    }
}

impl Stage for Probing<'_> {
    fn name(&self) -> String {
        "probe".into()
    }
    fn identity(&self) -> Result<Identity> {
        let each = self.jobs.iter().map(|job| Ok((job.name.clone(), job.identity()?.value().clone())));
        Ok(Identity::new(Value::Object(each.collect::<Result<_>>()?)))
    }
    fn outputs(&self) -> Vec<PathBuf> {
        self.out.iter().cloned().collect()
    }
    fn run(&self, progress: &mut dyn Progress) -> Result<()> {
        self.probe(progress).map(drop)
    }
}
