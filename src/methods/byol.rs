//! BYOL (Grill et al. 2020): one view predicts what an average of past encoders makes of the other.

use super::{Context, LossOutput, Method, Options, Representations, ViewKind, needs, two_passes};
use crate::encoders::{MlpHead, Network};
use crate::error::Result;
use crate::schedule::Schedule;
use crate::tape::{Scope, Tape};
use crate::var::Var;

pub struct Byol;

impl Method for Byol {
    fn name(&self) -> &'static str {
        "byol"
    }
    fn about(&self) -> &'static str {
        "one view predicts a slow teacher's output for the other (Grill et al. 2020)"
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
        let last = o.head_end.last();
        let project = MlpHead { widths: &o.projector, norm: o.head_norm, last };
        let predict = MlpHead { widths: &o.predictor, norm: o.head_norm, last };
        let h = [0, 1].map(|v| context.encode(s, views, v));
        let z = h.map(|h| project.record(&mut s.at("projector"), h));
        let p = z.map(|z| predict.record(&mut s.at("predictor"), z));
        let target = [0, 1].map(|v| {
            let mut s = s.frozen("teacher");
            let h = context.encode(&mut s, views, v);
            project.record(&mut s.at("projector"), h)
        });
        let halves = [s.cosine(p[0], target[1]), s.cosine(p[1], target[0])];
        // Squared distance of unit vectors, both directions.
        let one = s.tape().constant([1], vec![1.0]);
        let loss = s.weighted_sum(&[(halves[0], -2.0), (halves[1], -2.0), (one, 4.0)]);
        LossOutput { loss, embeddings: z[0], representations: Representations::Two(h[0], h[1]), metric: None }
    }
    fn after(&self, tape: &mut Tape, schedule: Schedule) {
        tape.ema("encoder", "teacher.encoder", schedule);
        tape.ema("projector", "teacher.projector", schedule);
    }
}
