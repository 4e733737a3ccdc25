//! `sslmem top`: the samples at both ends of a score table, as a list and as a page of thumbnails.

use std::path::PathBuf;

use clap::Args;

use super::args::{home, whole};
use super::{print, reserve, trust, warn};
use crate::data::OnBadImage;
use crate::error::{Error, Result, line};
use crate::manifest::{self, Manifest, Scored};
use crate::report::{Input, top};

/// Bad images on the page.
const SHOWN: usize = 200;

/// Show the most and the least memorised samples of a table
#[derive(Args)]
#[command(after_help = "Example:\n  sslmem top --scores scores.parquet --data folder:photos -k 50")]
pub struct Verb {
    /// Table of scores
    #[arg(long, value_name = "FILE")]
    scores: PathBuf,
    /// The data that was scored
    #[arg(long, value_name = "KIND:WHERE")]
    data: String,
    /// How many of each
    #[arg(short, value_name = "K", allow_negative_numbers = true, value_parser = whole::<usize>, default_value_t = 25)]
    k: usize,
    /// List the least memorised instead; the page shows both
    #[arg(long)]
    least: bool,
    /// Page to write [default: the table's name with .top.html]
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    /// Show a table that was changed since its manifest was written
    #[arg(long)]
    unverified: bool,
    /// Replace a page that exists
    #[arg(long)]
    force: bool,
}

pub fn run(verb: Verb) -> Result<()> {
    if verb.k == 0 {
        return Err(Error::config("-k is 0", "choose at least 1"));
    }
    let out = verb.out.unwrap_or_else(|| verb.scores.with_extension("top.html"));
    let _lock = reserve(&out, verb.force)?;
    let Scored { rows, manifest, note } = manifest::scored(&verb.scores, trust(verb.unverified))?;
    let exif = manifest.as_ref().map(Manifest::exif).unwrap_or_default();
    let source = exif.open(&home(&verb.data), OnBadImage::Fail)?;
    let ends = top::ends(&rows, verb.k);
    if let Some(row) =
        ends.0.iter().chain(&ends.1).find(|row| row.index as usize >= source.len() || source.id(row.index as usize) != row.id)
    {
        let what = format!("the table's sample {} is `{}`, which it is not in this data", row.index, row.id);
        return Err(Error::config(what, "name the data that was scored"));
    }
    let warnings = manifest.as_ref().map(Manifest::warnings).unwrap_or_default();
    warnings.iter().for_each(|text| warn(text));
    let (mut facts, skipped) = manifest.map(facts).unwrap_or_default();
    facts.extend(note.map(|note| ("note".to_string(), note)));
    let title = verb.scores.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (subtitle, curves, probes) = (String::new(), vec![], vec![]);
    let input = Input { title, subtitle, rows: &rows, source: None, curves, facts, truth: None, probes, skipped, warnings };
    top::write(&out, &input, verb.k, source.as_ref())?;
    let mut text = String::new();
    let listed = if verb.least { &ends.1 } else { &ends.0 };
    for (rank, row) in listed.iter().enumerate() {
        let class = row
            .label
            .and_then(|label| source.classes().get(label as usize))
            .map(|class| format!("  ({})", line(class.clone())))
            .unwrap_or_default();
        text += &format!("{:4}  score {:+.3}  delta {:+.4}  {}{class}\n", rank + 1, row.score, row.delta, line(row.id.clone()));
    }
    print(&format!("{text}{}\n", out.display()))
}

type Pairs = Vec<(String, String)>;

/// The facts of a manifest about its table, and the images left out.
pub fn facts(manifest: Manifest) -> (Pairs, Pairs) {
    let t = manifest.throughput;
    let mut facts = vec![
        ("sslmem".to_string(), manifest.sslmem),
        ("data".to_string(), format!("{} (BLAKE3 {})", manifest.data.name, manifest.data.digest)),
        ("device".to_string(), format!("{}, {} threads", manifest.device, t.threads)),
    ];
    facts.extend(manifest.encoders.into_iter().map(|e| (e.role, format!("{} (BLAKE3 {})", e.arch, e.digest))));
    facts.extend(manifest.layer.map(|layer| ("compared".to_string(), layer)));
    if t.samples > 0 {
        let what = format!(
            "{:.1} samples/s over {} samples; augmentation and encoders {:.1} s, waiting for images {:.1} s, decoding {:.1} s over all threads",
            t.per_second, t.samples, t.compute, t.wait, t.decode
        );
        facts.push(("throughput".to_string(), what));
    }
    let mut skipped = manifest.data.skipped;
    let more = skipped.len().saturating_sub(SHOWN);
    skipped.truncate(SHOWN);
    if more > 0 {
        skipped.push((format!("and {more} more"), "the manifest lists them".to_string()));
    }
    (facts, skipped)
}
