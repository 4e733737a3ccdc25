//! The program that scores: all views of a batch through both encoders, to distances at every layer asked for.

use super::{Layer, Protocol, Side, record, same_statistics};
use crate::data::{OnBadImage, Source};
use crate::device::Device;
use crate::encoders::Network;
use crate::error::{Error, Result};
use crate::loader::{Feed, Times, expected, room, stream};
use crate::ops::alignment::Pairs;
use crate::ops::augment::Batch;
use crate::program::Program;
use crate::random::Purpose;
use crate::tape::{Mode, Tape};
use crate::var::Var;
use crate::weights::Weights;

/// What is to be measured.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    pub f: Side<'a>,
    pub g: Side<'a>,
    pub protocol: &'a Protocol,
    /// What of the encoders is compared; all in one pass.
    pub layers: &'a [Layer],
    pub source: &'a dyn Source,
    pub device: &'a Device,
    /// What to do with an image that cannot be decoded.
    pub on_bad: OnBadImage,
    /// Give the features of the un-augmented images, too.
    pub features: bool,
}

/// Some samples by their places in a list, in its order.
pub struct Measured<'a> {
    pub places: &'a [usize],
    /// Of each of them, for each layer: alignment loss of f, of g, and the standard error of their difference.
    pub values: Vec<Vec<[f64; 3]>>,
    /// Those between that cannot be decoded, with the reason.
    pub bad: &'a [(usize, String)],
    /// Of each place, the BLAKE3 of its file, where it is one.
    pub contents: &'a [Option<blake3::Hash>],
    /// [places, width]: of the un-augmented images, f and g at the first layer, then at the next.
    features: Vec<f32>,
}

impl Measured<'_> {
    /// Those of the `i`-th place; empty if they were not asked for.
    pub fn features(&self, i: usize) -> &[f32] {
        let width = self.features.len() / self.places.len();
        &self.features[i * width..][..width]
    }
}

/// A task ready to run.
pub struct Scorer<'a> {
    task: Task<'a>,
    program: Program,
    batch: Batch,
    distances: Vec<[Var; 2]>, // by layer: [batch, pairs], of f and of g
    pairs: Vec<(usize, usize)>,
    /// Views that are compared, the original among them if it is.
    views: usize,
    /// f and g at each layer, if they were asked for: [views * batch, width], of which the view `original` is wanted.
    features: Vec<(Var, usize)>,
    original: usize,
}

/// A pass of scoring as it is recorded, before any weights are read.
struct Recorded {
    tape: Tape,
    batch: Batch,
    /// What of f and of g is compared, by layer.
    outputs: [Vec<Var>; 2],
    distances: Vec<[Var; 2]>,
    pairs: Vec<(usize, usize)>,
    /// Views that go through the encoders.
    count: usize,
    compared: usize,
    original: usize,
}

impl Recorded {
    fn new(networks: [Network; 2], protocol: &Protocol, layers: &[Layer], features: bool, device: &Device) -> Result<Recorded> {
        protocol.validate()?;
        let mut policies = protocol.policies();
        let compared = policies.len();
        let original = if protocol.pairs == Pairs::Original { 0 } else { compared };
        if features && original == compared {
            policies.push(protocol.original.clone()); // behind the others, whose random numbers depend on their place
        }
        let count = policies.len();
        let pairs = protocol.pairs.list(compared);
        let mut tape = Tape::new(Mode::Eval);
        let batch = tape.batch_of(protocol.batch, room(protocol.batch, device));
        let views = tape.augment(batch, policies, 0, protocol.seed, Purpose::Score);
        let (mut distances, mut outputs) = ([vec![], vec![]], [vec![], vec![]]);
        for (i, name) in ["f", "g"].into_iter().enumerate() {
            outputs[i] = record(networks[i], &mut tape, name, views, layers)?;
            distances[i] = outputs[i].iter().map(|x| tape.root().alignment_of(*x, count, &pairs)).collect();
        }
        let distances = by_layer(&distances);
        Ok(Recorded { tape, batch, outputs, distances, pairs, count, compared, original })
    }

    /// Refuses what the machine cannot hold.
    fn must_fit(&self, device: &Device) -> Result<()> {
        let plan = expected(self.tape.plan(device), &self.batch);
        plan.must_fit(device, "scoring", "lower score.batch or score.views")
    }
}

fn by_layer(sides: &[Vec<Var>; 2]) -> Vec<[Var; 2]> {
    sides[0].iter().zip(&sides[1]).map(|(f, g)| [*f, *g]).collect()
}

