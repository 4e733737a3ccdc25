//! The program that scores: it encodes all views of a batch with f and g and compares them at every layer asked for.

use super::measure::{Alignment, Confidence, Measure, heads_of};
use super::{EncoderFile, Layer, Protocol};
use crate::data::{OnBadImage, Source};
use crate::device::Device;
use crate::encoders::{CLASSIFIER, Features};
use crate::error::{Error, Result};
use crate::loader::{Bad, Feed, Times, expected, room, stream};
use crate::ops::alignment::Pairs;
use crate::ops::augment::Batch;
use crate::program::Program;
use crate::random::Purpose;
use crate::table::More;
use crate::tape::{Mode, Tape};
use crate::var::Var;
use crate::weights::Weights;

/// Encoders, protocol and data of a measurement.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    pub f: EncoderFile<'a>,
    pub g: EncoderFile<'a>,
    pub protocol: &'a Protocol,
    pub source: &'a dyn Source,
    pub device: &'a Device,
    /// Treatment of an image that cannot be decoded.
    pub on_bad: OnBadImage,
    /// Also return the features of the un-augmented images.
    pub features: bool,
}

impl<'a> Task<'a> {
    /// On the CPU; an image that cannot be decoded is an error.
    pub fn new(f: EncoderFile<'a>, g: EncoderFile<'a>, protocol: &'a Protocol, source: &'a dyn Source) -> Task<'a> {
        Task { f, g, protocol, source, device: &Device::Cpu, on_bad: OnBadImage::Fail, features: false }
    }

    /// Columns that not every table has: the confidence of the two classifiers, if both are given.
    pub fn more(&self) -> &'static [More] {
        let classifiers = [self.f, self.g].iter().all(|side| side.classifier.is_some());
        if classifiers { Confidence::COLUMNS } else { &[] }
    }
}

/// Results of a batch. A place is a position in the list of samples; places ascend.
pub struct BatchScores<'a> {
    pub places: &'a [usize],
    /// For each place and layer: alignment loss of f, of g, and the standard error of their difference.
    pub values: Vec<Vec<[f64; 3]>>,
    /// [places, columns] of [`Task::more`].
    more: Vec<f64>,
    /// Samples between these places that cannot be decoded.
    pub bad: &'a [Bad],
    /// For each place the BLAKE3 of the image file; `None` for a sample that is no file.
    pub contents: &'a [Option<blake3::Hash>],
    /// [places, width]: features of the un-augmented images, f and g at the first layer, then at the next.
    features: Vec<f32>,
}

impl BatchScores<'_> {
    /// The values of [`Task::more`] at the `i`-th place.
    pub fn more(&self, i: usize) -> &[f64] {
        let width = self.more.len() / self.places.len();
        &self.more[i * width..][..width]
    }
    /// The features at the `i`-th place; empty if they were not asked for.
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
    alignments: Vec<Alignment>, // by layer
    confidence: Option<Confidence>,
    /// Features of f and g at each layer, if asked for: [views * batch, width]. Only the rows of the view `original` are read.
    features: Vec<(Var, usize)>,
    original: usize,
}

/// A recorded scoring pass, before any weights are read.
struct Recording {
    tape: Tape,
    batch: Batch,
    /// The compared representations of f and of g, by layer.
    outputs: [Vec<Var>; 2],
    alignments: Vec<Alignment>,
    confidence: Option<Confidence>,
    /// Views that go through the encoders.
    count: usize,
    original: usize,
}

impl Recording {
    fn new([f, g]: [EncoderFile; 2], protocol: &Protocol, features: bool, device: &Device) -> Result<Recording> {
        let classifiers = [f.classifier, g.classifier];
        let confident = classifiers.iter().all(Option::is_some);
        protocol.validate()?;
        f.validate()?;
        g.validate()?;
        let compared = protocol.policies(&f).len();
        let original = if protocol.pairs == Pairs::Original { 0 } else { compared };
        let beside = (features || confident) && original == compared;
        // Last, because the random numbers of a view depend on its number.
        let policies = |side: &EncoderFile| protocol.policies(side).into_iter().chain(beside.then_some(side.original)).collect::<Vec<_>>();
        let count = compared + beside as usize;
        let mut tape = Tape::new(Mode::Eval);
        let batch = tape.batch_of(protocol.batch, room(protocol.batch, device));
        let batch = if confident { tape.labelled(batch) } else { batch };
        let views = tape.augment(batch, policies(&f), 0, protocol.seed, Purpose::Score);
        // Views that are equal for f and g are rendered once.
        let alike = policies(&f) == policies(&g);
        let others = if alike { views } else { tape.augment(batch, policies(&g), 0, protocol.seed, Purpose::Score) };
        // The classifier's input is the last output of each encoder.
        let pooled = confident.then_some(Layer::Output(Features::Pooled));
        let wanted: Vec<Layer> = protocol.layers.iter().cloned().chain(pooled).collect();
        let [mut of_f, mut of_g] = [f.record(&mut tape, "f", views, &wanted)?, g.record(&mut tape, "g", others, &wanted)?];
        let confidence = match classifiers {
            [Some(at_f), Some(at_g)] => {
                of_f.pop().zip(of_g.pop()).map(|(x, y)| Confidence::record(&mut tape, [x, y], &batch, original, [at_f, at_g]))
            }
            _ => None,
        };
        let outputs = [of_f, of_g];
        let align = |both: [Var; 2]| Alignment::record(&mut tape, both, count, compared, protocol.pairs);
        let alignments = by_layer(&outputs).into_iter().map(align).collect();
        Ok(Recording { tape, batch, outputs, alignments, confidence, count, original })
    }

