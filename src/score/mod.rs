//! Scoring: K views of each sample are drawn once, encoded by f and g, and compared by the distances of Eq. 1.
//!
//! A score is a function of the seed, the sample and the two encoders alone. Batch size, order, threads, interruptions and shards change no
//! bit of it.

mod assemble;
pub mod bench;
mod blocks;
mod embed;
pub mod features;
mod job;
mod measure;
mod merge;
mod parts;
mod scorer;
mod shard;

use crate::data::Source;
use crate::device::Device;
use crate::encoders::{Features, Network};
use crate::error::{Error, Result};
use crate::ops::alignment::Pairs;
use crate::progress::Progress;
use crate::split::Subset;
use crate::table::{self, Row};
use crate::tape::Tape;
use crate::var::Var;
use crate::view::View;
use std::collections::BTreeMap;
use std::path::Path;

pub use assemble::features_digest;
pub use blocks::BLOCK;
pub use embed::{Embed, Embedded, Embedding};
pub use job::{CLOSE, Job, JobReport};
pub use measure::{Alignment, Confidence, Measure, classifier, standard_error};
pub use merge::merge;
pub use scorer::{BatchScores, Scorer, Task, rehearse};
pub use shard::{Shard, name as table_name};

/// One encoder from a file, and the settings of its images.
#[derive(Clone, Copy)]
pub struct EncoderFile<'a> {
    pub path: &'a Path,
    pub network: Network,
    /// How augmented views are drawn. Size and channel statistics are those of the encoder's training. The random numbers of a view do not
    /// depend on them, so f and g see the same crops and colours even if these settings differ.
    pub view: View,
    /// The un-augmented view: the fixed side of every pair of [`Pairs::Original`].
    pub original: View,
    /// Number of classes of the classifier in its heads ([`classifier`]), if confidence is asked for; set for both sides or for neither.
    pub classifier: Option<usize>,
}

/// A representation of the encoder that is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The encoder's output, pooled or not.
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

impl EncoderFile<'_> {
    /// One line about the network and the settings of its images, under the name `role`.
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

    /// Records the encoder below `name`, from views to the compared representations: one variable per layer.
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

/// A layer by its name. The name of a stage (`layer3`) means its last block.
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
    /// The compared layers. Each gives scores of its own, all in one pass.
    pub layers: Vec<Layer>,
    pub seed: u64,
    /// Samples per run of the program. Scores do not depend on it.
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
        match self.layers.iter().enumerate().find(|(i, layer)| self.layers[..*i].contains(layer)) {
            Some((_, twice)) => Err(Error::config(format!("the layer `{}` is named twice", twice.name()), "name it once")),
            None if self.layers.is_empty() => Err(Error::config("nothing of the encoders is compared", "name a layer, such as pooled")),
            None => Ok(()),
        }
    }
    /// The views of an encoder in the order of their numbers.
    fn policies(&self, side: &EncoderFile) -> Vec<View> {
        let first = (self.pairs == Pairs::Original).then_some(side.original);
        first.into_iter().chain(std::iter::repeat_n(side.view, self.views)).collect()
    }
}

/// A bound, because pairs grow with the square of the views. With 1,000 views the standard error is far below any effect.
const MOST_VIEWS: usize = 1000;

fn plural(views: usize) -> String {
    if views == 1 { "1 view".into() } else { format!("{views} views") }
}

/// Measures `samples` and returns a row for each, in their order. Rows are held in memory; [`Job`] is for larger sets.
pub fn score(
    f: EncoderFile,
    g: EncoderFile,
    protocol: &Protocol,
    source: &dyn Source,
    samples: &[(u32, Subset)],
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Vec<Row>> {
    let mut scorer = Scorer::new(Task { device, ..Task::new(f, g, protocol, source) })?;
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
    table::finish(&mut rows);
    Ok(rows)
}
