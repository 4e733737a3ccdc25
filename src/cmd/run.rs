//! `sslmem run`: split, train, score and report in one folder.

use std::path::{Path, PathBuf};

use clap::Args;

use super::args::{Flags, Images, Length, Network, Origin};
use super::{Global, print};
use crate::error::{Error, Result};
use crate::run::Run;
use crate::split::{Split, Subset};
use crate::stats;
use crate::table::{self, Row};

/// Do everything: split, train f and g, score, report
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem run --preset cifar_small --data cifar10:data/cifar10 \\\n    --out runs/small\n  sslmem run --recipe mine.toml --set pairs=3 --out runs/mine\n\nA run that was stopped goes on with the same command, or with `sslmem run --out DIR` alone."
)]
pub struct Verb {
    /// Folder for everything that is made
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Split to use [default: one drawn as the recipe says]
    #[arg(long, value_name = "FILE.json")]
    split: Option<PathBuf>,
    #[command(flatten)]
    images: Images,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    length: Length,
    #[command(flatten)]
    origin: Origin,
}

pub fn run(verb: Verb, global: &Global) -> Result<()> {
    let flags = Flags::default().images(&verb.images).network(&verb.network).length(&verb.length).seed(global);
    // The device first: without it nothing is begun.
    let device = global.device()?;
    if let Some(split) = &verb.split {
        take(split, &verb.out)?;
    }
    finish(Run { device, ..open(&verb.out, &verb.origin, &flags, true)? }, global)
}

/// Everything of a run, and what came of it on standard output.
pub fn finish(run: Run, global: &Global) -> Result<()> {
    let page = run.everything(global.progress().as_mut())?;
    let rows = table::read(run.dir.join("scores.parquet"))?;
    print(&format!("{}{}\n", means(&rows), page.display()))
}

/// The mean score of each subset of a table with its interval, a line each.
pub fn means(rows: &[Row]) -> String {
    let dealt = rows.iter().any(|row| row.subset != Subset::Candidate);
    let mut out = String::new();
    for subset in Subset::ALL {
        if let Some(s) = stats::summary(&stats::values(rows, subset, |row| row.score)) {
            out += &format!("{}  {:6} samples  mean score {:+.3}", subset.symbol(), s.n, s.mean);
            out += &s.interval.map(|[low, high]| format!("  [{low:+.3}, {high:+.3}]")).unwrap_or_default();
            out += if dealt { "\n" } else { "  (all taken as candidates: no split)\n" };
        }
    }
    out
}

/// The run in a folder, new or taken up. Without a word about the recipe the one in the folder counts.
pub fn open(dir: &Path, origin: &Origin, flags: &Flags, resume: bool) -> Result<Run> {
    let started = dir.join("recipe.toml").exists();
    if started && !resume {
        drop(Run::lock(dir)?); // who is at work there is better to know
        return Err(Error::config(
            format!("{} holds a run already", dir.display()),
            "go on with it with --resume, or choose another folder",
        ));
    }
    if started && origin.is_empty() && flags.is_empty() {
        return Run::read(dir);
    }
    Run::open(origin.resolve(flags)?, dir)
}

/// Makes a split that was given the split of the run in `dir`.
pub fn take(given: &Path, dir: &Path) -> Result<()> {
    let (split, kept) = (Split::read(given)?, dir.join("split.json"));
    let _lock = Run::lock(dir)?;
    if kept.exists() && Split::read(&kept)? != split {
        return Err(Error::config(format!("{} holds a run with another split", dir.display()), "choose another folder with --out"));
    }
    split.write(&kept)
}
