//! Measures the speed of each part of scoring alone, and of scoring as a whole.

use super::{BatchScores, Scorer, Task};
use crate::error::{Error, Result};
use crate::loader::{expected, load, room};
use crate::progress::Progress;
use crate::random::Purpose;
use crate::tape::{Mode, Tape};
use crate::var::Dtype;
use crate::weights::Weights;
use rayon::prelude::*;
use std::time::Instant;

/// Samples per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Speeds {
    /// Decoding, augmentation, f and g, each with the whole machine for itself.
    pub parts: Vec<(&'static str, f64)>,
    pub whole: f64,
}

impl Speeds {
    /// The slowest part, and its share of the summed time of all parts.
    pub fn bottleneck(&self) -> (&'static str, f64) {
        let total: f64 = self.parts.iter().map(|(_, speed)| 1.0 / speed).sum();
        let slowest = self.parts.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        slowest.map_or(("nothing", 0.0), |(name, speed)| (name, 1.0 / speed / total))
    }
}

/// Repeats `work` on so many samples for `seconds`, after one run to warm up.
fn speed(seconds: f64, mut work: impl FnMut() -> Result<usize>) -> Result<f64> {
    work()?;
    let (start, mut done) = (Instant::now(), 0);
    while done == 0 || start.elapsed().as_secs_f64() < seconds {
        done += work()?;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Measures each part for about `seconds`, on the first samples of `task.source`.
///
/// # Errors
/// As scoring.
pub fn measure(task: Task, seconds: f64, progress: &mut dyn Progress) -> Result<Speeds> {
    let Task { f, g, protocol, source, device, .. } = task;
    if source.is_empty() {
        return Err(Error::config("the data set is empty", "name one with images"));
    }
    let mut scorer = Scorer::new(task)?;
    let n = protocol.batch.min(source.len());
    let some = |from: usize| (0..n).map(|i| ((from + i) % source.len()) as u32).collect::<Vec<u32>>();
    let mut at = 0;
    let mut next = || {
        at += n;
        some(at - n)
    };
    let mut parts = vec![];
    progress.line("decode alone");
    // A bad image counts, because it took time, too.
    let decode = speed(seconds, || Ok(next().par_iter().map(|&i| source.image(i as usize).is_ok()).count()))?;
    parts.push(("decode", decode));

    progress.line("augment alone");
    let policies = protocol.policies(&f);
    let count = policies.len();
    let mut tape = Tape::new(Mode::Eval);
    let batch = tape.batch_of(protocol.batch, room(protocol.batch, device));
    let views = tape.augment(batch, policies, 0, protocol.seed, Purpose::Score);
    tape.keep(views);
    expected(tape.plan(device), &batch).must_fit(device, "augmenting", "lower score.batch or score.views")?;
    let mut program = tape.compile(&mut Weights::on(device.clone(), 0))?;
    let good: Vec<u32> = some(0).into_iter().filter(|&i| source.image(i as usize).is_ok()).collect();
    if good.is_empty() {
        return Err(Error::config(format!("none of the first {n} images can be decoded"), "look at the data"));
    }
    load(&mut program, &batch, source, &good, 0)?;
    let augment = speed(seconds, || {
        program.run()?;
        program.read::<u32>(batch.keys)?; // a read waits for the GPU
        Ok(protocol.batch)
    })?;
    parts.push(("augment", augment));

    for (name, side) in [("f", f), ("g", g)] {
        progress.line(&format!("{name} alone"));
        let mut tape = Tape::new(Mode::Eval);
        let size = f.view.size;
        let x = tape.fixed([count * protocol.batch, size, size, 3], Dtype::Activation);
        let compared = side.record(&mut tape, name, x, &protocol.layers)?;
        let distances: Vec<_> = compared.into_iter().map(|x| tape.root().alignment(x, count, protocol.pairs)).collect();
        distances.iter().for_each(|d| tape.keep(*d));
        let mut weights = Weights::on(device.clone(), 0);
        let prefix = format!("{name}.");
        weights.load(side.path, &prefix)?;
        weights.check(side.path, &tape.shapes_below(&prefix), &prefix)?;
        let mut program = tape.compile(&mut weights)?;
        let pixels = vec![0.5f32; count * protocol.batch * size * size * 3];
        program.write(x, &pixels)?;
        let encode = speed(seconds, || {
            program.run()?;
            distances.iter().try_for_each(|d| program.read::<f32>(*d).map(|_| ()))?;
            Ok(protocol.batch)
        })?;
        parts.push((name, encode));
    }

    progress.line("all together");
    let whole = speed(2.0 * seconds, || {
        let samples: Vec<u32> = (0..4).flat_map(|_| next()).collect();
        scorer.measure(&samples, |_: &BatchScores| Ok(()))?;
        Ok(samples.len())
    })?;
    Ok(Speeds { parts, whole })
}
