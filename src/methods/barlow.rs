//! Barlow Twins (Zbontar et al. 2021): the outputs of two views agree, column by column, and in no other way.

use super::{Context, LossOutput, Method, Options, Representations, ViewKind, needs, two_passes};
use crate::encoders::{Last, MlpHead, Network};
use crate::error::Result;
use crate::tape::Scope;
use crate::var::Var;

pub struct BarlowTwins;

impl Method for BarlowTwins {
    fn name(&self) -> &'static str {
        "barlow"
    }
    fn about(&self) -> &'static str {
        "the cross-correlation of two views becomes the identity (Zbontar et al. 2021)"
    }
    fn views(&self, _: &Options) -> Vec<Vec<ViewKind>> {
        two_passes()
    }
    fn check(&self, options: &Options, _: &Network) -> Result<()> {
        needs("projector", &options.projector)
    }
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let o = context.options;
        let head = MlpHead { widths: &o.projector, norm: o.head_norm, last: Last::Linear { bias: false } };
        let h = [0, 1].map(|v| context.encode(s, views, v));
        let z = h.map(|h| head.record(&mut s.at("projector"), h));
        let loss = s.barlow_twins_loss(z[0], z[1], o.lambda, o.scale);
        LossOutput { loss, embeddings: z[0], representations: Representations::Two(h[0], h[1]), metric: None }
    }
}
