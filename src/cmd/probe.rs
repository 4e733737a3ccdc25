//! `sslmem probe`: how well frozen features tell the classes of a labelled data set apart.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::args::{Flags, Images, Network, Origin, opened};
use super::{Global, print, reserve, signals, warn};
use crate::checkpoint::Checkpoint;
use crate::data::{OnBadImage, few_bad};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::files;
use crate::probe::{Count, How, Job, Probed, Probing, Protocol, Results, vector};
use crate::progress::Progress;
use crate::run::Run;
use crate::stage::Stage;

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
    let (results, run) = match (&verb.run, &verb.weights) {
        (Some(dir), _) => {
            let run = Run::read(dir, device)?;
            run.warning().iter().for_each(|text| warn(text));
            let probing = run.probes(&how(&verb, global.seed.unwrap_or(run.recipe.seed)))?;
            probing.outputs().iter().try_for_each(files::check_writable)?;
            signals::watch()?;
            (probing.probe(progress.as_mut())?, Some(run))
        }
        (None, Some(path)) => (of_file(&verb, path, global, &device, progress.as_mut())?, None),
        (None, None) => return Err(Error::config("no encoder is named", "give --run RUN, or --weights FILE with --data")),
    };
    print(&table(&results))?;
    for Probed { encoder, train, test, skipped, .. } in &results.encoders {
        few_bad(encoder, skipped, train.samples + test.samples + skipped.len(), verb.images.max_bad.unwrap_or(0.01))?;
    }
    // If the run was scored, its report is written again with the accuracies.
    match run {
        Some(run) if run.dir.join("report.html").exists() => run.report().map(drop),
        _ => Ok(()),
    }
}

/// The settings from the flags.
fn how(verb: &Verb, seed: u64) -> How {
    let limit = |limit: Option<u32>| limit.map(|n| n as usize);
    let protocols = verb.protocol.iter().map(|name| name.protocol()).collect();
    How { protocols, limits: [limit(verb.limit_train), limit(verb.limit_test)], seed }
}

/// One encoder from a file, on any data set.
fn of_file(verb: &Verb, path: &Path, global: &Global, device: &Device, progress: &mut dyn Progress) -> Result<Results> {
    let flags = Flags::default().images(&verb.images).measuring(&verb.images).network(&verb.network).seed(global);
    let recipe = verb.origin.resolve_for(path, &flags)?;
    // Bad images are found during the pass, not by decoding everything first.
    let source = opened(&recipe, OnBadImage::Fail, global)?;
    let job = Job {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        side: recipe.encoder_file(path)?,
        layer: vector(recipe.score.features),
        source: &*source,
        samples: (0..source.train_len() as u32).collect(),
        method: Checkpoint::open(path)?.identify()?.facts.remove("method"),
        how: how(verb, recipe.seed),
        batch: recipe.score.batch,
        on_bad: recipe.data.on_bad_image,
        device,
    };
    signals::watch()?;
    Probing { jobs: vec![job], data: recipe.data.source.clone(), out: verb.out.clone() }.probe(progress)
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
