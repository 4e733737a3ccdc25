//! The score table: one row per scored sample.

mod csv;
mod npy;
mod parquet;
mod writer;

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::Writer;
use crate::split::Subset;

pub use writer::TableWriter;

/// Identity of a row's sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Position in the data set.
    pub index: u32,
    pub id: String,
    pub label: Option<u32>,
}

/// The scores of one sample. Distances are between unit vectors, so they lie in [0, 2].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Position in the data set.
    pub index: u32,
    pub id: String,
    pub label: Option<u32>,
    pub subset: Subset,
    /// Alignment loss of f, Eq. 1: mean distance between the representations of views.
    pub align_f: f64,
    pub align_g: f64,
    /// align_g - align_f, Eq. 2.
    pub delta: f64,
    /// delta over the range (max - min) of delta over the candidates: the paper's SSLMem. NaN without candidates.
    pub score: f64,
    /// (g - f) / (g + f), the form of the follow-up paper (LayerMem).
    pub relative: f64,
    /// delta minus its mean over S_E, the samples that neither encoder saw. NaN without S_E.
    pub calibrated: f64,
    /// Standard error of delta over the draw of the views (`score::standard_error`) or, for several pairs of encoders, over the pairs.
    pub stderr: f64,
    /// Further columns in the order of [`More`], the same in all rows of a table. NaN: not known.
    pub more: Vec<(More, f64)>,
}

/// Optional columns of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum More {
    ConfidenceF,
    ConfidenceG,
}

impl More {
    /// All, in the order of a table's columns.
    pub const ALL: [More; 2] = [More::ConfidenceF, More::ConfidenceG];

    pub fn name(self) -> &'static str {
        match self {
            More::ConfidenceF => "confidence_f",
            More::ConfidenceG => "confidence_g",
        }
    }
    pub fn meaning(self) -> &'static str {
        match self {
            More::ConfidenceF => "probability that the classifier of f gives the class of the un-augmented image; empty without a class",
            More::ConfidenceG => "the same of g: confidence_f - confidence_g is label memorization (Feldman and Zhang 2020) of one pair",
        }
    }
}

/// The names and meanings of a table's columns, in order.
pub fn columns(more: &[More]) -> Vec<(&'static str, &'static str)> {
    COLUMNS.into_iter().zip(MEANINGS).chain(more.iter().map(|m| (m.name(), m.meaning()))).collect()
}

/// The columns that every table file has, in order.
pub const COLUMNS: [&str; 11] =
    ["index", "id", "label", "subset", "align_f", "align_g", "delta", "score", "relative", "calibrated", "stderr"];

/// Meanings of the columns, in their order.
pub const MEANINGS: [&str; 11] = [
    "position of the sample in its data set, from 0",
    "name of the sample: the path below the folder, or where it stands in its file",
    "class of the sample; empty (-1 in NPY) where it has none",
    "S_C: only f was trained on it (a candidate), S_S: both were, S_I: only g was, S_E: neither was; without a split all are S_C",
    "alignment loss of f: mean l2 distance between the unit-length features of pairs of views, 0 to 2",
    "alignment loss of g",
    "align_g - align_f; positive: memorised by f",
    "delta over its range (largest minus smallest) among the candidates: SSLMem as in the paper",
    "(align_g - align_f) / (align_g + align_f)",
    "delta minus its mean over S_E; empty without S_E",
    "standard error of delta over the random views, or over the pairs of encoders where there are several; empty where it cannot be told",
];

impl Row {
    /// A sample with its alignment losses and the standard error of their difference; [`finish`] computes the rest.
    pub fn measured(index: u32, id: String, label: Option<u32>, subset: Subset, [align_f, align_g, stderr]: [f64; 3]) -> Row {
        let (delta, score, relative, calibrated) = (0.0, f64::NAN, 0.0, f64::NAN);
        Row { index, id, label, subset, align_f, align_g, delta, score, relative, calibrated, stderr, more: vec![] }
    }
    /// The columns from `align_f` on, in order. NaN stands for "not known".
    pub fn numbers(&self) -> [f64; 7] {
        [self.align_f, self.align_g, self.delta, self.score, self.relative, self.calibrated, self.stderr]
    }

    /// The value of an optional column; NaN if unknown.
    pub fn get(&self, column: More) -> f64 {
        self.more.iter().find(|(more, _)| *more == column).map_or(f64::NAN, |(_, value)| *value)
    }

