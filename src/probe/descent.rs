//! Linear probes by stochastic descent, as the SSLMem paper and its released code train them.

use std::f64::consts::PI;

use super::{Features, Head};
use crate::error::Result;
use crate::progress::Progress;
use crate::random::{Purpose, Stream};

/// The optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// MAE's: trust 0.001 and no decay, momentum 0.9, biases without trust.
    Lars,
    /// PyTorch's, with its betas and this decay, biases too.
    AdamW { decay: f64 },
}

/// Settings of a head's training.
#[derive(Clone, Debug)]
pub struct Descent {
    pub rule: Rule,
    /// Peak learning rate.
    pub rate: f64,
    pub batch: usize,
    pub epochs: usize,
    pub warmup: usize,
}

impl Descent {
    /// Table 6 of the paper: 4.8 for SimCLR, 1.6 for the others, at a batch of 4096. With fewer samples the batch is all of them, and the
    /// rate is scaled with its size.
    pub fn paper(samples: usize, method: Option<&str>) -> Descent {
        let batch = samples.min(4096);
        let peak = if method == Some("simclr") { 4.8 } else { 1.6 };
        Descent { rule: Rule::Lars, rate: peak * batch as f64 / 4096.0, batch, epochs: 90, warmup: 10 }
    }

    /// linear_probing_train.py of the released code: 1e-3 at a batch of 256.
    pub fn code(samples: usize) -> Descent {
        Descent { rule: Rule::AdamW { decay: 0.05 }, rate: 5e-4, batch: samples.min(128), epochs: 90, warmup: 10 }
    }

    pub fn name(&self) -> String {
        let rule = if self.rule == Rule::Lars { "LARS" } else { "AdamW" };
        let Descent { rate, batch, epochs, .. } = self;
        format!("linear, {rule} {rate}, batch {batch}, {epochs} epochs")
    }

    /// The learning rate at step `step` of `steps` in an epoch: MAE's schedule for LARS, that of the released code for AdamW.
    fn at(&self, epoch: usize, step: usize, steps: usize) -> f64 {
        let (epochs, warmup) = (self.epochs as f64, self.warmup as f64);
        match self.rule {
            Rule::Lars => {
                let at = epoch as f64 + step as f64 / steps as f64;
                let factor = if at < warmup { at / warmup } else { 0.5 + 0.5 * (PI * (at - warmup) / (epochs - warmup)).cos() };
                self.rate * factor
            }
            Rule::AdamW { .. } => {
                let at = epoch as f64;
                self.rate * ((at + 1.0) / warmup).min(0.5 * ((PI * at / epochs).cos() + 1.0))
            }
        }
    }
}

/// Trains `head`. Every epoch takes all samples in a new order; its last batch may be smaller.
///
/// # Errors
/// [`Error::Stopped`](crate::error::Error::Stopped).
pub fn descend(head: &mut Head, train: &Features, descent: &Descent, seed: u64, progress: &mut dyn Progress) -> Result<()> {
    let steps = train.len().div_ceil(descent.batch);
    let mut state = State { first: vec![0.0; head.values.len()], second: vec![0.0; head.values.len()], steps: 0 };
    progress.start(&descent.name(), descent.epochs as u64, "epoch");
    for epoch in 0..descent.epochs {
        let order = Stream::new(seed, Purpose::Probe, 1 + epoch as u32, 0, 0).permutation(train.len());
        let mut total = 0.0;
        for (step, batch) in order.chunks(descent.batch).enumerate() {
            let (loss, gradient) = head.loss(&train.select(batch));
            total += loss * batch.len() as f64 / train.len() as f64;
            state.step(head, &gradient, descent.rule, descent.at(epoch, step, steps));
        }
        progress.advance(1, &format!("loss {total:.3}"));
        progress.go_on("the linear probe")?;
    }
    progress.done();
    Ok(())
}

/// Optimizer state.
struct State {
    first: Vec<f64>,  // like the head: momentum
    second: Vec<f64>, // like the head: AdamW's squares
    steps: i32,
}

impl State {
    fn step(&mut self, head: &mut Head, gradient: &[f64], rule: Rule, rate: f64) {
        self.steps += 1;
        let weights = head.weights();
        match rule {
            Rule::Lars => {
                let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
                let (w, g) = (norm(&head.values[..weights]), norm(&gradient[..weights]));
                let trust = if w > 0.0 && g > 0.0 { 0.001 * w / g } else { 1.0 };
                for (i, g) in gradient.iter().enumerate() {
                    self.first[i] = 0.9 * self.first[i] + if i < weights { trust * g } else { *g };
                    head.values[i] -= rate * self.first[i];
                }
            }
            Rule::AdamW { decay } => {
                let (correct1, correct2) = (1.0 - 0.9f64.powi(self.steps), 1.0 - 0.999f64.powi(self.steps));
                for (i, g) in gradient.iter().enumerate() {
                    self.first[i] = 0.9 * self.first[i] + 0.1 * g;
                    self.second[i] = 0.999 * self.second[i] + 0.001 * g * g;
                    let step = self.first[i] / correct1 / ((self.second[i] / correct2).sqrt() + 1e-8);
                    head.values[i] -= rate * (decay * head.values[i] + step);
                }
            }
        }
    }
}
