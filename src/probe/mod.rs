//! Probes: classification accuracy of frozen features, by k-NN and by a linear classifier.

mod descent;
mod features;
mod job;
mod knn;
mod lbfgs;
mod linear;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::progress::Progress;

pub use descent::{Descent, Rule, descend};
pub use features::{Chosen, Features, labelled};
pub use job::{Count, How, Job, Probed, Probing, Results, vector};
pub use knn::{NEIGHBOURS, Neighbours, neighbours};
pub use lbfgs::{FOLDS, STRENGTHS, fit};
pub use linear::Head;

/// A way to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Each of [`NEIGHBOURS`].
    Knn,
    /// Multinomial logistic regression on standardised features by L-BFGS, its l2 chosen by five folds of the training part.
    Lbfgs,
    /// Table 6 of the SSLMem paper: LARS, batch 4096, 90 epochs, 10 of warm-up.
    Paper,
    /// The released code of the SSLMem paper for CIFAR: AdamW, batch 128, 90 epochs, 10 of warm-up.
    Code,
}

impl Protocol {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Knn => "knn",
            Protocol::Lbfgs => "lbfgs",
            Protocol::Paper => "paper",
            Protocol::Code => "code",
        }
    }
}

/// Result of one probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The protocol, in words that name every setting.
    pub protocol: String,
    pub top1: f64,
    /// `None` with ten classes or fewer.
    pub top5: Option<f64>,
}

/// Classifies the features of `test` with those of `train`. `method` is the name of the method that trained the encoder, if known: the
/// paper's learning rate depends on it.
///
/// # Errors
/// There are fewer training samples than neighbours, or fewer than two classes; [`Error::Stopped`].
///
/// # Panics
/// The two feature sets differ in width or in the number of classes.
pub fn probe(
    train: &Features,
    test: &Features,
    protocols: &[Protocol],
    method: Option<&str>,
    seed: u64,
    progress: &mut dyn Progress,
) -> Result<Vec<Accuracy>> {
    check(train, test, protocols)?;
    let mut found = vec![];
    for protocol in protocols {
        match protocol {
            Protocol::Knn => {
                let names = NEIGHBOURS.iter().map(Neighbours::name);
                let ranks = neighbours(train, test, &NEIGHBOURS, progress)?;
                found.extend(names.zip(ranks).map(|(name, ranks)| Accuracy::of(name, &ranks, train.classes)));
            }
            Protocol::Lbfgs => {
                let (train, test) = (train.standardised(train), test.standardised(train));
                let (head, strength) = lbfgs::choose(&train, seed, progress)?;
                let name = format!("linear, L-BFGS, l2 {strength:.0e}");
                found.push(Accuracy::of(name, &head.ranks(&test), train.classes));
            }
            Protocol::Paper | Protocol::Code => {
                let descent = if *protocol == Protocol::Code { Descent::code(train.len()) } else { Descent::paper(train.len(), method) };
                let mut head = Head::random(train.classes, train.width, seed);
                descend(&mut head, train, &descent, seed, progress)?;
                found.push(Accuracy::of(descent.name(), &head.ranks(test), train.classes));
            }
        }
    }
    Ok(found)
}

fn check(train: &Features, test: &Features, protocols: &[Protocol]) -> Result<()> {
    assert_eq!((train.width, train.classes), (test.width, test.classes), "features of one encoder and one data set");
    if test.is_empty() {
        return Err(Error::config("there is no labelled test sample to probe with", "name data with labels and a test part"));
    }
    let most = NEIGHBOURS.iter().map(|n| n.k).max().unwrap_or(0);
    if protocols.contains(&Protocol::Knn) && train.len() < most {
        let what = format!("k-NN asks for {most} neighbours, but there are {} labelled training samples", train.len());
        return Err(Error::config(what, "take more samples, or leave k-NN out with --protocol lbfgs"));
    }
    if train.labels.iter().all(|label| *label == train.labels[0]) {
        let what = format!("the {} labelled training samples are not of two classes", train.len());
        return Err(Error::config(what, "take more samples, or data with classes"));
    }
    Ok(())
}

impl Accuracy {
    /// From the rank (from 0) of each test sample's own class.
    fn of(protocol: String, ranks: &[usize], classes: usize) -> Accuracy {
        let within = |places: usize| ranks.iter().filter(|&&rank| rank < places).count() as f64 / ranks.len() as f64;
        Accuracy { protocol, top1: within(1), top5: (classes > 10).then(|| within(5)) }
    }
}
