//! Quantities that scoring computes for each sample from the two encoders, and their reduction to columns of the table.

use crate::checkpoint::Checkpoint;
use crate::data::{Source, class_count};
use crate::encoders::CLASSIFIER;
use crate::error::{Error, Result};
use crate::files;
use crate::ops::alignment::Pairs;
use crate::ops::augment::Batch;
use crate::table::More;
use crate::tape::Tape;
use crate::var::Var;
use std::path::{Path, PathBuf};

/// A quantity of one sample. To add one: record its computation on the encoders' outputs, name the variables that are read after each
/// batch, and reduce these to the numbers of its columns.
pub trait Measure {
    /// Variables that are read after each batch.
    fn vars(&self) -> &[Var];
    /// The numbers of sample `i` of the batch, from the values read.
    fn reduce(&self, read: &[Vec<f32>], i: usize) -> Vec<f64>;
}

/// The alignment loss of f and of g (paper, Eq. 1) at one layer, and the standard error of their difference.
pub struct Alignment {
    distances: [Var; 2], // [batch, pairs], of f and of g
    kind: Pairs,
    /// Pairs of views.
    pairs: usize,
    /// Number of compared views, with the original if it is compared.
    views: usize,
}

impl Alignment {
    /// `outputs` `[views * n, ..]` are those of f and g for all `count` views; `pairs` of them are compared.
    pub fn record(tape: &mut Tape, outputs: [Var; 2], count: usize, views: usize, kind: Pairs) -> Alignment {
        let pairs = kind.list(views);
        let distances = outputs.map(|x| tape.root().alignment_of(x, count, &pairs));
        Alignment { distances, kind, pairs: pairs.len(), views }
    }
}

impl Measure for Alignment {
    fn vars(&self) -> &[Var] {
        &self.distances
    }
    fn reduce(&self, read: &[Vec<f32>], i: usize) -> Vec<f64> {
        let own = |d: &[f32]| d[i * self.pairs..][..self.pairs].iter().map(|v| *v as f64).collect::<Vec<f64>>();
        let (f, g) = (own(&read[0]), own(&read[1]));
        let mean = |d: &[f64]| d.iter().sum::<f64>() / d.len() as f64;
        let delta: Vec<f64> = f.iter().zip(&g).map(|(f, g)| g - f).collect();
        vec![mean(&f), mean(&g), standard_error(self.kind, &delta, self.views)]
    }
}

/// The probability that a classifier on the pooled features of f and of g gives the class of the un-augmented image (Feldman and Zhang 2020
/// take the share of many models that are right; with one pair of models the probability says more). NaN where a sample has no class.
pub struct Confidence {
    rows: [Var; 2], // [3, views * n]: the first row is -ln of the probability
    /// The row of the first sample's un-augmented view.
    first: usize,
}

impl Confidence {
    /// The columns that it fills.
    pub const COLUMNS: &'static [More] = &[More::ConfidenceF, More::ConfidenceG];

    /// `features` `[views * n, width]` are those of f and g; view `original` is the un-augmented image. `classes` are the sizes of the two
    /// classifiers.
    pub fn record(tape: &mut Tape, features: [Var; 2], batch: &Batch, original: usize, classes: [usize; 2]) -> Confidence {
        let labels = batch.labels.expect("the batch has labels");
        let mut at = ["f", "g"].into_iter().zip(classes);
        let rows = features.map(|x| {
            let (role, classes) = at.next().expect("two sides");
            let mut s = tape.root();
            let logits = s.at(role).at(CLASSIFIER).linear(x, classes, true);
            s.cross_entropy(logits, labels).rows
        });
        Confidence { rows, first: original * batch.n }
    }
}

impl Measure for Confidence {
    fn vars(&self) -> &[Var] {
        &self.rows
    }
    fn reduce(&self, read: &[Vec<f32>], i: usize) -> Vec<f64> {
        read.iter().map(|losses| (-losses[self.first + i] as f64).exp()).collect()
    }
}

/// The path of an encoder's heads: `f.heads.safetensors` beside `f.safetensors`.
pub fn heads_of(weights: &Path) -> PathBuf {
    weights.with_extension("heads.safetensors")
}

/// The number of classes of the classifier in an encoder's heads. It must be that of the data.
///
/// # Errors
/// There is no classifier, or the data have other classes.
pub fn classifier(weights: &Path, source: &dyn Source) -> Result<usize> {
    let (path, remedy) =
        (heads_of(weights), "confidence needs encoders of `sslmem train --method supervised`, with the file of their heads beside them");
    if !files::exists(&path)? {
        return Err(Error::config(format!("{} has no classifier: there is no {}", weights.display(), path.display()), remedy));
    }
    let heads = Checkpoint::open(&path)?;
    let Some(classes) = heads.tensors.get(&format!("{CLASSIFIER}.weight")).and_then(|weight| weight.shape.first().copied()) else {
        return Err(Error::config(format!("{} holds no classifier", path.display()), remedy));
    };
    // Numeric labels may miss the highest classes; class names are complete.
    let (named, there) = (!source.classes().is_empty(), class_count(source));
    if there > classes || named && there != classes {
        let what = format!("{} tells {classes} classes apart, and the data have {there}", path.display());
        return Err(Error::config(what, "take the data that it was trained on, or data with the same classes in the same order"));
    }
    Ok(classes)
}

/// Standard error of the mean of `delta` over the draw of the views. `delta` has the values of the pairs in the order of [`Pairs::list`].
///
/// [`Pairs::Original`]: the image is fixed, so the values are independent and the error is their standard deviation over sqrt(n).
///
/// [`Pairs::All`]: the mean is a U-statistic of order 2 (Hoeffding 1948). With h(a, b) = m + e(a) + e(b) + r(a, b) its variance is 4 var(e)
/// / K + 2 var(r) / (K (K - 1)). Both variances are estimated without bias, from the means by view and the residuals of the pairs. A
/// negative var(e) counts as 0, so that no sample looks exact. The error is therefore too large with few views: on average 1.16 times the
/// deviation over draws at K = 4, 1.11 at 5 and 1.01 at 8 for a pair of small encoders, 1.5 at K = 4 if views matter only in pairs (e = 0).
/// With three views the pairs have no residuals, r counts as part of e, and the result is the jackknife's: at most twice too large. NaN
/// below two values (`Original`) or three views (`All`).
pub fn standard_error(kind: Pairs, delta: &[f64], views: usize) -> f64 {
    let (n, k) = (delta.len() as f64, views as f64);
    let mean = delta.iter().sum::<f64>() / n;
    if kind == Pairs::Original {
        return if delta.len() < 2 { f64::NAN } else { (delta.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt() };
    }
    if views < 3 {
        return f64::NAN;
    }
    let pairs = kind.list(views);
    let mut own = vec![0.0; views];
    for (d, (a, b)) in delta.iter().zip(&pairs) {
        own[*a] += (d - mean) / (k - 2.0);
        own[*b] += (d - mean) / (k - 2.0);
    }
    let left: f64 = delta.iter().zip(&pairs).map(|(d, (a, b))| (d - mean - own[*a] - own[*b]).powi(2)).sum();
    let joint = if views > 3 { left / (k * (k - 3.0) / 2.0) } else { 0.0 };
    let own = own.iter().map(|e| e * e).sum::<f64>() / (k - 1.0) - joint / (k - 2.0);
    ((4.0 * own.max(0.0) + 2.0 * joint / (k - 1.0)) / k).sqrt()
}