/// Find out whether two encoders of this network can be scored so, before there are any.
///
/// # Errors
/// The protocol or a layer does not exist, or memory is short.
pub fn rehearse(network: Network, protocol: &Protocol, layers: &[Layer], device: &Device) -> Result<()> {
    Recorded::new([network; 2], protocol, layers, false, device)?.must_fit(device)
}

impl<'a> Scorer<'a> {
    /// # Errors
    /// The protocol or a layer does not exist, the weights are not of these networks, or memory is short.
    pub fn new(task: Task<'a>) -> Result<Scorer<'a>> {
        let Task { f, g, protocol, layers, device, .. } = task;
        let recorded = Recorded::new([f.network, g.network], protocol, layers, task.features, device)?;
        let mut weights = Weights::on(device.clone(), 0);
        for (name, side) in [("f", f), ("g", g)] {
            let tape = &recorded.tape;
            let prefix = format!("{name}.");
            let metadata = weights.load(side.path, &prefix)?;
            weights.check(side.path, tape, &prefix)?;
            same_statistics(side.path, &metadata, &protocol.view)?;
        }
        recorded.must_fit(weights.device())?;
        let Recorded { mut tape, batch, outputs, distances, pairs, count, compared, original } = recorded;
        let width = |x: Var| (x, tape.shape(x).len() / (count * protocol.batch));
        let features: Vec<_> = if task.features { by_layer(&outputs).into_iter().flatten().map(width).collect() } else { vec![] };
        distances.iter().flatten().chain(features.iter().map(|(x, _)| x)).for_each(|x| tape.keep(*x));
        let program = tape.compile(&mut weights)?;
        Ok(Scorer { task, program, batch, distances, pairs, views: compared, features, original })
    }

    /// Of the features of f and g at each layer; none if they were not asked for.
    pub fn widths(&self) -> Vec<usize> {
        self.features.iter().map(|(_, width)| *width).collect()
    }

    /// Measure samples of the source, given by index; `take` gets them in their order, some at a time.
    ///
    /// # Errors
    /// An image cannot be read (or decoded, unless such are skipped), features are not finite, the device fails, or
    /// `take` says so. Whatever came before was given to `take`.
    pub fn measure(&mut self, samples: &[u32], mut take: impl FnMut(&Measured) -> Result<()>) -> Result<Times> {
        let &mut Scorer { task, ref mut program, batch, ref distances, ref pairs, views, ref features, original } = self;
        let feed = Feed { batch, source: task.source, samples, on_bad: task.on_bad };
        stream(program, &feed, |program, part| {
            let mut values = vec![Vec::with_capacity(distances.len()); part.places.len()];
            for [f, g] in distances {
                if part.places.is_empty() {
                    break;
                }
                let (f, g): (Vec<f32>, Vec<f32>) = (program.read(*f)?, program.read(*g)?);
                for (i, values) in values.iter_mut().enumerate() {
                    let own = i * pairs.len()..(i + 1) * pairs.len();
                    values.push(reduce(&f[own.clone()], &g[own], pairs, views));
                }
            }
            for (&place, values) in part.places.iter().zip(&values) {
                values.iter().try_for_each(|[f, g, _]| finite(&task, *f, *g, samples[place]))?;
            }
            let read = if part.places.is_empty() { &[] } else { &features[..] };
            let read: Vec<Vec<f32>> = read.iter().map(|(x, _)| program.read::<f32>(*x)).collect::<Result<_>>()?;
            let row = |i: usize| read.iter().zip(features).flat_map(move |(x, (_, w))| &x[(original * batch.n + i) * w..][..*w]);
            let features: Vec<f32> = (0..part.places.len()).flat_map(row).copied().collect();
            take(&Measured { places: part.places, values, bad: part.bad, contents: part.contents, features })
        })
    }
}

fn finite(task: &Task, align_f: f64, align_g: f64, sample: u32) -> Result<()> {
    if align_f.is_finite() && align_g.is_finite() {
        return Ok(());
    }
    let (who, path) = if align_f.is_finite() { ("g", task.g.path) } else { ("f", task.f.path) };
    let id = task.source.id(sample as usize);
    Err(Error::format(path, format!("{who} gives features that are not finite for sample {id}; these weights cannot be used")))
}

fn reduce(f: &[f32], g: &[f32], pairs: &[(usize, usize)], views: usize) -> [f64; 3] {
    let mean = |d: &[f32]| d.iter().map(|v| *v as f64).sum::<f64>() / d.len() as f64;
    let delta: Vec<f64> = f.iter().zip(g).map(|(f, g)| *g as f64 - *f as f64).collect();
    [mean(f), mean(g), jackknife(&delta, pairs, views)]
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
