//! `sslmem probe`: how well frozen features tell the classes of a labelled data set apart.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::args::{Flags, Images, Network, Origin, opened};
use super::encoder::identify;
use super::{Global, print, reserve, signals, warn};
use crate::config::Recipe;
use crate::data::{OnBadImage, Source, few_bad};
use crate::device::Device;
use crate::encoders::Features as Representation;
use crate::error::{Error, Result};
use crate::probe::{Count, Features, Probed, Protocol, Results, labelled, probe};
use crate::progress::Progress;
use crate::run::Run;
use crate::{checkpoint, files, score};

/// Measure how well frozen features tell classes apart: k-NN and linear probes
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem probe --run runs/small\n  sslmem probe --weights f.safetensors --data cifar100:data/cifar100 \\\n    --out probe.json\n\nOf a run, f and g of every pair are probed with the samples that they were trained on."
)]
pub struct Verb {
    /// Folder of a run; the results go to probe.json in it
    #[arg(long, value_name = "RUN", conflicts_with_all = ["weights", "data", "out", "on_bad_image", "arch", "stem", "patch", "positions", "heads", "size", "resize", "interpolation", "normalize", "preset", "recipe", "set"])]
    run: Option<PathBuf>,
    /// Weights of an encoder; what its file says of itself counts unless it is given here
    #[arg(long, value_name = "FILE", requires = "data", visible_alias = "encoder")]
    weights: Option<PathBuf>,
    /// JSON file to write, with --weights
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Probes, with commas between
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "knn,lbfgs")]
    protocol: Vec<Name>,
    /// Take at most this many labelled training samples, chosen by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit_train: Option<u32>,
    /// Take at most this many labelled test samples, chosen by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit_test: Option<u32>,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Neighbours: k 10 unweighted, k 20 and 200 at T 0.07, k 200 at T 0.1
    Knn,
    /// Logistic regression by L-BFGS, its l2 chosen by five folds: 66 fits
    Lbfgs,
    /// The SSLMem paper's: LARS, batch 4096, 90 epochs
    Paper,
    /// The SSLMem paper's released code: AdamW, batch 128, 90 epochs
    Code,
}

impl Name {
    fn protocol(self) -> Protocol {
        match self {
            Name::Knn => Protocol::Knn,
            Name::Lbfgs => Protocol::Lbfgs,
            Name::Paper => Protocol::Paper,
            Name::Code => Protocol::Code,
        }
    }
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let device = global.device()?;
    let mut progress = global.progress();
    let _lock = verb.out.as_ref().map(|out| reserve(out, verb.force)).transpose()?;
    let (file, out) = match (&verb.run, &verb.weights) {
        (Some(dir), _) => {
            let out = dir.join("probe.json");
            (of_run(&verb, dir, &out, global, &device, progress.as_mut())?, Some(out))
        }
        (None, Some(path)) => (of_file(&verb, path, global, &device, progress.as_mut())?, verb.out.clone()),
        (None, None) => return Err(Error::config("no encoder is named", "give --run RUN, or --weights FILE with --data")),
    };
    if let Some(out) = out {
        let text = serde_json::to_string_pretty(&file).map_err(|e| Error::format(&out, format!("cannot be written as JSON ({e})")))?;
        files::write_whole(&out, (text + "\n").as_bytes())?;
    }
    print(&table(&file))?;
    for Probed { encoder, train, test, skipped, .. } in &file.encoders {
        few_bad(encoder, skipped, train.samples + test.samples + skipped.len(), verb.images.max_bad.unwrap_or(0.01))?;
    }
    // The report of a run that was scored shows the accuracies beside the scores.
    match &verb.run {
        Some(dir) if dir.join("report.html").exists() => Run::read(dir, Device::Cpu)?.report().map(|_| ()),
        _ => Ok(()),
    }
}

/// f and g of every pair of a run.
fn of_run(verb: &Verb, dir: &Path, out: &Path, global: &Global, device: &Device, progress: &mut dyn Progress) -> Result<Results> {
    let run = Run::read(dir, device.clone())?;
    run.warning().iter().for_each(|text| warn(text));
    run.check_encoders()?;
    files::check_writable(out)?;
    let seed = global.seed.unwrap_or(run.recipe.seed);
    let task = Task { verb, recipe: &run.recipe, source: &*run.source, method: Some(&run.recipe.method.name), seed, device };
    let mut encoders = vec![];
    signals::watch()?;
    for pair in 1..=run.recipe.pairs {
        for (name, samples) in [("f", run.split.f_indices()), ("g", run.split.g_indices())] {
            let path = dir.join(format!("pair{pair}/{name}.safetensors"));
            encoders.push(task.probe(format!("{name}{pair}"), &path, samples, progress)?);
        }
    }
    Ok(task.file(encoders))
}

