//! `sslmem embed`: the features of every sample of a data set.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::args::{Flags, Images, Network, Origin, open, whole};
use super::{Global, keep, print};
use crate::error::{Error, Result};
use crate::files::{self, Writer};
use crate::score::{embed, features};

/// Write the features of every sample of a data set
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem embed --encoder resnet18.pth --normalize imagenet --data folder:photos --out features.safetensors\n  sslmem embed --encoder vit_small/model.safetensors --data folder:photos --out features.safetensors"
)]
pub struct Verb {
    /// Weights: safetensors, or a file of torch.save
    #[arg(long, value_name = "FILE", visible_alias = "weights")]
    encoder: PathBuf,
    /// File to write: `features` [samples, width] in the order of the data, f32
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
    let flags = Flags::default().images(&verb.images).network(&verb.network).seed(global);
    let flags = flags.with("score.layer", &verb.layer);
    let recipe = verb.origin.resolve_for(&verb.encoder, &flags.with("score.features", &verb.features).with("score.batch", &verb.batch))?;
    let device = global.device()?;
    keep(&verb.out, verb.force)?;
    files::check_writable(&verb.out)?;
    let source = open(&recipe, global)?;
    let mut out = Writer::create(&verb.out)?;
    let path = out.path().to_path_buf();
    // The header holds the width, which the first samples tell.
    let mut known = None;
    let (protocol, side) = (recipe.protocol(), recipe.side(&verb.encoder)?);
    let mut progress = global.progress();
    progress.line(&side.describe("encoder"));
    embed(side, &protocol, source.as_ref(), &device, progress.as_mut(), |values, width| {
        if known.replace(width).is_none() {
            let head = features::head(source.len(), width, source.digest(), side.network.encoder.name());
            out.write_all(&head).map_err(Error::io("write", &path))?;
        }
        out.write_all(bytemuck::cast_slice(values)).map_err(Error::io("write", &path))
    })?;
    out.commit()?;
    let (arch, width) = (side.network.encoder.name(), known.unwrap_or(0));
    print(&format!("{}: features of {arch}, {} samples x {width}\n", verb.out.display(), source.len()))
}
