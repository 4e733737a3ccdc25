//! `sslmem score`: the alignment of f and g on the same views of the same samples.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args::{Flags, Images, Network, Origin};
use super::encoder::{Said, side};
use super::{Global, print, signals};
use crate::data::{OnBadImage, few_bad};
use crate::error::{Error, Result};
use crate::manifest::EncoderFacts;
use crate::score::{CLOSE, Done, Existing, Job, Layer, Shard, Side, Task};
use crate::split::{Split, Subset};
use crate::{files, table};

/// Score every sample with a pair of encoders
#[derive(Args)]
#[command(
    after_help = "Example:\n  sslmem score --f f.safetensors --g g.safetensors --data cifar10:data/cifar10 --split split.json --out scores.parquet"
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
    #[arg(long, value_name = "K", help_heading = "Scoring")]
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
    #[arg(long, value_name = "N", help_heading = "Scoring")]
    batch: Option<usize>,
    /// Score only share I of N of the samples (`sslmem merge` puts the tables together); auto: as the cluster says
    #[arg(long, value_name = "I/N", help_heading = "Scoring")]
    shard: Option<Shard>,
    /// Write the features of the images themselves, too, for f and g: OUT with the ending .f.safetensors and .g.safetensors, as `sslmem
    /// embed` writes them, in the order of the table's rows. Images are not decoded again; each encoder sees one more view beside the K
    /// (none more with --pairs original, where it sees the image anyway)
    #[arg(long, value_enum, value_name = "WHAT")]
    also: Option<Also>,
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

#[derive(Clone, Copy, ValueEnum)]
enum Also {
    Embeddings,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().file(&verb.f).images(&verb.images).network(&verb.network).seed(global);
    let flags = flags.with("score.views", &verb.views).with("score.pairs", &verb.pairs);
    let flags = match &verb.layers[..] {
        [one] => match Layer::of(one) {
            Layer::Output(_) => flags.with("score.features", &Some(one)).with("score.layer", &Some("")),
            Layer::Inner(_) => flags.with("score.layer", &Some(one)),
        },
        _ => flags,
    };
    let flags = flags.measuring(&verb.images).with("score.view", &verb.view).with("score.batch", &verb.batch);
    let recipe = verb.origin.resolve(&flags)?;
    let device = global.device()?;
    table::Format::of(&verb.out)?;
    files::check_writable(&verb.out)?;
    // Bad images are found as they are scored, not by decoding everything before.
    let source = recipe.data.exif.open(&recipe.data.source, OnBadImage::Fail)?;
    let samples = match &verb.split {
        None => (0..source.len() as u32).map(|index| (index, Subset::Candidate)).collect(),
        Some(path) => {
            let split = Split::read(path)?;
            split.check(source.as_ref())?;
            let of = |subset: Subset| split.subset(subset).iter().map(move |&index| (index, subset));
            Subset::ALL.into_iter().flat_map(of).collect::<Vec<_>>()
        }
    };
    let said = Said::of(&verb.network, &verb.origin);
    let [f, g] = [side(&recipe, &said, &verb.f)?, side(&recipe, &said, &verb.g)?];
    let protocol = recipe.protocol()?;
    let layers = if verb.layers.len() > 1 { verb.layers.iter().map(|name| Layer::of(name)).collect() } else { vec![protocol.compared()] };
    let facts = |role: &str, side: Side| EncoderFacts::of(role, side.network.encoder.name(), side.path);
    let job = Job {
        task: Task {
            f,
            g,
            protocol: &protocol,
            layers: &layers,
            source: source.as_ref(),
            device: &device,
            on_bad: recipe.data.on_bad_image,
            features: matches!(verb.also, Some(Also::Embeddings)),
        },
        samples: &samples,
        shard: verb.shard,
        out: &verb.out,
        encoders: vec![facts("f", f)?, facts("g", g)?],
        settings: serde_json::to_value(&recipe).map_err(|e| Error::format(&verb.out, format!("its recipe cannot be written ({e})")))?,
        existing: if verb.force { Existing::Replace } else { Existing::Keep },
        close: CLOSE,
    };
    signals::watch()?;
    let done = job.run(global.progress().as_mut())?;
    say(&done)?;
    few_bad(&verb.out, &done.skipped, done.rows as usize + done.skipped.len(), recipe.data.max_bad)
}

/// Where the tables are, and what is not in them.
pub fn say(done: &Done) -> Result<()> {
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
        text += &format!(
            "{} images could not be decoded and have no row (first: {id}: {reason}); the manifest lists them\n",
            done.skipped.len()
        );
    }
    text += &done.notes.iter().map(|note| format!("note: {note}\n")).collect::<String>();
    print(&text)
}
