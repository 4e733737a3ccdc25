//! `sslmem run`: split, train, score and report in one folder.

use std::path::{Path, PathBuf};

use clap::Args;

use super::args::{Flags, Images, Length, Network, Origin};
use super::{Global, print, signals};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::manifest::{self, Trust};
use crate::run::Run;
use crate::split::{Split, Subset};
use crate::stats;
use crate::table::Row;

/// Do everything: split, train f and g, score, report
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem run --preset cifar_small --data cifar10:data/cifar10 \\\n    --out runs/small\n  sslmem run --recipe mine.toml --set pairs=3 --out runs/mine\n\nA run that was stopped goes on with the same command, or with `sslmem run --out DIR` alone. How it is scored can be changed afterwards, as in `sslmem run --out DIR --set score.views=20`; nothing is trained again."
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
    // The device first, so that a missing one leaves no files behind.
    let device = global.device()?;
    finish(open(&verb.out, &verb.origin, &flags, true, verb.split.as_deref(), device)?, global)
}

/// Completes a run and prints its results.
pub fn finish(run: Run, global: &Global) -> Result<()> {
    signals::watch()?;
    let page = run.everything(global.progress().as_mut())?;
    let rows = manifest::scored(&run.dir.join("scores.parquet"), Trust::Verified)?.rows;
    print(&format!("{}{}\n", means(&rows), page.display()))
}

/// The mean score of each subset of a table with its 95 % interval, a line each.
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

/// Opens the run in a folder, new or resumed. Without a preset or a recipe file, flags change the recipe in the folder.
pub fn open(dir: &Path, origin: &Origin, flags: &Flags, resume: bool, split: Option<&Path>, device: Device) -> Result<Run> {
    let started = dir.join("recipe.toml").exists();
    if started && !resume {
        drop(Run::lock(dir)?); // if another process works there, its error says more
        return Err(Error::config(
            format!("{} holds a run already", dir.display()),
            "go on with it with --resume, or choose another folder",
        ));
    }
    let given = split.map(Split::read).transpose()?;
    let own = started && origin.preset.is_empty() && origin.recipe.is_none();
    let recipe = if own { origin.over(Run::recipe(dir)?, flags)? } else { origin.resolve(flags)? };
    Run::open(recipe, dir, given, device)
}
