//! VICReg (Bardes et al. 2022): two views agree, every column varies, and no two columns vary together.

use super::{Context, LossOutput, Method, Options, Representations, ViewKind, needs, two_passes};
use crate::encoders::{Last, MlpHead, Network};
use crate::error::Result;
use crate::tape::Scope;
use crate::var::Var;

pub struct VicReg;

impl Method for VicReg {
    fn name(&self) -> &'static str {
        "vicreg"
    }
    fn about(&self) -> &'static str {
        "views agree while every column varies by itself (Bardes et al. 2022)"
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
        let loss = s.vicreg_loss(z[0], z[1], o.weights);
        LossOutput { loss, embeddings: z[0], representations: Representations::Two(h[0], h[1]), metric: None }
    }
}
