//! The training curve: a point every so many steps, kept as JSON beside the weights.

use crate::error::{Error, Result};
use crate::files;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A point of the training curve: means since the point before. NaN: not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: u64,
    pub epoch: f64,
    pub loss: f64,
    /// Spread of the embeddings: 1 = all directions, 0 = collapsed.
    pub std: f64,
    /// Effective rank of the embeddings of the last batch: the number of directions that they use.
    pub rank: f64,
    /// Entropy of the teacher's distribution over prototypes in nats, for methods with prototypes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f64>,
    /// Accuracy on the training views, for methods that learn classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    pub lr: f64,
}

/// The training curve beside the weights; `None` if the file was removed.
///
/// # Errors
/// The file cannot be read, or is no curve.
pub fn read_curve(path: &Path) -> Result<Option<Vec<Point>>> {
    if !files::exists(path)? {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::format(path, format!("is not a training curve ({e})")))
}

pub fn to_json(curve: &[Point]) -> String {
    serde_json::to_string(curve).expect("numbers and nothing else")
}
