//! Scoring: K views of each sample, drawn once, through f and g, to the distances that Eq. 1 averages.
//!
//! A score is a function of the seed, the sample and the two encoders alone: batch size, order and number of
//! threads do not change a bit of it, nor does where a job was stopped or how it was divided into shards.

mod assemble;
pub mod bench;
mod blocks;
pub mod features;
mod job;
mod measure;
mod merge;
mod parts;
mod scorer;
mod shard;

use crate::data::{OnBadImage, Source};
use crate::device::Device;
use crate::encoders::{Features, Network};
use crate::error::{Error, Result};
use crate::loader::{Bad, Feed, expected, room, stream};
use crate::ops::alignment::Pairs;
use crate::progress::Progress;
use crate::random::Purpose;
use crate::split::Subset;
use crate::table::Row;
use crate::tape::{Mode, Tape};
use crate::var::Var;
use crate::view::View;
use crate::weights::Weights;
use std::collections::BTreeMap;
use std::path::Path;

pub use assemble::features_digest;
pub use blocks::BLOCK;
pub use job::{CLOSE, Done, Existing, Job, difference};
pub use measure::{Alignment, Confidence, Measure, classifier};
pub use merge::merge;
pub use parts::Parts;
pub use scorer::{Measured, Scorer, Task, rehearse, standard_error};
pub use shard::{Shard, name as table_name};

/// One encoder from a file, and what it sees.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub path: &'a Path,
    pub network: Network,
    /// How augmented views are drawn. Size and channel statistics are those that the encoder was trained with; the random numbers of a
    /// view do not depend on them, so f and g see the same crops and colours even where they differ there.
    pub view: View,
    /// The un-augmented view, which [`Pairs::Original`] compares with.
    pub original: View,
    /// Classes of the classifier that was trained on its features ([`classifier`]), where its confidence is asked for: of both sides or of none.
    pub classifier: Option<usize>,
}

/// What of an encoder is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// What it ends in.
    Output(Features),
    /// The whole output of a layer inside, such as `layer4.1` or `blocks.3`.
    Inner(String),
}

const OUTPUTS: [(&str, Features); 3] = [("pooled", Features::Pooled), ("mean", Features::Mean), ("map", Features::Map)];

impl Layer {
    /// `pooled`, `mean`, `map`, or the name of a layer.
    pub fn of(name: &str) -> Layer {
        match OUTPUTS.iter().find(|(known, _)| *known == name) {
            Some((_, features)) => Layer::Output(*features),
            None => Layer::Inner(name.into()),
        }
    }
    pub fn name(&self) -> &str {
        match self {
            Layer::Output(features) => OUTPUTS.iter().find(|(_, f)| f == features).map_or("", |(name, _)| name),
            Layer::Inner(name) => name,
        }
    }
}

impl Side<'_> {
    /// What it is and what it sees of an image, in one line; `role` is what to call it.
    pub fn describe(&self, role: &str) -> String {
        format!("{role}: {}; of an image it sees: {}", self.network.describe(), self.original.seen())
    }

    fn validate(&self) -> Result<()> {
        if self.view.size != self.original.size {
            return Err(Error::config("the augmented and the original view differ in size", "give both the encoder's size"));
        }
        self.view.validate()?;
        self.original.validate()
    }

    /// Record the encoder below `name`, from views to what is compared: one variable per layer.
    fn record(&self, tape: &mut Tape, name: &str, views: Var, layers: &[Layer]) -> Result<Vec<Var>> {
        let (encoder, mut s) = (self.network.encoder, tape.root());
        let mut s = s.at(name);
        if layers.iter().all(|layer| *layer == Layer::Output(Features::Pooled)) {
            let features = self.network.features(&mut s, views);
            return Ok(vec![features; layers.len()]);
        }
        let map = self.network.map(&mut s, views);
        let mut output = |features: &Features| match features {
            Features::Pooled => encoder.pool(&mut s, map),
            Features::Mean => encoder.mean(&mut s, map),
            Features::Map => map,
        };
        let outputs: Vec<Option<Var>> =
            layers.iter().map(|layer| if let Layer::Output(features) = layer { Some(output(features)) } else { None }).collect();
        let taps = tape.taps(&format!("{name}."));
        let found = layers.iter().zip(outputs).map(|(layer, output)| {
            output.or_else(|| tapped(&taps, layer.name())).ok_or_else(|| {
                let names: Vec<&str> = taps.keys().map(String::as_str).collect();
                let what = format!("{} has no layer `{}`", encoder.name(), layer.name());
                Error::config(what, format!("choose one of pooled, mean, map, {}", names.join(", ")))
            })
        });
        found.collect()
    }
}

