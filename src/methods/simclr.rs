//! SimCLR (Chen et al. 2020). Both views go through the encoder as one batch, so batch norm sees them together. The loss is
//! the mean over the 2N views; the authors' code minimises twice that, which `scale` makes of it.

use super::{Context, LossOutput, Method, Options, Representations, ViewKind, needs};
use crate::encoders::{MlpHead, Network};
use crate::error::Result;
use crate::tape::Scope;
use crate::var::Var;

pub struct SimClr;

impl Method for SimClr {
    fn name(&self) -> &'static str {
        "simclr"
    }
    fn about(&self) -> &'static str {
        "two views are each other's only match in the batch (Chen et al. 2020)"
    }
    fn views(&self, _: &Options) -> Vec<Vec<ViewKind>> {
        vec![vec![ViewKind::First, ViewKind::Second]]
    }
    fn check(&self, options: &Options, _: &Network) -> Result<()> {
        needs("projector", &options.projector)
    }
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let o = context.options;
        let h = context.encode(s, views, 0);
        let head = MlpHead { widths: &o.projector, norm: o.head_norm, last: o.head_end.last() };
        let embeddings = head.record(&mut s.at("projector"), h);
        let loss = s.nt_xent(embeddings, o.temperature);
        let loss = if o.scale == 1.0 { loss } else { s.weighted_sum(&[(loss, o.scale)]) };
        LossOutput { loss, embeddings, representations: Representations::Halves(h), metric: None }
    }
}
