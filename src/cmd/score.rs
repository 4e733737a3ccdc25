//! `sslmem score`: the alignment of f and g on the same views of the same samples.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::args::{Flags, Images, Network, Origin, opened, whole};
use super::run::means;
use super::{Global, print, signals, warn};
use crate::data::{OnBadImage, few_bad};
use crate::error::{Error, Result, line};
use crate::manifest::{self, Manifest};
use crate::score::{Job, JobReport, Layer, Shard, Task, classifier};
use crate::split::{Split, Subset};
use crate::stage::Existing;
use crate::{files, table};

/// Score every sample with a pair of encoders
#[derive(Args)]
#[command(
    after_help = "Example:\n  sslmem score --f f.safetensors --g g.safetensors \\\n    --data cifar10:data/cifar10 --split split.json --out scores.parquet"
)]
pub struct Verb {
    /// Weights of f, the encoder that saw the candidates
    #[arg(long, value_name = "FILE")]
    f: PathBuf,
    /// Weights of g, which did not
    #[arg(long, value_name = "FILE")]
    g: PathBuf,
    /// Table to write, Parquet, CSV or NPY by its ending; a manifest is written beside it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which sample belongs to which subset; without it all are candidates
    #[arg(long, value_name = "FILE.json")]
    split: Option<PathBuf>,
    /// Augmented views of each sample
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = whole::<usize>, help_heading = "Scoring")]
    views: Option<usize>,
    /// Which views are compared: all pairs (Eq. 1) or the original with each (the released code)
    #[arg(long, value_name = "WHICH", help_heading = "Scoring")]
    pairs: Option<String>,
    /// What is compared: pooled features (a ViT's class token), their mean over places, the whole map (all tokens), or the
    /// whole output of layers such as layer4.1 or blocks.3. Several are scored in one pass, each into a table of its name
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', visible_aliases = ["features", "layer"], help_heading = "Scoring")]
    layers: Vec<String>,
    /// Kind of views (see `sslmem show policies`)
    #[arg(long, value_name = "NAME", help_heading = "Scoring")]
    view: Option<String>,
    /// Samples at a time; scores do not depend on it
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>, help_heading = "Scoring")]
    batch: Option<usize>,
    /// Score only share I of N of the samples (`sslmem merge` puts the tables together); auto: as the cluster says
    #[arg(long, value_name = "I/N", help_heading = "Scoring")]
    shard: Option<Shard>,
    /// Write the features of the images themselves, too, for f and g: OUT with the ending .f.safetensors and .g.safetensors, as `sslmem
    /// embed` writes them, in the order of the table's rows. Images are not decoded again; each encoder sees one more view beside the K
    /// (none more with --pairs original, where it sees the image anyway)
    #[arg(long, value_enum, value_name = "WHAT")]
    also: Option<Also>,
    /// What is measured besides the alignment. confidence: the probability that the classifier of f and of g gives the class of the un-augmented
    /// image; for encoders of `sslmem train --method supervised`, with the file of their heads beside them
    #[arg(long, value_enum, value_name = "NAME,...", value_delimiter = ',', help_heading = "Scoring")]
    measure: Vec<Measure>,
    /// Replace a table that exists, or a job that was begun in its place
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Measure {
    /// What every table has
    Alignment,
    Confidence,
}