/// One encoder from a file, on any data set.
fn of_file(verb: &Verb, path: &Path, global: &Global, device: &Device, progress: &mut dyn Progress) -> Result<Results> {
    let flags = Flags::default().images(&verb.images).measuring(&verb.images).network(&verb.network).seed(global);
    let recipe = verb.origin.resolve_for(path, &flags)?;
    let metadata = identify(path)?.facts;
    // Bad images are found as they are met, not by decoding everything before.
    let source = opened(&recipe, OnBadImage::Fail, global)?;
    let method = metadata.get("method").map(String::as_str);
    let task = Task { verb, recipe: &recipe, source: &*source, method, seed: recipe.seed, device };
    let all = (0..source.train_len() as u32).collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    signals::watch()?;
    let encoders = vec![task.probe(name, path, all, progress)?];
    Ok(task.file(encoders))
}

/// Everything but the encoder.
struct Task<'a> {
    verb: &'a Verb,
    recipe: &'a Recipe,
    source: &'a dyn Source,
    method: Option<&'a str>,
    seed: u64,
    device: &'a Device,
}

impl Task<'_> {
    /// Probe one encoder with the labelled ones of these training samples.
    fn probe(&self, encoder: String, path: &Path, train: Vec<u32>, progress: &mut dyn Progress) -> Result<Probed> {
        let limit = |limit: Option<u32>| limit.map(|n| n as usize);
        let test = self.source.train_len() as u32..self.source.len() as u32;
        let (train, without) = labelled(self.source, train, limit(self.verb.limit_train), self.seed);
        let (test, test_without) = labelled(self.source, test, limit(self.verb.limit_test), self.seed);
        for (part, samples) in [("training", &train), ("test", &test)] {
            if samples.is_empty() {
                let what = format!("{} has no labelled {part} sample to probe with", self.recipe.data.source);
                return Err(Error::config(what, "name data with labels, a training and a test part"));
            }
        }
        // A probe reads one vector, whatever is scored.
        let features = match self.recipe.score.features {
            Representation::Map => Representation::Pooled,
            one => one,
        };
        let (side, protocol) = (self.recipe.side(path)?, score::Protocol { features, layer: String::new(), ..self.recipe.protocol() });
        let protocols: Vec<Protocol> = self.verb.protocol.iter().map(|name| name.protocol()).collect();
        let on_bad = self.recipe.data.on_bad_image;
        let (train, mut skipped) = Features::of(side, &protocol, &train, self.device, on_bad, progress)?;
        let (test, more) = Features::of(side, &protocol, &test, self.device, on_bad, progress)?;
        skipped.extend(more);
        for (part, features) in [("training", &train), ("test", &test)] {
            if features.is_empty() {
                let what = format!("no image of the {part} part of {} can be decoded", self.recipe.data.source);
                return Err(Error::config(what, "look at one with --on-bad-image fail"));
            }
        }
        let accuracy = probe(&train, &test, &protocols, self.method, self.seed, progress)?;
        Ok(Probed {
            encoder,
            digest: checkpoint::digest(path)?,
            train: Count { samples: train.len(), unlabelled: without },
            test: Count { samples: test.len(), unlabelled: test_without },
            accuracy,
            skipped,
        })
    }

    fn file(&self, encoders: Vec<Probed>) -> Results {
        let (data, digest) = (self.recipe.data.source.clone(), self.source.digest().to_string());
        let classes = self.source.classes().len();
        Results { sslmem: env!("CARGO_PKG_VERSION").into(), data, digest, classes, seed: self.seed, encoders }
    }
}

/// The results for people.
fn table(file: &Results) -> String {
    let mut out = String::new();
    for Probed { encoder, train, test, accuracy, skipped, .. } in &file.encoders {
        let count = |part: &Count| match part.unlabelled {
            0 => part.samples.to_string(),
            n => format!("{} ({n} without label left out)", part.samples),
        };
        out += &format!("{encoder}: {} training samples, {} test samples\n", count(train), count(test));
        let width = accuracy.iter().map(|a| a.protocol.chars().count()).max().unwrap_or(0);
        if let Some((id, reason)) = skipped.first() {
            out += &format!("  {} images could not be decoded and are left out (first: {id}: {reason})\n", skipped.len());
        }
        for a in accuracy {
            out += &format!("  {:width$}  top-1 {:6.2} %", a.protocol, 100.0 * a.top1);
            out += &a.top5.map(|top5| format!("  top-5 {:6.2} %", 100.0 * top5)).unwrap_or_default();
            out.push('\n');
        }
    }
    out
}
