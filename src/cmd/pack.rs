//! `sslmem pack`: a data set as one file that is quick to read.

use std::path::PathBuf;

use clap::Args;

use super::args::{Flags, Images, Origin, open};
use super::{Global, print, reserve, signals};
use crate::data::few_bad;
use crate::data::pack::{self, Content};
use crate::error::{Result, line};
use crate::view::resized;

/// Put a data set into one file: decoded and resized once, or as its image files are
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem pack --data folder:imagenet --size 256 --out imagenet256.pack\n  sslmem pack --data 'webdataset:shards/{000..146}.tar' --original \\\n    --out imagenet.pack\n  sslmem train --data packed:imagenet256.pack --out runs/imagenet",
    group = clap::ArgGroup::new("content").required(true)
)]
pub struct Verb {
    /// File to write
    #[arg(long, value_name = "FILE.pack")]
    out: PathBuf,
    /// Keep pixels, the short side resized to N (bilinear, antialiased); reading them needs no decoder
    #[arg(long, value_name = "N", group = "content", value_parser = clap::value_parser!(u16).range(1..))]
    size: Option<u16>,
    /// Keep the image files as they are, which takes less room
    #[arg(long, group = "content")]
    original: bool,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    origin: Origin,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let recipe = verb.origin.resolve(&Flags::default().images(&verb.images))?;
    let _lock = reserve(&verb.out, verb.force)?;
    let source = open(&recipe, global)?;
    let content = match verb.size {
        Some(side) => Content::Pixels { side: side.into(), resize: &resized },
        None => Content::Files,
    };
    signals::watch()?;
    let bytes = pack::write(source.as_ref(), &verb.out, content, global.progress().as_mut())?;
    for (id, why) in source.skipped() {
        let id = line(id.clone());
        global.progress().line(&format!("left out {id}: {why}"));
    }
    let megabytes = bytes as f64 / 1e6;
    print(&format!("packed:{}: {} images, {megabytes:.1} MB\n", verb.out.display(), source.len()))?;
    few_bad(&verb.out, source.skipped(), source.len() + source.skipped().len(), recipe.data.max_bad)
}
