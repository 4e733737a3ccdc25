//! A linear classifier: its predictions, loss and gradient.
//!
//! Floor: 4 samples·width·classes operations for loss and gradient; features are read twice, from the cache the second time.

use rayon::prelude::*;

use super::Features;
use crate::device::product::{Left, PANEL, Right, multiply, pack, packed_len};
use crate::random::{Purpose, Stream};

/// Weights and biases.
#[derive(Clone, Debug)]
pub struct Head {
    pub values: Vec<f64>, // [classes, width], then [classes]
    pub classes: usize,
    pub width: usize,
}

/// A sum over samples runs in at most this many groups, which are added in order, so that it does not depend on threads.
const GROUPS: usize = 16;
/// Samples in one product.
const CHUNK: usize = 256;

impl Head {
    pub fn zero(classes: usize, width: usize) -> Head {
        Head { values: vec![0.0; classes * (width + 1)], classes, width }
    }

    /// PyTorch's start: uniform within 1/sqrt(width).
    pub fn random(classes: usize, width: usize, seed: u64) -> Head {
        let (mut stream, bound) = (Stream::new(seed, Purpose::Probe, 0, 1, 0), (width as f32).sqrt().recip());
        let values = (0..classes * (width + 1)).map(|_| stream.range(-bound, bound) as f64).collect();
        Head { values, classes, width }
    }

    /// Number of weights among the values; the rest are biases.
    pub fn weights(&self) -> usize {
        self.classes * self.width
    }

    fn packed(&self) -> Vec<f32> {
        let mut packed = vec![0.0; packed_len(self.width, self.classes)];
        pack(self.width, self.classes, &mut packed, |depth, class| self.values[class * self.width + depth] as f32);
        packed
    }

    /// The logits of up to [`CHUNK`] samples from `first` on into `to` [count, classes].
    fn logits(&self, packed: &[f32], features: &Features, first: usize, to: &mut [f32]) {
        let left = Left { data: &features.values[first * features.stride..], row_step: features.stride, depth_step: 1 };
        let right = Right::packed(packed, self.width, self.classes);
        multiply(left, to.len() / self.classes, self.width, right, to, self.classes, false);
        let bias = &self.values[self.weights()..];
        to.chunks_exact_mut(self.classes).for_each(|row| row.iter_mut().zip(bias).for_each(|(v, bias)| *v = (*v as f64 + bias) as f32));
    }

    /// The rank (from 0) of each sample's class by its logit; ties go to the lower class.
    pub fn ranks(&self, features: &Features) -> Vec<usize> {
        let packed = self.packed();
        let rank = |(row, &label): (&[f32], &u32)| {
            let (label, own) = (label as usize, row[label as usize]);
            row.iter().enumerate().filter(|&(class, v)| *v > own || (*v == own && class < label)).count()
        };
        let chunk = |(at, labels): (usize, &[u32])| {
            let mut logits = vec![0.0; labels.len() * self.classes];
            self.logits(&packed, features, at * CHUNK, &mut logits);
            logits.chunks_exact(self.classes).zip(labels).map(rank).collect::<Vec<_>>()
        };
        features.labels.par_chunks(CHUNK).enumerate().flat_map_iter(chunk).collect()
    }

    /// The mean cross-entropy of the samples, and its gradient in the layout of the values.
    pub fn loss(&self, features: &Features) -> (f64, Vec<f64>) {
        let (n, packed) = (features.len(), self.packed());
        let group = n.div_ceil(GROUPS).max(64);
        let firsts: Vec<usize> = (0..n).step_by(group).collect();
        let sums: Vec<_> = firsts.par_iter().map(|&first| self.sum(&packed, features, first, group.min(n - first))).collect();
        let (mut loss, mut gradient) = (0.0, vec![0.0f64; self.values.len()]);
        for (part, weights, biases) in sums {
            loss += part / n as f64;
            let parts = weights.iter().map(|v| *v as f64).chain(biases);
            gradient.iter_mut().zip(parts).for_each(|(sum, v)| *sum += v / n as f64);
        }
        (loss, gradient)
    }

    /// The summed loss of `count` samples from `first` on, and its gradients by weights and biases.
    fn sum(&self, packed: &[f32], features: &Features, first: usize, count: usize) -> (f64, Vec<f32>, Vec<f64>) {
        let k = self.classes;
        let (mut loss, mut weights, mut biases) = (0.0, vec![0.0f32; self.weights()], vec![0.0f64; k]);
        let mut logits = vec![0.0; CHUNK.min(count) * k];
        for begin in (first..first + count).step_by(CHUNK) {
            let rows = CHUNK.min(first + count - begin);
            let logits = &mut logits[..rows * k];
            self.logits(packed, features, begin, logits);
            for (row, &label) in logits.chunks_exact_mut(k).zip(&features.labels[begin..]) {
                loss += cross_entropy(row, label as usize);
                biases.iter_mut().zip(&*row).for_each(|(sum, v)| *sum += *v as f64);
            }
            let left = Left { data: logits, row_step: 1, depth_step: k };
            // Without packing: the panels of this right matrix are ranges of the features' columns.
            let data = &features.values[begin * features.stride..];
            let right = Right { data, width: self.width, panel: PANEL, panel_step: PANEL, stride: features.stride };
            multiply(left, k, rows, right, &mut weights, self.width, true);
        }
        (loss, weights, biases)
    }
}

/// The cross-entropy of one sample, whose logits become its gradient: softmax less the label.
fn cross_entropy(row: &mut [f32], label: usize) -> f64 {
    let largest = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let own = (row[label] - largest) as f64;
    let mut sum = 0.0f64;
    for v in row.iter_mut() {
        *v = (*v - largest).exp();
        sum += *v as f64;
    }
    let scale = sum.recip() as f32;
    row.iter_mut().for_each(|v| *v *= scale);
    row[label] -= 1.0;
    sum.ln() - own
}
