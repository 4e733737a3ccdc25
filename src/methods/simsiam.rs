//! SimSiam (Chen and He 2021): one view predicts the other, which gets no gradient.

use super::{Context, LossOutput, LrPolicy, Method, Options, Representations, ViewKind, needs, two_passes};
use crate::encoders::{Last, MlpHead, Network};
use crate::error::Result;
use crate::tape::Scope;
use crate::var::Var;

pub struct SimSiam;

impl Method for SimSiam {
    fn name(&self) -> &'static str {
        "simsiam"
    }
    fn about(&self) -> &'static str {
        "one view predicts the other, without negatives or teacher (Chen and He 2021)"
    }
    fn views(&self, _: &Options) -> Vec<Vec<ViewKind>> {
        two_passes()
    }
    fn check(&self, options: &Options, _: &Network) -> Result<()> {
        needs("projector", &options.projector)?;
        needs("predictor", &options.predictor)
    }
    fn by_sample(&self) -> bool {
        true
    }
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let o = context.options;
        let project = MlpHead { widths: &o.projector, norm: o.head_norm, last: Last::Norm { scale: false } };
        let predict = MlpHead { widths: &o.predictor, norm: o.head_norm, last: Last::Linear { bias: true } };
        let h = [0, 1].map(|v| context.encode(s, views, v));
        let z = h.map(|h| project.record(&mut s.at("projector"), h));
        let p = z.map(|z| predict.record(&mut s.at("predictor"), z));
        let halves = [s.cosine(p[0], z[1]), s.cosine(p[1], z[0])];
        let loss = s.weighted_sum(&halves.map(|c| (c, -0.5)));
        LossOutput { loss, embeddings: z[0], representations: Representations::Two(h[0], h[1]), metric: None }
    }
    fn lr_policy(&self, options: &Options, weight: &str) -> LrPolicy {
        if options.fixed_predictor && weight.starts_with("predictor.") { LrPolicy::Constant } else { LrPolicy::Usual }
    }
}
