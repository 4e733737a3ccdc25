//! `sslmem merge`: the tables of all shards of a scoring job, as one.

use std::path::PathBuf;

use clap::Args;

use super::keep;
use super::score::say;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::score::{features, merge};

/// Put the score tables of all shards together
#[derive(Args)]
#[command(after_help = "Example:\n  sslmem merge scores.parquet scores.*-of-8.parquet")]
pub struct Verb {
    /// Table to write, Parquet, CSV or NPY by its ending; a manifest is written beside it
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Tables of all shards, in any order
    #[arg(value_name = "SHARD", required = true)]
    shards: Vec<PathBuf>,
    /// Replace a table that exists
    #[arg(long)]
    force: bool,
}

pub fn run(verb: Verb) -> Result<()> {
    keep(&verb.out, verb.force)?;
    keep(&Manifest::path(&verb.out), verb.force)?;
    let first = verb.shards.first().and_then(|shard| Manifest::read(shard).ok());
    for embeddings in first.map(|manifest| manifest.embeddings).unwrap_or_default() {
        keep(&features::path(&verb.out, &embeddings.role), verb.force)?;
    }
    say(&merge(&verb.out, &verb.shards)?)
}
