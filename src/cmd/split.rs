//! `sslmem split`: deal the samples of a data set to S_S, S_C, S_I and S_E.

use std::path::PathBuf;

use clap::Args;

use super::args::{Flags, Images, Origin, open};
use super::{Global, keep, print};
use crate::error::Result;
use crate::files;
use crate::split::{Split, Subset};

/// Decide which encoder sees which sample, and write it down
#[derive(Args)]
#[command(
    after_help = "Example:\n  sslmem split --data cifar10:data/cifar10 --shared 40000 --candidate 5000 --independent 5000 --out split.json"
)]
pub struct Verb {
    /// File to write
    #[arg(long, value_name = "FILE.json")]
    out: PathBuf,
    /// S_S, both encoders see it: a fraction (0.8) or a count (40000)
    #[arg(long, value_name = "SIZE")]
    shared: Option<String>,
    /// S_C, only f sees it
    #[arg(long, value_name = "SIZE")]
    candidate: Option<String>,
    /// S_I, only g sees it
    #[arg(long, value_name = "SIZE")]
    independent: Option<String>,
    /// S_E, nobody sees it; `candidates` is as many as S_C
    #[arg(long, value_name = "SIZE")]
    external: Option<String>,
    /// `ordered` by index as in the paper, or the seed of a random order
    #[arg(long, value_name = "SEED")]
    order: Option<String>,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    origin: Origin,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().images(&verb.images).seed(global);
    let flags = flags.with("split.shared", &verb.shared).with("split.candidate", &verb.candidate);
    let flags = flags.with("split.independent", &verb.independent).with("split.external", &verb.external);
    let recipe = verb.origin.resolve(&flags.with("split.order", &verb.order))?;
    keep(&verb.out, verb.force)?;
    files::check_writable(&verb.out)?;
    let source = open(&recipe, global)?;
    let split = Split::draw(source.as_ref(), &recipe.sizes(), recipe.how())?;
    split.write(&verb.out)?;
    let counts = Subset::ALL.map(|subset| format!("{} {}", subset.symbol(), split.subset(subset).len()));
    print(&format!("{}: {}\n", verb.out.display(), counts.join(", ")))
}
