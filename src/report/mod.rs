//! The report of a run: one self-contained HTML file, and its figures as files beside it.

mod figures;
mod gallery;
mod html;
mod svg;
mod tables;
pub mod top;

use std::path::Path;

use crate::data::Source;
use crate::error::{Error, Result};
use crate::files;
use crate::table::Row;
pub use crate::train::Point;

/// Inputs of a report.
pub struct Input<'a> {
    pub title: String,
    pub subtitle: String,
    pub rows: &'a [Row],
    /// Source of the galleries' images; without it there are no galleries.
    pub source: Option<&'a dyn Source>,
    pub curves: Vec<Curve>,
    /// Facts of the run (recipe, digests, versions): names and values, printed unchanged.
    pub facts: Vec<(String, String)>,
    /// Kind of each row's image, if known: `common`, `rare`, `atypical`.
    pub truth: Option<Vec<String>>,
    /// Accuracies of probes.
    pub probes: Vec<Probes>,
    /// Images left out of the data set: (path, reason).
    pub skipped: Vec<(String, String)>,
    /// Reasons why the numbers mean nothing, each a sentence without its full stop.
    pub warnings: Vec<String>,
}

/// Probes of one encoder, each with its accuracy.
pub struct Probes {
    pub encoder: String,
    pub found: Vec<(String, f64)>,
}

/// The training of one encoder. The name starts with f or g: `f`, `g`, `f pair 2`.
pub struct Curve {
    pub name: String,
    pub points: Vec<Point>,
}

/// Writes the page to `out` (`NAME.html`) and the figures that have data, `{histogram,scatter,curves}.svg` and `{most,least}.png`, to the
/// folder `NAME.figures` beside it. Every file is whole or absent; the page is written last.
///
/// # Errors
/// A table without rows, a `truth` of another length, or a folder that cannot be written. An image that cannot be
/// decoded is no error: its tile says why.
pub fn write(out: &Path, input: &Input) -> Result<()> {
    if input.rows.is_empty() {
        return Err(Error::config("the score table has no rows, so there is nothing to report", "score at least one sample"));
    }
    if let Some(truth) = input.truth.as_ref().filter(|t| t.len() != input.rows.len()) {
        let what = format!("{} kinds of images are given for {} scored rows", truth.len(), input.rows.len());
        return Err(Error::config(what, "give one for every row, or none"));
    }
    let folder = out.with_extension("figures");
    files::create_dir(&folder)?;
    files::remove_unfinished(&folder)?;

    let histogram = figures::histogram(input.rows, 880.0);
    let scatter = figures::scatter(input.rows);
    let drawings = [
        ("histogram.svg", "Histogram of the SSLMem score per subset", histogram.as_ref()),
        ("scatter.svg", "Alignment loss of g against f for the candidates", scatter.as_ref().map(|s| &s.svg)),
        ("curves.svg", "Training curves", figures::curves(&input.curves).as_ref()),
    ]
    .map(|(name, label, svg)| (name, svg.map(|s| s.file(label))));
    for (name, text) in &drawings {
        figure(&folder.join(name), text.as_ref().map(String::as_bytes))?;
    }
    let galleries = input.source.map(|source| {
        let (most, least) = gallery::ends(input.rows);
        [gallery::tiles(&most, source), gallery::tiles(&least, source)]
    });
    for (i, name) in ["most.png", "least.png"].into_iter().enumerate() {
        let tiles = galleries.as_ref().map(|g| &g[i]).filter(|tiles| !tiles.is_empty());
        let png = tiles.map(|tiles| gallery::png(&gallery::sheet(tiles)));
        figure(&folder.join(name), png.as_deref())?;
    }
    files::write_whole(out, html::page(input, histogram, scatter, galleries).as_bytes())
}

/// Write a figure, or remove that of an earlier report if there is nothing to show now.
fn figure(path: &Path, bytes: Option<&[u8]>) -> Result<()> {
    match bytes {
        Some(bytes) => files::write_whole(path, bytes),
        None if files::exists(path)? => std::fs::remove_file(path).map_err(Error::io("remove", path)),
        None => Ok(()),
    }
}