#[derive(Clone, Copy, ValueEnum)]
enum Also {
    Embeddings,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().images(&verb.images).network(&verb.network).seed(global);
    let flags = flags.with("score.views", &verb.views).with("score.pairs", &verb.pairs);
    let twice = |set: &&String| ["score.layer", "score.features"].contains(&set.split('=').next().unwrap_or("").trim());
    if let Some(set) = verb.origin.set.iter().find(twice).filter(|_| !verb.layers.is_empty()) {
        return Err(Error::config(format!("--layers and --set {set} both say what is compared"), "leave one of them out"));
    }
    let flags = match &verb.layers[..] {
        [one] => match Layer::of(one) {
            Layer::Output(_) => flags.with("score.features", &Some(one)).with("score.layer", &Some("")),
            Layer::Inner(_) => flags.with("score.layer", &Some(one)),
        },
        _ => flags,
    };
    let flags = flags.measuring(&verb.images).with("score.view", &verb.view).with("score.batch", &verb.batch);
    let device = global.device()?;
    table::Format::of(&verb.out)?;
    files::check_writable(&verb.out)?;
    let split = verb.split.as_deref().map(|path| Ok((path, Split::read(path)?))).transpose()?;
    let recipe = verb.origin.resolve_for(&verb.f, &flags)?;
    // Bad images are found during the pass, not by decoding everything first.
    let source = opened(&recipe, OnBadImage::Fail, global)?;
    let samples = match &split {
        None => (0..source.len() as u32).map(|index| (index, Subset::Candidate)).collect(),
        Some((path, split)) => {
            split.check(source.as_ref()).map_err(|error| error.of(path))?;
            split.samples()
        }
    };
    let [mut f, mut g] = [recipe.encoder_file(&verb.f)?, verb.origin.resolve_for(&verb.g, &flags)?.encoder_file(&verb.g)?];
    if verb.measure.contains(&Measure::Confidence) {
        for side in [&mut f, &mut g] {
            side.classifier = Some(classifier(side.path, source.as_ref())?);
        }
    }
    let mut protocol = recipe.protocol();
    if verb.layers.len() > 1 {
        protocol.layers = verb.layers.iter().map(|name| Layer::of(name)).collect();
    }
    let features = matches!(verb.also, Some(Also::Embeddings));
    let task = Task { device: &device, on_bad: recipe.data.on_bad_image, features, ..Task::new(f, g, &protocol, source.as_ref()) };
    let existing = if verb.force { Existing::Replace } else { Existing::Keep };
    let job = Job { shard: verb.shard, existing, ..Job::new(task, &samples, &verb.out, recipe.scoring()?)? };
    manifest::same_weights(&job.encoders).iter().for_each(|text| warn(text));
    signals::watch()?;
    let done = job.score(global.progress().as_mut())?;
    say(&done)?;
    few_bad(&verb.out, &done.skipped, done.rows as usize + done.skipped.len(), recipe.data.max_bad)
}

/// The summary: paths of the tables, encoders, results, and images left out.
pub fn say(done: &JobReport) -> Result<()> {
    let mut text = String::new();
    for table in &done.tables {
        let before = if done.before { ", scored before" } else { "" };
        text += &format!("{}: {} samples{before}\n", table.display(), done.rows);
    }
    for path in &done.embeddings {
        text += &format!("{}: features, row for row\n", path.display());
    }
    if !done.skipped.is_empty() {
        let (id, reason) = &done.skipped[0];
        let id = line(id.clone());
        text += &format!(
            "{} images could not be decoded and have no row (first: {id}: {reason}); the manifest lists them\n",
            done.skipped.len()
        );
    }
    text += &done.notes.iter().map(|note| format!("note: {note}\n")).collect::<String>();
    if let Some((table, manifest)) = done.tables.first().and_then(|table| Some((table, Manifest::read(table).ok()?))) {
        text += &format!("{}\n", recognised(&manifest));
        let at = |place: &str| manifest.settings.pointer(place).and_then(Value::as_str);
        if manifest.job.as_ref().is_some_and(|job| !job["shard"].is_null()) {
            text += "next, when all shards are scored: sslmem merge OUT SHARD...\n";
        } else if let Ok(rows) = table::read(table) {
            text += &means(&rows);
            let data = at("/data/source").map_or("DATA".into(), quoted);
            text += &format!("next: sslmem top --scores {} --data {data}\n", quoted(&table.display().to_string()));
        }
    }
    print(&text)
}

/// One line each about the encoders, their images, and the comparison.
fn recognised(manifest: &Manifest) -> String {
    let encoders: Vec<String> = manifest.encoders.iter().map(|e| format!("{}: {}, sees {}\n", e.role, e.network, e.sees)).collect();
    let at = |place: &str| manifest.settings.pointer(place).map(|v| v.as_str().map_or(v.to_string(), str::to_string));
    let parts = [
        at("/score/views").map(|k| format!("{k} views")),
        at("/score/pairs").map(|pairs| format!("pairs {pairs}")),
        manifest.layer.clone(),
    ];
    encoders.concat() + &parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The text quoted as one word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@+=".contains(c);
    if word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