    /// Refuses a pass that does not fit in memory.
    fn must_fit(&self, device: &Device) -> Result<()> {
        let plan = expected(self.tape.plan(device), &self.batch);
        plan.must_fit(device, "scoring", "lower score.batch or score.views")
    }
}

fn by_layer(sides: &[Vec<Var>; 2]) -> Vec<[Var; 2]> {
    sides[0].iter().zip(&sides[1]).map(|(f, g)| [*f, *g]).collect()
}

/// Checks whether two encoders like this one can be scored, before they are trained. The file need not exist.
///
/// # Errors
/// The protocol or a layer does not exist, or memory is short.
pub fn rehearse(side: EncoderFile, protocol: &Protocol, device: &Device) -> Result<()> {
    Recording::new([side; 2], protocol, false, device)?.must_fit(device)
}

impl<'a> Scorer<'a> {
    /// # Errors
    /// The protocol or a layer does not exist, the weights are not of these networks, or memory is short.
    pub fn new(task: Task<'a>) -> Result<Scorer<'a>> {
        let Task { f, g, protocol, device, .. } = task;
        let recorded = Recording::new([f, g], protocol, task.features, device)?;
        let mut weights = Weights::on(device.clone(), 0);
        for (name, side) in [("f", f), ("g", g)] {
            let tape = &recorded.tape;
            let prefix = format!("{name}.");
            weights.load(side.path, &prefix)?;
            if side.classifier.is_some() {
                weights.load_head(&heads_of(side.path), &prefix, CLASSIFIER)?;
            }
            weights.check(side.path, &tape.shapes_below(&prefix), &prefix)?;
        }
        recorded.must_fit(weights.device())?;
        let Recording { mut tape, batch, outputs, alignments, confidence, count, original } = recorded;
        let width = |x: Var| (x, tape.shape(x).len() / (count * protocol.batch));
        let features: Vec<_> = if task.features { by_layer(&outputs).into_iter().flatten().map(width).collect() } else { vec![] };
        let measures = alignments.iter().map(|m| m as &dyn Measure).chain(confidence.iter().map(|m| m as &dyn Measure));
        measures.flat_map(Measure::vars).chain(features.iter().map(|(x, _)| x)).for_each(|x| tape.keep(*x));
        let program = tape.compile(&mut weights)?;
        Ok(Scorer { task, program, batch, alignments, confidence, features, original })
    }

    /// Widths of the features of f and g at each layer; empty if they were not asked for.
    pub fn widths(&self) -> Vec<usize> {
        self.features.iter().map(|(_, width)| *width).collect()
    }

    /// Measures samples of the source, given by index. `take` gets the results batch by batch, in order.
    ///
    /// # Errors
    /// An image cannot be read (or decoded, unless bad images are skipped), features are not finite, the device fails, or `take` fails.
    /// `take` has had all results before the error.
    pub fn measure(&mut self, samples: &[u32], mut take: impl FnMut(&BatchScores) -> Result<()>) -> Result<Times> {
        let &mut Scorer { task, ref mut program, batch, ref alignments, ref confidence, ref features, original } = self;
        let feed = Feed { batch, source: task.source, samples, on_bad: task.on_bad };
        stream(program, &feed, |program, part| {
            let mut values = vec![Vec::with_capacity(alignments.len()); part.places.len()];
            for alignment in alignments {
                numbers(program, alignment, part.places.len(), |i, found| values[i].push([found[0], found[1], found[2]]))?;
            }
            let mut more = vec![];
            if let Some(confidence) = confidence {
                numbers(program, confidence, part.places.len(), |_, found| more.extend(found))?;
            }
            for (&place, values) in part.places.iter().zip(&values) {
                values.iter().try_for_each(|[f, g, _]| finite(&task, *f, *g, samples[place]))?;
            }
            // A sample without a class has no confidence (NaN); with a class NaN would mean broken features.
            for (&place, found) in part.places.iter().zip(more.chunks_exact(Confidence::COLUMNS.len())) {
                if task.source.label(samples[place] as usize).is_some() {
                    finite(&task, found[0], found[1], samples[place])?;
                }
            }
            let read = if part.places.is_empty() { &[] } else { &features[..] };
            let read: Vec<Vec<f32>> = read.iter().map(|(x, _)| program.read::<f32>(*x)).collect::<Result<_>>()?;
            let row = |i: usize| read.iter().zip(features).flat_map(move |(x, (_, w))| &x[(original * batch.n + i) * w..][..*w]);
            let features: Vec<f32> = (0..part.places.len()).flat_map(row).copied().collect();
            take(&BatchScores { places: part.places, values, more, bad: part.bad, contents: part.contents, features })
        })
    }
}

/// Refuses results of a sample that are not finite.
fn finite(task: &Task, of_f: f64, of_g: f64, sample: u32) -> Result<()> {
    if of_f.is_finite() && of_g.is_finite() {
        return Ok(());
    }
    let (who, path) = if of_f.is_finite() { ("g", task.g.path) } else { ("f", task.f.path) };
    let id = task.source.id(sample as usize);
    Err(Error::format(path, format!("{who} gives features or logits that are not finite for sample {id}; these weights cannot be used")))
}

/// The measure's numbers for the first `samples` of the batch that the program last ran on.
fn numbers(program: &Program, measure: &dyn Measure, samples: usize, mut take: impl FnMut(usize, Vec<f64>)) -> Result<()> {
    if samples > 0 {
        let read: Vec<Vec<f32>> = measure.vars().iter().map(|v| program.read(*v)).collect::<Result<_>>()?;
        (0..samples).for_each(|i| take(i, measure.reduce(&read, i)));
    }
    Ok(())
}
