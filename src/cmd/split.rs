//! `sslmem split`: deal the samples of a data set to S_S, S_C, S_I and S_E.

use std::path::PathBuf;

use clap::Args;

use super::args::{Flags, Images, Origin, open};
use super::{Global, print, reserve};
use crate::data::Source;
use crate::error::Result;
use crate::split::{How, Split, Subset};

/// Decide which encoder sees which sample, and write it down
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem split --data folder:photos --out split.json\n  sslmem split --data cifar10:data/cifar10 --shared 40000 \\\n    --candidate 5000 --independent 5000 --out split.json"
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
    /// `ordered` by index as in the paper, `stratified` (each class's share in each subset, at random by --seed), or the seed
    /// of a random order [default: ordered for data sets with a name, stratified for folders and other files of one's own]
    #[arg(long, value_name = "HOW")]
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
    let _lock = reserve(&verb.out, verb.force)?;
    let source = open(&recipe, global)?;
    let split = Split::draw(source.as_ref(), &recipe.sizes(), recipe.how())?;
    split.write(&verb.out)?;
    print(&format!("{}: {}\n", verb.out.display(), dealt(&split, source.as_ref())))
}

/// The sizes of the subsets, how they were drawn, and the number of samples in none.
pub fn dealt(split: &Split, source: &dyn Source) -> String {
    let counts = Subset::ALL.map(|subset| format!("{} {}", subset.symbol(), split.subset(subset).len()));
    let how = match split.how {
        How::Ordered => "in the order of the data".to_string(),
        How::Seeded(seed) => format!("at random by seed {seed}"),
        How::Stratified(seed) => format!("each class's share at random by seed {seed}"),
    };
    let left = match split.left_out(source) {
        0 => String::new(),
        n => format!("; {n} of {} samples in no subset", source.len()),
    };
    format!("{}, {how}{left}", counts.join(", "))
}