    fn with_numbers(&self, numbers: [f64; 7]) -> Row {
        let [align_f, align_g, delta, score, relative, calibrated, stderr] = numbers;
        Row { align_f, align_g, delta, score, relative, calibrated, stderr, ..self.clone() }
    }
}

/// Computes `delta`, `score`, `relative` and `calibrated` of every row from `align_f` and `align_g`.
///
/// `score` is 0 when the candidates' range is 0 and NaN when there are no candidates; `calibrated` is NaN
/// when there are no external samples to calibrate with. `stderr` stays as it is.
pub fn finish(rows: &mut [Row]) {
    let mut totals = Totals::default();
    rows.iter().for_each(|row| totals.add(row));
    rows.iter_mut().for_each(|row| totals.finish(row));
}

/// Totals that the derived columns need of all rows, gathered row by row for tables that do not fit into memory.
#[derive(Clone, Debug)]
pub struct Totals {
    pub rows: u64,
    /// Bytes of the longest id.
    pub longest: usize,
    least: f64,
    most: f64,
    external: (f64, f64), // sum of delta, count
    /// The columns beside those of every table.
    pub more: Vec<More>,
}

impl Default for Totals {
    fn default() -> Totals {
        Totals { rows: 0, longest: 0, least: f64::NAN, most: f64::NAN, external: (0.0, 0.0), more: vec![] }
    }
}

impl Totals {
    /// Adds a row's `align_f` and `align_g`.
    pub fn add(&mut self, row: &Row) {
        let delta = row.align_g - row.align_f;
        self.rows += 1;
        self.longest = self.longest.max(row.id.len());
        if self.rows == 1 {
            self.more = row.more.iter().map(|(more, _)| *more).collect();
        }
        match row.subset {
            Subset::Candidate => (self.least, self.most) = (self.least.min(delta), self.most.max(delta)),
            Subset::External => self.external = (self.external.0 + delta, self.external.1 + 1.0),
            _ => (),
        }
    }

    /// As [`finish`] for one row, after all rows of the table were added.
    pub fn finish(&self, row: &mut Row) {
        self.part(row);
        let range = self.most - self.least;
        row.score = if range == 0.0 { 0.0 } else { row.delta / range };
        row.calibrated = row.delta - self.external.0 / self.external.1;
    }

    /// The derived columns of a row in a shard: columns that need all rows are NaN.
    pub fn part(&self, row: &mut Row) {
        row.delta = row.align_g - row.align_f;
        let sum = row.align_g + row.align_f;
        row.relative = if sum == 0.0 { 0.0 } else { row.delta / sum };
        (row.score, row.calibrated) = (f64::NAN, f64::NAN);
    }
}

/// The largest minus the smallest `delta` of the candidates; NaN without candidates.
pub fn range(rows: &[Row]) -> f64 {
    let candidates = || rows.iter().filter(|r| r.subset == Subset::Candidate).map(|r| r.delta);
    candidates().fold(f64::NAN, f64::max) - candidates().fold(f64::NAN, f64::min)
}

/// Several pairs of encoders over the same samples: the mean of every column over the pairs, and in
/// `stderr` the standard error of `delta` over the pairs. One table is returned as it is.
///
/// Rows keep the order of the first table; the others may have any.
///
/// # Errors
/// There is no table, or two tables are not of the same samples in the same subsets, or have other columns.
pub fn aggregate(tables: &[Vec<Row>]) -> Result<Vec<Row>> {
    let remedy = "score every pair on the same data with the same split";
    let Some((first, others)) = tables.split_first() else {
        return Err(Error::config("there is no score table to average", "score at least one pair of encoders"));
    };
    if others.is_empty() {
        return Ok(first.clone());
    }
    let sorted: Vec<Vec<&Row>> = tables.iter().map(|table| sorted(table)).collect();
    let mut places: Vec<usize> = (0..first.len()).collect(); // row of the n-th sample by index in the first table
    places.sort_by_key(|&place| first[place].index);
    let mut out = first.clone();
    for (n, place) in places.into_iter().enumerate() {
        let more = |row: &Row| row.more.iter().map(|(more, _)| *more).collect::<Vec<_>>();
        let same = |a: &Row, b: &Row| (a.index, &a.id, a.label, a.subset, more(a)) == (b.index, &b.id, b.label, b.subset, more(b));
        for (number, table) in sorted.iter().enumerate() {
            if table.len() != first.len() || !same(table[n], sorted[0][n]) {
                return Err(Error::config(
                    format!("table {} of the {} to average is not of the same samples and measures as the first", number + 1, tables.len()),
                    remedy,
                ));
            }
        }
        let pairs = sorted.len() as f64;
        let numbers = std::array::from_fn(|column| mean(sorted.iter().map(|table| table[n].numbers()[column])));
        let mut row = first[place].with_numbers(numbers);
        let squares: f64 = sorted.iter().map(|table| (table[n].delta - row.delta).powi(2)).sum();
        row.stderr = (squares / (pairs - 1.0) / pairs).sqrt();
        for (more, value) in &mut row.more {
            *value = mean(sorted.iter().map(|table| table[n].get(*more)));
        }
        out[place] = row;
    }
    Ok(out)
}

