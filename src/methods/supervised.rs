//! Training with labels: a linear layer on the encoder's features, softmax and cross-entropy. The baseline that SSLMem compares
//! self-supervision with (Wang et al. 2024, Tables 11 and 12), and what label memorization (Feldman and Zhang 2020) is about.

use super::{Context, LossOutput, Method, Metric, Options, Representations, ViewKind};
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
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let labels = context.batch.labels.expect("a supervised method gets a batch with labels");
        let embeddings = context.encode(s, views, 0);
        let logits = s.at(CLASSIFIER).linear(embeddings, context.classes, true);
        let found = s.cross_entropy(logits, labels);
        let (loss, metric) = (found.loss, Some(Metric::Accuracy(found.accuracy)));
        LossOutput { loss, embeddings, representations: Representations::None, metric }
    }
    fn supervised(&self) -> bool {
        true
    }
    /// Features of one class drawing together is what it is to learn.
    fn can_collapse(&self) -> bool {
        false
    }
}
