//! Entries of a data set that give no sample.

use serde::{Deserialize, Serialize};

/// Entries listed by name; further ones are counted.
const NAMED: usize = 100;

/// Names with the reason, so that nothing is missing in silence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    named: Vec<(String, String)>,
    more: usize,
}

impl LeftOut {
    pub fn add(&mut self, name: impl Into<String>, reason: impl Into<String>) {
        match self.named.len() {
            NAMED => self.more += 1,
            _ => self.named.push((name.into(), reason.into())),
        }
    }

    /// The listed entries, then the number of further ones in `place`.
    pub fn list(self, place: &str) -> Vec<(String, String)> {
        let LeftOut { mut named, more } = self;
        if more > 0 {
            named.push((place.into(), format!("and {more} more like these")));
        }
        named
    }
}
