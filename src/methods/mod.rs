//! Ways to train an encoder without labels: a method is one function from views to a loss.

mod simclr;

use crate::encoders::{Encoder, Stem};
use crate::error::{Error, Result};
use crate::tape::Scope;
use crate::var::Var;

/// What a method gets to work with.
pub struct Setting<'a> {
    pub encoder: &'a dyn Encoder,
    pub stem: Stem,
    pub temperature: f32,
    pub projector: Projector,
}

/// The head between features and loss; never scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Projector {
    /// 512 without bias, batch norm, relu, 128: the code of the SSLMem paper.
    Paper,
    /// 1024, relu, 128, no batch norm: the reference recipe for SimCLR on CIFAR-10.
    Reference,
}

/// What a method recorded.
pub struct Recorded {
    pub loss: Var, // [1]
    /// What must not collapse: the embeddings that the loss sees, [rows, d].
    pub embeddings: Var,
}

pub trait Method: Sync {
    fn name(&self) -> &'static str;
    /// Views of each sample.
    fn views(&self) -> usize;
    /// images [views * n, size, size, 3], view by view, to a loss. The encoder is always called `encoder`.
    fn loss(&self, s: &mut Scope, setting: &Setting, images: Var) -> Recorded;
}

/// Every method that `--method` knows.
pub static METHODS: &[&dyn Method] = &[&simclr::SimClr];

/// The method called `name`.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    let names: Vec<&str> = METHODS.iter().map(|m| m.name()).collect();
    let found = METHODS.iter().find(|m| m.name() == name);
    found.copied().ok_or_else(|| Error::config(format!("there is no method `{name}`"), format!("choose one of {}", names.join(", "))))
}
