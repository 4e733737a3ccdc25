//! Scoring: K views of each sample, drawn once, through f and g, to the distances that Eq. 1 averages.
//!
//! A score is a function of the seed, the sample and the two encoders alone: batch size, order and number of
//! threads do not change a bit of it.

use crate::data::Source;
use crate::device::Device;
use crate::encoders::{Features, Network};
use crate::error::{Error, Result};
use crate::loader::stream;
use crate::ops::alignment::Pairs;
use crate::ops::augment::Batch;
use crate::program::Program;
use crate::progress::Progress;
use crate::random::Purpose;
use crate::split::Subset;
use crate::table::Row;
use crate::tape::{Mode, Tape};
use crate::var::Var;
use crate::view::View;
use crate::weights::Weights;
use std::collections::HashMap;
use std::path::Path;

/// One encoder from a file.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub path: &'a Path,
    pub network: Network,
}

impl Side<'_> {
    /// Record the encoder below `name`, from views to what is compared.
    fn record(&self, tape: &mut Tape, name: &str, views: Var, features: Features, layer: &str) -> Result<Var> {
        let mut s = tape.root();
        let x = self.network.represent(&mut s.at(name), views, features);
        if layer.is_empty() {
            return Ok(x);
        }
        let taps = tape.taps(&format!("{name}."));
        taps.get(layer).copied().ok_or_else(|| {
            let names: Vec<&str> = taps.keys().map(String::as_str).collect();
            Error::config(format!("{} has no layer `{layer}`", self.network.encoder.name()), format!("choose one of {}", names.join(", ")))
        })
    }
}

/// How the alignment of one sample is measured.
pub struct Protocol {
    /// How augmented views are drawn.
    pub view: View,
    /// The un-augmented view that [`Pairs::Original`] compares with.
    pub original: View,
    /// K, the number of augmented views.
    pub views: usize,
    pub pairs: Pairs,
    pub features: Features,
    /// The layer whose whole output is compared instead of the features; empty for none.
    pub layer: String,
    pub seed: u64,
    /// Samples per run of the program. No influence on the scores.
    pub batch: usize,
}

impl Protocol {
    fn validate(&self) -> Result<()> {
        let least = if self.pairs == Pairs::All { 2 } else { 1 };
        if self.views < least {
            return Err(Error::config(
                format!("{} cannot make a pair of views", plural(self.views)),
                format!("choose score.views of at least {least}"),
            ));
        }
        if self.views > MOST_VIEWS {
            return Err(Error::config(
                format!("{} views of each sample are too many", self.views),
                format!("choose score.views of at most {MOST_VIEWS}"),
            ));
        }
        if self.batch == 0 {
            return Err(Error::config("score.batch is 0", "choose at least 1"));
        }
        if self.view.size != self.original.size {
            return Err(Error::config("the augmented and the original view differ in size", "give both the encoder's size"));
        }
        self.view.validate()?;
        self.original.validate()
    }
    /// The views in the order of their numbers.
    fn policies(&self) -> Vec<View> {
        let first = (self.pairs == Pairs::Original).then(|| self.original.clone());
        first.into_iter().chain(std::iter::repeat_n(self.view.clone(), self.views)).collect()
    }
}

/// Pairs grow with the square of the views; the standard error of 1,000 is far below any effect.
const MOST_VIEWS: usize = 1000;

fn plural(views: usize) -> String {
    if views == 1 { "1 view".into() } else { format!("{views} views") }
}

/// Weights that say how their images were normalised must get such images: others give plausible nonsense.
fn same_statistics(path: &Path, metadata: &HashMap<String, String>, view: &View) -> Result<()> {
    for (name, here) in [("mean", view.mean), ("std", view.std)] {
        if let Some(trained) = metadata.get(name).filter(|t| **t != format!("{here:?}")) {
            let what = format!("{} was trained on images with channel {name} {trained}, these views have {here:?}", path.display());
            return Err(Error::config(what, "choose the same with --normalize"));
        }
    }
    Ok(())
}

/// What a program over two sets of weights measures of a batch.
struct Scorer {
    batch: Batch,
    distances: [Var; 2], // [batch, pairs], of f and of g
    protocol_views: usize,
    pairs: Vec<(usize, usize)>,
}

impl Scorer {
    fn new(f: Side, g: Side, protocol: &Protocol, largest: usize, device: &Device) -> Result<(Program, Scorer)> {
        let policies = protocol.policies();
        let count = policies.len();
        let mut tape = Tape::new(Mode::Eval);
        let batch = tape.batch(protocol.batch, largest);
        let views = tape.augment(batch, policies, 0, protocol.seed, Purpose::Score);
        let mut weights = Weights::on(device.clone(), 0);
        let mut distances = vec![];
        for (name, side) in [("f", f), ("g", g)] {
            let x = side.record(&mut tape, name, views, protocol.features, &protocol.layer)?;
            distances.push(tape.root().alignment(x, count, protocol.pairs));
            let prefix = format!("{name}.");
            let metadata = weights.load(side.path, &prefix)?;
            weights.check(side.path, &tape, &prefix)?;
            same_statistics(side.path, &metadata, &protocol.view)?;
        }
        distances.iter().for_each(|d| tape.keep(*d));
        tape.plan(weights.device()).must_fit(weights.device(), "scoring", "lower score.batch or score.views")?;
        let program = tape.compile(&mut weights)?;
        let pairs = protocol.pairs.list(count);
        Ok((program, Scorer { batch, distances: [distances[0], distances[1]], protocol_views: count, pairs }))
    }

