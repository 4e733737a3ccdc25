//! Ways to train an encoder, all but one without labels: a method is one function from views to a loss.

mod barlow;
mod byol;
mod dino;
mod mae;
mod mocov3;
mod options;
mod simclr;
mod simsiam;
mod supervised;
mod vicreg;

pub use options::{HeadEnd, Options, Ramp};

use crate::encoders::Network;
use crate::error::{Error, Result};
use crate::ops::augment::Batch;
use crate::schedule::Schedule;
use crate::tape::{Scope, Tape};
use crate::var::Var;

/// Which of a recipe's kinds of views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewKind {
    First,
    Second,
    Local,
}

/// What a method gets to work with.
pub struct Context<'a> {
    pub network: Network,
    pub options: &'a Options,
    /// What changes from step to step: the teacher's momentum and temperature.
    pub schedule: Schedule,
    /// Who the images are: what is drawn for them depends on it.
    pub batch: Batch,
    /// How many classes the labels of the batch range over; 0 where it has none.
    pub classes: usize,
    pub seed: u64,
}

impl Context<'_> {
    /// Group `group` of the views through the encoder below `s`, to features [rows, width].
    pub fn encode(&self, s: &mut Scope, views: &[Var], group: usize) -> Var {
        let before: usize = views[..group].iter().map(|v| s.shape(*v).dims()[0]).sum();
        self.network.with_first_view(before / self.batch.n).features(&mut s.at("encoder"), views[group])
    }
}

/// What a method recorded.
pub struct LossOutput {
    pub loss: Var, // [1]
    /// What must not collapse: the embeddings that the loss sees, [rows, d].
    pub embeddings: Var,
    /// The encoder's output for two views of each sample, if the method made it: what Eq. 3 limits.
    pub representations: Representations,
    /// A number that tells how it goes, besides the loss.
    pub metric: Option<Metric>,
}

/// What a method measures of each step for the training curve, one number each.
#[derive(Clone, Copy)]
pub enum Metric {
    /// Entropy of the teacher's choice among prototypes, in nats.
    TeacherEntropy(Var),
    /// Share of views that are given their class.
    Accuracy(Var),
}

impl Metric {
    pub fn var(self) -> Var {
        match self {
            Metric::TeacherEntropy(v) | Metric::Accuracy(v) => v,
        }
    }
    /// The same, measured in `v` `[1]`.
    pub fn of(self, v: Var) -> Metric {
        match self {
            Metric::TeacherEntropy(_) => Metric::TeacherEntropy(v),
            Metric::Accuracy(_) => Metric::Accuracy(v),
        }
    }
}

pub enum Representations {
    /// Both views in one variable, [2n, d], view by view.
    Halves(Var),
    /// [n, d] each.
    Two(Var, Var),
    None,
}

/// When and how fast a weight moves, apart from the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LrPolicy {
    Usual,
    /// At the peak rate, always.
    Constant,
    /// Not in the first epochs.
    After(f32),
}

/// One way to train an encoder, as data and one function from views to a loss. `examples/own_method.rs` has one from outside.
pub trait Method: Sync {
    fn name(&self) -> &'static str;
    fn about(&self) -> &'static str;
    /// The views of a sample: those that go through the encoder together, group by group.
    fn views(&self, options: &Options) -> Vec<Vec<ViewKind>>;
    /// Refuses options and encoders that it cannot work with.
    fn check(&self, _options: &Options, _network: &Network) -> Result<()> {
        Ok(())
    }
    /// views [group * n, size, size, 3] of each group, view by view, to a loss. The encoder is always called `encoder`.
    ///
    /// # Panics
    /// The network is one that [`Method::check`] refuses, or the batch has no labels where the method learns from them.
    fn loss(&self, s: &mut Scope, context: &Context, views: &[Var]) -> LossOutput;
    /// What follows the optimizer: averages.
    fn after(&self, _tape: &mut Tape, _when: Schedule) {}
    fn lr_policy(&self, _options: &Options, _weight: &str) -> LrPolicy {
        LrPolicy::Usual
    }
    /// Does it learn from the classes of the samples? Then every sample it trains on must have one.
    fn supervised(&self) -> bool {
        false
    }
    /// Is its loss the mean of losses of the samples, each by itself? Then a step can take a batch in parts (`train.accumulate`). It is not
    /// where samples are compared with each other, as negatives, in correlations or in a centre.
    fn by_sample(&self) -> bool {
        false
    }
    /// Can its embeddings collapse? If so, training stops when they have.
    fn can_collapse(&self) -> bool {
        true
    }
}

/// Every method that `method.name` knows.
pub static METHODS: &[&dyn Method] = &[
    &simclr::SimClr,
    &mocov3::MoCoV3,
    &byol::Byol,
    &simsiam::SimSiam,
    &barlow::BarlowTwins,
    &vicreg::VicReg,
    &dino::Dino,
    &mae::Mae,
    &supervised::Supervised,
];

/// The method called `name`.
pub fn find(name: &str) -> Result<&'static dyn Method> {
    let names: Vec<&str> = METHODS.iter().map(|m| m.name()).collect();
    let found = METHODS.iter().find(|m| m.name() == name);
    found.copied().ok_or_else(|| Error::config(format!("there is no method `{name}`"), format!("choose one of {}", names.join(", "))))
}

/// Two views in two passes through the encoder, so that batch norm sees each by itself.
fn two_passes() -> Vec<Vec<ViewKind>> {
    vec![vec![ViewKind::First], vec![ViewKind::Second]]
}

fn needs(key: &str, widths: &[usize]) -> Result<()> {
    if !widths.is_empty() && widths.iter().all(|w| *w > 0) {
        return Ok(());
    }
    Err(Error::config(format!("method.{key} is {widths:?}"), "give the width of each of its layers, such as [2048, 2048]"))
}