/// A layer by its name; that of a stage (`layer3`) is its last block.
fn tapped(taps: &BTreeMap<String, Var>, name: &str) -> Option<Var> {
    let block = |tap: &str| tap.strip_prefix(name)?.strip_prefix('.')?.parse::<usize>().ok();
    let last = || taps.iter().filter_map(|(tap, var)| Some((block(tap)?, *var))).max();
    taps.get(name).copied().or_else(|| Some(last()?.1))
}

/// How the alignment of one sample is measured.
pub struct Protocol {
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
        Ok(())
    }
    /// The views of an encoder in the order of their numbers.
    fn policies(&self, side: &Side) -> Vec<View> {
        let first = (self.pairs == Pairs::Original).then_some(side.original);
        first.into_iter().chain(std::iter::repeat_n(side.view, self.views)).collect()
    }
    /// What is compared if nothing else is asked for.
    pub fn compared(&self) -> Layer {
        if self.layer.is_empty() { Layer::Output(self.features) } else { Layer::Inner(self.layer.clone()) }
    }
}

/// Pairs grow with the square of the views; the standard error of 1,000 is far below any effect.
const MOST_VIEWS: usize = 1000;

fn plural(views: usize) -> String {
    if views == 1 { "1 view".into() } else { format!("{views} views") }
}

/// Measure `samples` and return a row for each, in their order, with the alignment of f and of g; the columns
/// that need the whole table are filled by [`crate::table::finish`]. All in memory: for more samples than
/// that there is [`Job`].
pub fn score(
    f: Side,
    g: Side,
    protocol: &Protocol,
    source: &dyn Source,
    samples: &[(u32, Subset)],
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Vec<Row>> {
    let layers = [protocol.compared()];
    let mut scorer = Scorer::new(Task { f, g, protocol, layers: &layers, source, device, on_bad: OnBadImage::Fail, features: false })?;
    let ids: Vec<u32> = samples.iter().map(|(i, _)| *i).collect();
    let mut rows = Vec::with_capacity(samples.len());
    progress.start("score", samples.len() as u64, "sample");
    scorer.measure(&ids, |measured| {
        rows.extend(measured.places.iter().zip(&measured.values).map(|(&place, values)| {
            let (index, subset) = samples[place];
            Row::measured(index, source.id(index as usize), source.label(index as usize), subset, values[0])
        }));
        progress.advance(measured.places.len() as u64, "");
        Ok(())
    })?;
    progress.done();
    Ok(rows)
}

/// The features of some samples of a source, by their places in it, in order.
pub struct Embedded<'a> {
    pub places: &'a [usize],
    pub values: &'a [f32], // [places, width]
    pub width: usize,
    /// Those between that cannot be decoded.
    pub bad: &'a [Bad],
    /// Of each place, the BLAKE3 of its file, where it is one.
    pub contents: &'a [Option<blake3::Hash>],
}

/// The features of un-augmented samples as the protocol has them, one batch at a time to `take`.
///
/// # Errors
/// The weights do not fit, an image cannot be read (or decoded, unless such are skipped), `take` says so, or [`Error::Stopped`].
pub fn embed(
    side: Side,
    protocol: &Protocol,
    source: &dyn Source,
    device: &Device,
    on_bad: OnBadImage,
    progress: &mut dyn Progress,
    mut take: impl FnMut(&Embedded) -> Result<()>,
) -> Result<()> {
    let batch = protocol.batch;
    side.validate()?;
    let mut tape = Tape::new(Mode::Eval);
    let input = tape.batch_of(batch, room(batch, device));
    let views = tape.augment(input, vec![side.original], 0, 0, Purpose::Score);
    let x = side.record(&mut tape, "encoder", views, &[protocol.compared()])?[0];
    let width = tape.shape(x).len() / batch;
    tape.keep(x);
    let mut weights = Weights::on(device.clone(), 0);
    weights.load(side.path, "encoder.")?;
    weights.check(side.path, &tape.shapes_below("encoder."), "encoder.")?;
    expected(tape.plan(weights.device()), &input).must_fit(weights.device(), "embedding", "lower the batch")?;
    let mut program = tape.compile(&mut weights)?;
    progress.start("embed", source.len() as u64, "sample");
    let all: Vec<u32> = (0..source.len() as u32).collect();
    let feed = Feed { batch: input, source, samples: &all, on_bad };
    stream(&mut program, &feed, |program, part| {
        let values = if part.places.is_empty() { vec![] } else { program.read::<f32>(x)? };
        let values = &values[..part.places.len() * width];
        take(&Embedded { places: part.places, values, width, bad: part.bad, contents: part.contents })?;
        progress.advance((part.places.len() + part.bad.len()) as u64, "");
        progress.go_on("embedding")
    })?;
    progress.done();
    Ok(())
}
