//! DINO (Caron et al. 2021): from any crop the student finds the teacher's choice among prototypes for another, global one.

use super::{Context, LossOutput, LrPolicy, Method, Metric, Options, Representations, ViewKind, needs};
use crate::encoders::{EncoderConfig, Network, Start};
use crate::error::{Error, Result};
use crate::init::Init;
use crate::ops::dino_loss::DinoLoss;
use crate::ops::linear::{Dense, Epilogue};
use crate::schedule::Schedule;
use crate::tape::{Scope, Tape};
use crate::var::Var;

pub struct Dino;

impl Method for Dino {
    fn name(&self) -> &'static str {
        "dino"
    }
    fn about(&self) -> &'static str {
        "crops find a slow teacher's choice of prototypes for the whole (Caron et al. 2021)"
    }
    fn views(&self, options: &Options) -> Vec<Vec<ViewKind>> {
        let global = vec![ViewKind::First, ViewKind::Second];
        if options.local_crops == 0 { vec![global] } else { vec![global, vec![ViewKind::Local; options.local_crops]] }
    }
    fn check(&self, options: &Options, network: &Network) -> Result<()> {
        needs("projector", &options.projector)?;
        if options.prototypes < 2 {
            return Err(Error::config(format!("method.prototypes is {}", options.prototypes), "choose at least 2"));
        }
        if options.local_crops > 0 {
            network.encoder.check(&network.config, options.local_size)?;
        }
        Ok(())
    }
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput {
        let o = context.options;
        let network = Network { config: EncoderConfig { start: Start::Dino, ..context.network.config }, ..context.network };
        let context = &Context { network, ..*context };
        // Crops of one size go through the encoder together, all of them through the head.
        let h: Vec<Var> = (0..views.len()).map(|group| context.encode(s, views, group)).collect();
        let all = s.concat_rows(&h);
        let (student, embeddings) = head(s, o, all);
        let choice = {
            let mut s = s.frozen("teacher");
            let h = context.encode(&mut s, views, 0);
            head(&mut s, o, h).0
        };
        let how = DinoLoss { student_temperature: o.temperature, center_momentum: o.center_momentum, schedule: context.schedule };
        let made = s.dino_loss(student, choice, &how);
        let metric = Some(Metric::TeacherEntropy(made.entropy));
        LossOutput { loss: made.loss, embeddings, representations: Representations::Halves(h[0]), metric }
    }
    fn after(&self, tape: &mut Tape, schedule: Schedule) {
        tape.ema("encoder", "teacher.encoder", schedule);
        tape.ema("head", "teacher.head", schedule);
    }
    fn lr_policy(&self, options: &Options, weight: &str) -> LrPolicy {
        if weight == "head.last_layer.weight" { LrPolicy::After(options.freeze_last_layer) } else { LrPolicy::Usual }
    }
}

/// features [n, d] to similarities with the prototypes [n, prototypes] and to the unit vectors that they are of. GELU
/// between the layers, or batch norm and GELU; the prototypes have unit length.
fn head(s: &mut Scope, o: &Options, h: Var) -> (Var, Var) {
    let mut s = s.at("head");
    let mut h = h;
    for (i, &outputs) in o.projector.iter().enumerate() {
        let last = i + 1 == o.projector.len();
        let layer = |bias, epilogue| Dense { outputs, bias, weight: Init::Normal(0.02), shape: None, epilogue };
        let mut at = s.at(format!("mlp.{i}"));
        h = match (last, o.head_norm) {
            (true, _) => at.dense(h, &layer(true, Epilogue::Nothing)),
            (false, false) => at.dense(h, &layer(true, Epilogue::Gelu)),
            (false, true) => {
                h = at.dense(h, &layer(false, Epilogue::Nothing));
                h = s.at(format!("bn.{i}")).batch_norm(h, None, false);
                s.gelu(h)
            }
        };
    }
    let unit = s.l2_normalize(h);
    let width = s.shape(unit).cols();
    let mut s = s.at("last_layer");
    // The authors make this layer after they have set the others, so it starts as PyTorch's linear layers do.
    let init = Init::Uniform(1.0 / (width as f32).sqrt());
    let u = s.dense(unit, &Dense { outputs: o.prototypes, bias: false, weight: init, shape: None, epilogue: Epilogue::Nothing });
    let prototypes = s.param("weight", [o.prototypes, width], init);
    (s.weight_norm(u, prototypes), unit)
}
