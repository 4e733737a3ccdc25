//! The score table: one row per scored sample.

use crate::split::Subset;

/// What is known about one sample after scoring. Distances are of unit vectors, so they lie in [0, 2].
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
    /// delta over the range (max - min) of delta over the candidates: the paper's SSLMem.
    pub score: f64,
    /// (g - f) / (g + f), the form of the follow-up paper (LayerMem).
    pub relative: f64,
    /// delta minus what this pair of encoders shows on samples neither has seen (S_E).
    pub calibrated: f64,
    /// Standard error of delta over the views (jackknife) or, for several pairs of encoders, over the pairs.
    pub stderr: f64,
}
