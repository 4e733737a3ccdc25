//! Which encoder saw which sample: S_S, S_C, S_I and S_E (paper, section 4).

use serde::{Deserialize, Serialize};

/// The four subsets. f trains on Shared and Candidate, g on Shared and Independent, nobody on External.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subset {
    Shared,
    Candidate,
    Independent,
    External,
}

impl Subset {
    pub const ALL: [Subset; 4] = [Subset::Shared, Subset::Candidate, Subset::Independent, Subset::External];

    /// The paper's symbol.
    pub fn symbol(self) -> &'static str {
        match self {
            Subset::Shared => "S_S",
            Subset::Candidate => "S_C",
            Subset::Independent => "S_I",
            Subset::External => "S_E",
        }
    }
    pub fn parse(symbol: &str) -> Option<Subset> {
        Subset::ALL.into_iter().find(|s| s.symbol() == symbol)
    }
}
