//! SimCLR (Chen et al. 2020). Both views go through the encoder as one batch, so batch norm sees them together.

use super::{Method, Projector, Recorded, Setting};
use crate::encoders::mlp;
use crate::tape::Scope;
use crate::var::Var;

pub struct SimClr;

impl Method for SimClr {
    fn name(&self) -> &'static str {
        "simclr"
    }
    fn views(&self) -> usize {
        2
    }
    fn loss(&self, s: &mut Scope, setting: &Setting, images: Var) -> Recorded {
        let h = setting.encoder.features(&mut s.at("encoder"), setting.stem, images);
        let (widths, norm) = match setting.projector {
            Projector::Paper => ([512, 128], true),
            Projector::Reference => ([1024, 128], false),
        };
        let embeddings = mlp(&mut s.at("projector"), h, &widths, norm);
        let loss = s.contrast(embeddings, setting.temperature);
        Recorded { loss, embeddings }
    }
}
