//! Training with labels: a linear layer on the encoder's features, softmax and cross-entropy. The baseline that SSLMem compares
//! self-supervision with (Wang et al. 2024, Tables 11 and 12), and what label memorization (Feldman and Zhang 2020) is about.

use super::{Method, Metric, Options, Recorded, Representations, Setting, ViewKind};
use crate::encoders::CLASSIFIER;
use crate::tape::Scope;
use crate::var::Var;

pub struct Supervised;

impl Method for Supervised {
    fn name(&self) -> &'static str {
        "supervised"
    }
    fn about(&self) -> &'static str {
        "one view, a linear classifier, cross-entropy with the class of each sample"
    }
    fn views(&self, _: &Options) -> Vec<Vec<ViewKind>> {
        vec![vec![ViewKind::First]]
    }
    fn by_sample(&self) -> bool {
        true
    }
    fn loss(&self, s: &mut Scope, setting: &Setting, views: &[Var]) -> Recorded {
        let labels = setting.batch.labels.expect("a supervised method gets a batch with labels");
        let embeddings = setting.encode(s, views, 0);
        let logits = s.at(CLASSIFIER).linear(embeddings, setting.classes, true);
        let found = s.cross_entropy(logits, labels);
        let (loss, metric) = (found.loss, Some(Metric::Accuracy(found.accuracy)));
        Recorded { loss, embeddings, representations: Representations::None, metric }
    }
    fn supervised(&self) -> bool {
        true
    }
    /// Features of one class drawing together is what it is to learn.
    fn can_collapse(&self) -> bool {
        false
    }
}
