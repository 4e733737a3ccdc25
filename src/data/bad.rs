//! The limit on the share of bad images.

use std::path::Path;

use crate::error::{Error, Result};

/// An error if more than the share `most` of `all` images was left out of the result at `place`. Callers write the result first, so that it
/// is kept.
///
/// # Errors
/// There are more.
pub fn few_bad(place: impl AsRef<Path>, skipped: &[(String, String)], all: usize, most: f64) -> Result<()> {
    let (bad, share) = (skipped.len(), skipped.len() as f64 / all.max(1) as f64);
    let Some((id, reason)) = skipped.first().filter(|_| share > most) else { return Ok(()) };
    let what = format!(
        "{bad} of {all} images could not be decoded, which is more than {} % (first: {id}: {reason}); what was made of the others is kept; \
         look at them, or accept them with --max-bad {}",
        100.0 * most,
        (100.0 * share).ceil() / 100.0
    );
    Err(Error::format(place, what))
}