    /// (align_f, align_g, stderr of their difference) of each of `count` samples that the program has just measured.
    fn results(&self, program: &Program, count: usize) -> Result<Vec<[f64; 3]>> {
        let [f, g] = self.distances;
        let (f, g): (Vec<f32>, Vec<f32>) = (program.read(f)?, program.read(g)?);
        let p = self.pairs.len();
        Ok((0..count).map(|i| self.reduce(&f[i * p..][..p], &g[i * p..][..p])).collect())
    }

    fn reduce(&self, f: &[f32], g: &[f32]) -> [f64; 3] {
        let mean = |d: &[f32]| d.iter().map(|v| *v as f64).sum::<f64>() / d.len() as f64;
        let delta: Vec<f64> = f.iter().zip(g).map(|(f, g)| *g as f64 - *f as f64).collect();
        [mean(f), mean(g), jackknife(&delta, &self.pairs, self.protocol_views)]
    }
}

/// Standard error of the mean over pairs, leaving out one view at a time (Efron and Stein 1981): pairs that
/// share a view are not independent. NaN where leaving one out leaves nothing.
fn jackknife(delta: &[f64], pairs: &[(usize, usize)], views: usize) -> f64 {
    let without = |v: usize| {
        let rest: Vec<f64> = delta.iter().zip(pairs).filter(|(_, (a, b))| *a != v && *b != v).map(|(d, _)| *d).collect();
        (!rest.is_empty()).then(|| rest.iter().sum::<f64>() / rest.len() as f64)
    };
    let left: Vec<f64> = (0..views).filter_map(without).collect();
    if left.len() < 2 {
        return f64::NAN;
    }
    let (n, mean) = (left.len() as f64, left.iter().sum::<f64>() / left.len() as f64);
    ((n - 1.0) / n * left.iter().map(|l| (l - mean).powi(2)).sum::<f64>()).sqrt()
}

/// Measure `samples` and return a row for each, in their order, with the alignment of f and of g; the columns
/// that need the whole table are filled by [`crate::table::finish`].
pub fn score(
    f: Side,
    g: Side,
    protocol: &Protocol,
    source: &dyn Source,
    samples: &[(u32, Subset)],
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Vec<Row>> {
    protocol.validate()?;
    let (mut program, scorer) = Scorer::new(f, g, protocol, source.largest(), device)?;
    let mut rows = Vec::with_capacity(samples.len());
    progress.start("score", samples.len() as u64, "sample");
    let ids: Vec<u32> = samples.iter().map(|(i, _)| *i).collect();
    stream(&mut program, &scorer.batch, source, &ids, |program, part| {
        let known = &samples[rows.len()..][..part.len()];
        for (&(index, subset), [align_f, align_g, stderr]) in known.iter().zip(scorer.results(program, part.len())?) {
            if !(align_f.is_finite() && align_g.is_finite()) {
                let (who, path) = if align_f.is_finite() { ("g", g.path) } else { ("f", f.path) };
                return Err(Error::format(
                    path,
                    format!(
                        "{who} gives features that are not finite for sample {}; these weights cannot be used",
                        source.id(index as usize)
                    ),
                ));
            }
            let (id, label) = (source.id(index as usize), source.label(index as usize));
            rows.push(Row {
                index,
                id,
                label,
                subset,
                align_f,
                align_g,
                delta: 0.0,
                score: 0.0,
                relative: 0.0,
                calibrated: f64::NAN,
                stderr,
            });
        }
        progress.advance(part.len() as u64, "");
        Ok(())
    })?;
    progress.done();
    Ok(rows)
}

/// The features of un-augmented samples as the protocol has them, one batch at a time to `take`, as [samples, width].
pub fn embed(
    side: Side,
    protocol: &Protocol,
    source: &dyn Source,
    device: &Device,
    progress: &mut dyn Progress,
    mut take: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let &Protocol { original: ref view, features, batch, .. } = protocol;

    view.validate()?;
    let mut tape = Tape::new(Mode::Eval);
    let input = tape.batch(batch, source.largest());
    let views = tape.augment(input, vec![view.clone()], 0, 0, Purpose::Score);
    let x = side.record(&mut tape, "encoder", views, features, &protocol.layer)?;
    let width = tape.shape(x).len() / batch;
    tape.keep(x);
    let mut weights = Weights::on(device.clone(), 0);
    let metadata = weights.load(side.path, "encoder.")?;
    weights.check(side.path, &tape, "encoder.")?;
    same_statistics(side.path, &metadata, view)?;
    tape.plan(weights.device()).must_fit(weights.device(), "embedding", "lower the batch")?;
    let mut program = tape.compile(&mut weights)?;
    progress.start("embed", source.len() as u64, "sample");
    let all: Vec<u32> = (0..source.len() as u32).collect();
    stream(&mut program, &input, source, &all, |program, part| {
        take(&program.read::<f32>(x)?[..part.len() * width])?;
        progress.advance(part.len() as u64, "");
        Ok(())
    })?;
    progress.done();
    Ok(())
}
