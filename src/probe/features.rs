//! The labelled samples of a data set, and their features from a frozen encoder.

use crate::data::{Image, Source};
use crate::device::product::LANES;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::score::Embedding;

/// Features and labels of samples.
#[derive(Clone)]
pub struct Features {
    /// A row takes `stride` values in memory, because the matrix products read whole vectors.
    pub values: Vec<f32>, // [samples, stride], zero from `width` on
    pub labels: Vec<u32>, // [samples], below `classes`
    pub width: usize,
    pub stride: usize,
    pub classes: usize,
}

impl Features {
    /// From rows of `width` numbers, `[labels.len(), width]`; labels are below `classes`.
    ///
    /// # Panics
    /// The number of rows differs from that of labels.
    pub fn new(rows: &[f32], width: usize, labels: Vec<u32>, classes: usize) -> Features {
        assert_eq!(rows.len(), labels.len() * width, "a row for each label");
        let stride = width.next_multiple_of(LANES);
        let mut values = vec![0.0; labels.len() * stride];
        for (to, from) in values.chunks_exact_mut(stride).zip(rows.chunks_exact(width)) {
            to[..width].copy_from_slice(from);
        }
        Features { values, labels, width, stride, classes }
    }

    /// An encoder's features of these samples, and the samples that cannot be decoded: (id, reason).
    ///
    /// # Errors
    /// As [`Embedding::each`]; a feature is not finite.
    ///
    /// # Panics
    /// A sample has no label; [`labelled`] chooses samples with labels.
    pub fn of(embedding: &Embedding, classes: usize, progress: &mut dyn Progress) -> Result<(Features, Vec<(String, String)>)> {
        let samples = embedding.source;
        let (mut rows, mut places, mut skipped): (Vec<f32>, Vec<usize>, _) = (vec![], vec![], vec![]);
        embedding.each(progress, |some| {
            rows.extend_from_slice(some.values);
            places.extend_from_slice(some.places);
            skipped.extend(some.bad.iter().map(|bad| (samples.id(bad.place), bad.reason.clone())));
            Ok(())
        })?;
        let width = rows.len() / places.len().max(1);
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            let id = samples.id(places[at / width]);
            return Err(Error::format(
                embedding.side.path,
                format!("gives features that are not finite for sample {id}; these weights cannot be used"),
            ));
        }
        let labels: Vec<u32> = places.iter().filter_map(|&place| samples.label(place)).collect();
        Ok((Features::new(&rows, width, labels, classes), skipped))
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub fn row(&self, sample: usize) -> &[f32] {
        &self.values[sample * self.stride..][..self.width]
    }

    /// The rows with these indices, in their order.
    pub fn select(&self, samples: &[u32]) -> Features {
        let mut values = Vec::with_capacity(samples.len() * self.stride);
        samples.iter().for_each(|&i| values.extend_from_slice(&self.values[i as usize * self.stride..][..self.stride]));
        Features { values, labels: samples.iter().map(|&i| self.labels[i as usize]).collect(), ..self.shape() }
    }

    /// L2-normalised rows; zero stays zero.
    pub fn unit(&self) -> Features {
        let mut unit = self.clone();
        for row in unit.values.chunks_exact_mut(self.stride) {
            let norm = row.iter().map(|v| *v as f64 * *v as f64).sum::<f64>().sqrt().max(1e-12);
            row.iter_mut().for_each(|v| *v = (*v as f64 / norm) as f32);
        }
        unit
    }

    /// Standardised by mean and deviation over `train`; a constant feature becomes 0.
    pub fn standardised(&self, train: &Features) -> Features {
        let n = train.len() as f64;
        let mut mean = vec![0.0f64; self.stride];
        for row in train.values.chunks_exact(self.stride) {
            mean.iter_mut().zip(row).for_each(|(sum, v)| *sum += *v as f64 / n);
        }
        let mut variance = vec![0.0f64; self.stride];
        for row in train.values.chunks_exact(self.stride) {
            variance.iter_mut().zip(row).zip(&mean).for_each(|((sum, v), mean)| *sum += (*v as f64 - mean).powi(2) / n);
        }
        // A deviation below this share of the mean is rounding error.
        let scale = |(var, mean): (&f64, &f64)| if *var > 1e-12 * mean * mean { var.sqrt().recip() } else { 0.0 };
        let scale: Vec<f64> = variance.iter().zip(&mean).map(scale).collect();
        let mut result = self.clone();
        for row in result.values.chunks_exact_mut(self.stride) {
            row.iter_mut().zip(&mean).zip(&scale).for_each(|((v, mean), scale)| *v = ((*v as f64 - mean) * scale) as f32);
        }
        result
    }

    /// The same without samples.
    fn shape(&self) -> Features {
        let &Features { width, stride, classes, .. } = self;
        Features { values: vec![], labels: vec![], width, stride, classes }
    }
}

/// A subset of a data set, as a data set.
pub struct Chosen<'a> {
    source: &'a dyn Source,
    indices: Vec<u32>,
}

/// The samples of `indices` with a label, and the number of those without. Above `limit` a random subset is taken, because data sets are
/// often sorted by class; it keeps the order.
pub fn labelled(source: &dyn Source, indices: impl IntoIterator<Item = u32>, limit: Option<usize>, seed: u64) -> (Chosen<'_>, usize) {
    let (known, unknown): (Vec<u32>, Vec<u32>) = indices.into_iter().partition(|&i| source.label(i as usize).is_some());
    let mut indices = known;
    if let Some(limit) = limit.filter(|limit| *limit < indices.len()) {
        let mut order = Stream::new(seed, Purpose::Probe, 0, 2, 0).permutation(indices.len());
        order.truncate(limit);
        order.sort_unstable();
        indices = order.into_iter().map(|place| indices[place as usize]).collect();
    }
    (Chosen { source, indices }, unknown.len())
}

impl Source for Chosen<'_> {
    fn name(&self) -> &str {
        self.source.name()
    }
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn train_len(&self) -> usize {
        self.indices.len()
    }
    fn id(&self, index: usize) -> String {
        self.source.id(self.indices[index] as usize)
    }
    fn label(&self, index: usize) -> Option<u32> {
        self.source.label(self.indices[index] as usize)
    }
    fn classes(&self) -> &[String] {
        self.source.classes()
    }
    fn digest(&self) -> &str {
        self.source.digest()
    }
    fn largest(&self) -> usize {
        self.source.largest()
    }
    fn image(&self, index: usize) -> Result<Image> {
        self.source.image(self.indices[index] as usize)
    }
    fn image_within(&self, index: usize, admit: &mut dyn FnMut(u64) -> bool) -> Result<Option<(Image, Option<blake3::Hash>)>> {
        self.source.image_within(self.indices[index] as usize, admit)
    }
}
