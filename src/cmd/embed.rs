//! `sslmem embed`: the features of every sample of a data set.

use std::path::PathBuf;

use clap::Args;

use super::args::{Flags, Images, Network, Origin, opened, whole};
use super::{Global, print, signals};
use crate::data::{OnBadImage, few_bad};
use crate::error::Result;
use crate::manifest::{DataFacts, Manifest};
use crate::score::{Embed, Embedding};
use crate::stage::{Existing, setting};

/// Write the features of every sample of a data set
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem embed --encoder resnet18.pth --normalize imagenet \\\n    --data folder:photos --out features.safetensors\n  sslmem embed --encoder vit/model.safetensors \\\n    --data folder:photos --out features.safetensors"
)]
pub struct Verb {
    /// Weights: safetensors, or a file of torch.save
    #[arg(long, value_name = "FILE", visible_alias = "weights")]
    encoder: PathBuf,
    /// File to write: `features` [samples, width] in the order of the data, f32. Beside it are written, with the endings .parquet and .json,
    /// which samples the rows are (index, id, label), and a manifest with what was left out
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Pooled features (a ViT's class token), their mean over places, or the whole map (all tokens)
    #[arg(long, value_name = "WHICH")]
    features: Option<String>,
    /// The whole output of a layer instead, such as layer4.1 or blocks.3
    #[arg(long, value_name = "NAME")]
    layer: Option<String>,
    /// Samples at a time; features do not depend on it
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<usize>)]
    batch: Option<usize>,
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

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().images(&verb.images).measuring(&verb.images).network(&verb.network).seed(global);
    let flags = flags.with("score.layer", &verb.layer);
    let device = global.device()?;
    let recipe = verb.origin.resolve_for(&verb.encoder, &flags.with("score.features", &verb.features).with("score.batch", &verb.batch))?;
    // Bad images are found during the pass, not by decoding everything first.
    let source = opened(&recipe, OnBadImage::Fail, global)?;
    let (side, on_bad) = (recipe.encoder_file(&verb.encoder)?, recipe.data.on_bad_image);
    let embedding = Embedding { side, layer: &recipe.layer(), source: source.as_ref(), batch: recipe.score.batch, device: &device, on_bad };
    let existing = if verb.force { Existing::Replace } else { Existing::Keep };
    let embed = Embed { embedding, out: &verb.out, settings: setting(&recipe)?, existing };
    signals::watch()?;
    let Manifest { data: DataFacts { skipped, .. }, rows, embeddings, .. } = embed.embed(global.progress().as_mut())?;
    let (arch, samples) = (side.network.encoder.name(), embed.samples_path());
    let width = embeddings.first().map_or(0, |file| file.width);
    let mut text = format!("{}: features of {arch}, {rows} samples x {width}; which they are: {}\n", verb.out.display(), samples.display());
    if let Some((id, reason)) = skipped.first() {
        text +=
            &format!("{} images could not be decoded and have no row (first: {id}: {reason}); the manifest lists them\n", skipped.len());
    }
    print(&text)?;
    few_bad(&verb.out, &skipped, rows + skipped.len(), recipe.data.max_bad)
}
