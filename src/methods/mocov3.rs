//! MoCo v3 (Chen et al. 2021): a prediction of one view finds the teacher's output for the other among those of the batch.

use super::{Context, LossOutput, Method, Options, Representations, ViewKind, needs, two_passes};
use crate::encoders::{EncoderConfig, Last, MlpHead, Network, Start};
use crate::error::Result;
use crate::schedule::Schedule;
use crate::tape::{Scope, Tape};
use crate::var::Var;

pub struct MoCoV3;

impl Method for MoCoV3 {
    fn name(&self) -> &'static str {
        "mocov3"
    }
    fn about(&self) -> &'static str {
        "a prediction finds a slow teacher's output for the other view in the batch (Chen et al. 2021)"
    }
    fn views(&self, _: &Options) -> Vec<Vec<ViewKind>> {
        two_passes()
    }
    fn check(&self, options: &Options, _: &Network) -> Result<()> {
        needs("projector", &options.projector)?;
        needs("predictor", &options.predictor)
    }
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let o = context.options;
        let vit = context.network.encoder.vit().is_some();
        let network =
            Network { config: EncoderConfig { frozen_patches: vit, start: Start::MoCoV3, ..context.network.config }, ..context.network };
        let context = &Context { network, ..*context };
        let project = MlpHead { widths: &o.projector, norm: o.head_norm, last: Last::Norm { scale: false } };
        // The predictor of a ResNet ends without a norm.
        let last = if vit { Last::Norm { scale: false } } else { Last::Linear { bias: false } };
        let predict = MlpHead { widths: &o.predictor, norm: o.head_norm, last };
        let h = [0, 1].map(|v| context.encode(s, views, v));
        let q = h.map(|h| {
            let z = project.record(&mut s.at("projector"), h);
            predict.record(&mut s.at("predictor"), z)
        });
        let k = [0, 1].map(|v| {
            let mut s = s.frozen("teacher");
            let h = context.encode(&mut s, views, v);
            project.record(&mut s.at("projector"), h)
        });
        let halves = [s.info_nce(q[0], k[1], o.temperature), s.info_nce(q[1], k[0], o.temperature)];
        let loss = s.weighted_sum(&halves.map(|c| (c, 2.0 * o.temperature)));
        LossOutput { loss, embeddings: q[0], representations: Representations::Two(h[0], h[1]), metric: None }
    }
    fn after(&self, tape: &mut Tape, schedule: Schedule) {
        tape.ema("encoder", "teacher.encoder", schedule);
        tape.ema("projector", "teacher.projector", schedule);
    }
}
