//! The page of the samples at both ends of a table: the first thing to look at after scoring.

use std::path::Path;

use super::{Input, gallery, html};
use crate::data::Source;
use crate::error::{Error, Result};
use crate::files;
use crate::table::Row;

/// The `k` most and the `k` least memorised candidates by `delta`, with ties by index. `delta` has the order of the score, and shards have
/// it, too. No sample is at both ends.
pub fn ends(rows: &[Row], k: usize) -> (Vec<&Row>, Vec<&Row>) {
    gallery::ends_of(rows, k, |row| row.delta)
}

/// Write a page with thumbnails of [`ends`], from the title, rows, facts, warnings and skipped images of `input`, and those of `source`.
///
/// # Errors
/// The table has no candidate, or the place is not writable. An image that cannot be decoded is no error: its tile says why.
pub fn write(out: &Path, input: &Input, k: usize, source: &dyn Source) -> Result<()> {
    let (most, least) = ends(input.rows, k);
    if most.is_empty() {
        return Err(Error::config("the table has no candidates, so there is nothing to show", "score at least one sample of S_C"));
    }
    files::write_whole(out, html::top(input, &[gallery::tiles(&most, source), gallery::tiles(&least, source)]).as_bytes())
}
