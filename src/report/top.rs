//! The page of the samples at both ends of a table: the first thing to look at after scoring.

use std::path::Path;

use super::{gallery, html};
use crate::data::Source;
use crate::error::{Error, Result};
use crate::files;
use crate::table::Row;

/// The `k` most and the `k` least memorised candidates, by `delta`, which orders as the score does and is known in a
/// shard's table, too; ties by index. No sample is at both ends.
pub fn ends(rows: &[Row], k: usize) -> (Vec<&Row>, Vec<&Row>) {
    gallery::ends_of(rows, k, |row| row.delta)
}

/// Write a page with thumbnails of both ends. `facts` are names and values, `skipped` images without a row with the reason.
///
/// # Errors
/// The table has no candidate, or the place is not writable. An image that cannot be decoded is no error: its tile says why.
pub fn write(
    out: &Path,
    title: &str,
    ends: &(Vec<&Row>, Vec<&Row>),
    source: &dyn Source,
    facts: &[(String, String)],
    skipped: &[(String, String)],
) -> Result<()> {
    if ends.0.is_empty() {
        return Err(Error::config("the table has no candidates, so there is nothing to show", "score at least one sample of S_C"));
    }
    let tiles = [gallery::tiles(&ends.0, source), gallery::tiles(&ends.1, source)];
    files::write_whole(out, html::top(title, &tiles, facts, skipped).as_bytes())
}
