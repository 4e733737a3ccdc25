//! `sslmem merge`: the tables of all shards of a scoring job, as one.

use std::path::PathBuf;

use clap::Args;

use super::Global;
use super::score::say;
use crate::data::few_bad;
use crate::error::Result;
use crate::score::merge;

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
    /// Share of bad images above which the exit status is 1, with everything kept
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    max_bad: f64,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let done = merge(&verb.out, &verb.shards, verb.force, global.progress().as_mut())?;
    say(&done)?;
    few_bad(&verb.out, &done.skipped, done.rows as usize + done.skipped.len(), verb.max_bad)
}
