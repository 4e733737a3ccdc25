//! `sslmem score`: the alignment of f and g on the same views of the same samples.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::args::{Flags, Images, Network, Origin, open};
use super::encoder::{Said, side};
use super::{Global, keep};
use crate::error::Result;
use crate::manifest::{self, EncoderFacts, Manifest};
use crate::score::{Side, score};
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
    /// Table to write, Parquet or CSV by its ending; a manifest is written beside it
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
    /// What is compared: pooled features (a ViT's class token), their mean over places, or the whole map (all tokens)
    #[arg(long, value_name = "WHICH", help_heading = "Scoring")]
    features: Option<String>,
    /// Compare the whole output of a layer instead, such as layer4.1 or blocks.3
    #[arg(long, value_name = "NAME", help_heading = "Scoring")]
    layer: Option<String>,
    /// Kind of views (see `sslmem show policies`)
    #[arg(long, value_name = "NAME", help_heading = "Scoring")]
    view: Option<String>,
    /// Samples at a time; scores do not depend on it
    #[arg(long, value_name = "N", help_heading = "Scoring")]
    batch: Option<usize>,
    /// Replace a table that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    origin: Origin,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().file(&verb.f).images(&verb.images).network(&verb.network).seed(global);
    let flags = flags.with("score.views", &verb.views).with("score.pairs", &verb.pairs).with("score.features", &verb.features);
    let flags = flags.with("score.layer", &verb.layer);
    let recipe = verb.origin.resolve(&flags.with("score.view", &verb.view).with("score.batch", &verb.batch))?;
    let device = global.device()?;
    keep(&verb.out, verb.force)?;
    keep(&Manifest::path(&verb.out), verb.force)?;
    table::Format::of(&verb.out)?;
    files::check_writable(&verb.out)?;
    let source = open(&recipe)?;
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
    let start = Instant::now();
    let mut rows = score(f, g, &recipe.protocol()?, source.as_ref(), &samples, &device, global.progress().as_mut())?;
    table::finish(&mut rows);
    let facts = |role: &str, side: Side| EncoderFacts::of(role, side.network.encoder.name(), side.path);
    let encoders = vec![facts("f", f)?, facts("g", g)?];
    manifest::publish(&verb.out, &rows, source.as_ref(), encoders, &recipe, &device, start)
}