/// How a table is written, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Parquet,
    Csv,
    /// For NumPy: one array with a named field for each column.
    Npy,
}

impl Format {
    /// # Errors
    /// The name ends in something that is not a table, or in nothing.
    pub fn of(path: &Path) -> Result<Format> {
        match path.extension().map(|e| e.to_string_lossy().to_lowercase()).as_deref() {
            Some("parquet") => Ok(Format::Parquet),
            Some("csv") => Ok(Format::Csv),
            Some("npy") => Ok(Format::Npy),
            other => {
                let what = match other {
                    Some(other) => format!("{}: .{other} is not a kind of score table", path.display()),
                    None => format!("{} has no ending that says which kind of score table it is", path.display()),
                };
                Err(Error::config(what, "use a name that ends in .parquet, .csv or .npy"))
            }
        }
    }
}

/// Writes a table in the format of the name's ending. The same rows give the same bytes. `metadata` (key, value) goes into the Parquet
/// footer; the others have no place for it.
///
/// # Errors
/// The place is not writable, or a row holds a number that no score can have.
pub fn write(path: impl AsRef<Path>, rows: &[Row], metadata: &[(String, String)]) -> Result<()> {
    let mut totals = Totals::default();
    rows.iter().for_each(|row| totals.add(row));
    let mut writer = TableWriter::create(path, &totals, metadata)?;
    rows.iter().try_for_each(|row| writer.push(row.clone()))?;
    writer.commit()
}

/// Writes the samples of the rows of another file as Parquet: the first three of [`COLUMNS`].
///
/// # Errors
/// The place is not writable.
pub fn write_samples(path: impl AsRef<Path>, samples: &[Sample]) -> Result<()> {
    let mut groups = parquet::Groups::create(Writer::create(path)?, &[], columns(&[])[..3].to_vec())?;
    samples.chunks(parquet::GROUP).try_for_each(|some| groups.samples(some))?;
    groups.finish()?.commit()
}

/// Reads a table that [`write()`] wrote, or one with the same columns in any order and others beside them.
///
/// # Errors
/// The file is missing, is not a table, lacks a column, or holds a value that no score table can have.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Row>> {
    let path = path.as_ref();
    let rows = match Format::of(path)? {
        Format::Parquet => parquet::read(path),
        Format::Csv => csv::read(path),
        Format::Npy => Err(Error::config(
            format!("{} is a table for NumPy, which is not read here", path.display()),
            "name the same table as .parquet or .csv",
        )),
    }?;
    for (line, row) in rows.iter().enumerate() {
        check(row).map_err(|what| Error::format(path, format!("row {}: {what}", line + 1)))?;
    }
    let ordered = sorted(&rows);
    if let Some(twice) = ordered.windows(2).find(|pair| pair[0].index == pair[1].index) {
        return Err(Error::format(path, format!("sample {} occurs twice", twice[0].index)));
    }
    Ok(rows)
}

/// Checks a row. Only `score` and the last two columns may be unknown (NaN).
fn check(row: &Row) -> std::result::Result<(), String> {
    for (name, value) in COLUMNS[4..].iter().zip(row.numbers()) {
        let unknown_is_fine = matches!(*name, "score" | "calibrated" | "stderr");
        if value.is_infinite() || value.is_nan() && !unknown_is_fine {
            return Err(format!("{name} is {value}, not a finite number"));
        }
    }
    if let Some((more, value)) = row.more.iter().find(|(_, value)| value.is_infinite()) {
        return Err(format!("{} is {value}, not a finite number", more.name()));
    }
    Ok(())
}

/// An exact whole number that fits an index or a label.
fn whole(value: f64) -> Option<u32> {
    (value >= 0.0 && value <= u32::MAX as f64 && value.fract() == 0.0).then_some(value as u32)
}

fn sorted(rows: &[Row]) -> Vec<&Row> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|row| row.index);
    rows
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}
