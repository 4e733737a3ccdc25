//! `sslmem report`: the report of a table of scores.

use std::path::PathBuf;

use clap::Args;

use super::args::home;
use super::top::facts;
use super::{print, reserve, trust, warn};
use crate::data::OnBadImage;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest, Scored};
use crate::report::{Input, write};
use crate::run::Run;

/// Write the report of a run or of a table: one HTML file, and its figures beside it
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sslmem report runs/demo\n  sslmem report scores.csv --data cifar10:data/cifar10 \\\n    --out page.html"
)]
pub struct Verb {
    /// Folder of a run, or a table of scores
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Page to write, for a table [default: the table's name with .html]; its figures go to a folder of its name with .figures
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Images for the galleries, for a table [default: no galleries]
    #[arg(long, value_name = "KIND:WHERE")]
    data: Option<String>,
    /// Show a table that was changed since its manifest was written
    #[arg(long)]
    unverified: bool,
    /// Replace a page that exists, for a table
    #[arg(long)]
    force: bool,
}

pub fn run(verb: Verb) -> Result<()> {
    if !verb.run.exists() {
        return Err(Error::config(format!("there is no {}", verb.run.display()), "name the folder of a run, or a table of scores"));
    }
    let page = if verb.run.is_file() {
        of_table(&verb)?
    } else if verb.out.is_some() || verb.data.is_some() {
        let what = format!("{} is no table, and the report of a run has its images and its place", verb.run.display());
        return Err(Error::config(what, "leave --out and --data out, or name a table such as RUN/scores.parquet"));
    } else {
        let run = Run::read(&verb.run, Device::Cpu)?;
        run.warning().iter().for_each(|text| warn(text));
        run.report()?
    };
    print(&format!("{}\n", page.display()))
}

fn of_table(verb: &Verb) -> Result<PathBuf> {
    let out = verb.out.clone().unwrap_or_else(|| verb.run.with_extension("html"));
    let _lock = reserve(&out, verb.force)?;
    let Scored { rows, manifest, note } = manifest::scored(&verb.run, trust(verb.unverified))?;
    let exif = manifest.as_ref().map(Manifest::exif).unwrap_or_default();
    let warnings = manifest.as_ref().map(Manifest::warnings).unwrap_or_default();
    warnings.iter().for_each(|text| warn(text));
    let (mut facts, skipped) = manifest.map(facts).unwrap_or_default();
    facts.extend(note.map(|note| ("note".to_string(), note)));
    let source = verb.data.as_ref().map(|spec| exif.open(&home(spec), OnBadImage::Fail)).transpose()?;
    if let Some(source) = &source
        && let Some(row) = rows.iter().find(|row| row.index as usize >= source.len() || source.id(row.index as usize) != row.id)
    {
        let what = format!("the table's sample {} is `{}`, which it is not in this data", row.index, row.id);
        return Err(Error::config(what, "name the data that was scored"));
    }
    let name = verb.run.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let input = Input {
        title: "SSLMem".into(),
        subtitle: name,
        rows: &rows,
        source: source.as_deref(),
        curves: vec![],
        facts,
        truth: source
            .as_ref()
            .and_then(|s| rows.iter().map(|row| s.truth(row.index as usize).map(|kind| kind.name().to_string())).collect()),
        probes: vec![],
        skipped,
        warnings,
    };
    write(&out, &input)?;
    Ok(out)
}
