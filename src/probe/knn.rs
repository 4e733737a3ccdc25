//! Weighted k-NN over cosine similarities (Wu et al., 2018; as DINO, solo-learn and lightly evaluate).
//!
//! Floor: 2 test·train·width operations; the training features are read once for every 64 test samples.

use rayon::prelude::*;

use super::Features;
use crate::device::product::{Left, PANEL, Right, multiply, pack, packed_len};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How neighbours vote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbours {
    pub k: usize,
    /// Votes have weight exp(similarity / temperature); without a temperature weights are equal.
    pub temperature: Option<f64>,
}

/// DINO's and solo-learn's two, lightly's, and the unweighted ten of the reference recipe.
pub const NEIGHBOURS: [Neighbours; 4] = [
    Neighbours { k: 10, temperature: None },
    Neighbours { k: 20, temperature: Some(0.07) },
    Neighbours { k: 200, temperature: Some(0.07) },
    Neighbours { k: 200, temperature: Some(0.1) },
];

impl Neighbours {
    pub fn name(&self) -> String {
        match self.temperature {
            Some(t) => format!("k-NN, k {}, T {t}", self.k),
            None => format!("k-NN, k {}, unweighted", self.k),
        }
    }
}

/// Training samples in one product: a block of 64 columns of similarities stays in the cache.
const BLOCK: usize = 512;

/// For each way to vote, the rank (from 0) of each test sample's class among the classes by votes. Ties of similarity go to the lower
/// index, ties of votes to the lower class; a class without votes has no rank.
///
/// # Errors
/// There are fewer training samples than neighbours; [`Error::Stopped`].
pub fn neighbours(train: &Features, test: &Features, ways: &[Neighbours], progress: &mut dyn Progress) -> Result<Vec<Vec<usize>>> {
    let most = ways.iter().map(|way| way.k).max().unwrap_or(0);
    if train.len() < most {
        let what = format!("k-NN asks for {most} neighbours, but there are {} labelled training samples", train.len());
        return Err(Error::config(what, "take more samples"));
    }
    let (train, test) = (train.unit(), test.unit());
    progress.start("k-NN", test.len() as u64, "sample");
    let mut ranks = vec![Vec::with_capacity(test.len()); ways.len()];
    let panels: Vec<usize> = (0..test.len()).step_by(PANEL).collect();
    // Some panels at a time, so that progress is shown.
    for panels in panels.chunks(4 * rayon::current_num_threads()) {
        let near: Vec<Vec<Vec<Near>>> = panels.par_iter().map(|&first| nearest(&train, &test, first, most)).collect();
        for (&first, near) in panels.iter().zip(near) {
            for (sample, near) in near.iter().enumerate() {
                let label = test.labels[first + sample];
                ways.iter().zip(&mut ranks).for_each(|(way, ranks)| ranks.push(vote(&train, &near[..way.k], way.temperature, label)));
            }
            progress.advance(PANEL.min(test.len() - first) as u64, "");
        }
        progress.go_on("k-NN")?;
    }
    progress.done();
    Ok(ranks)
}

/// A training sample and how similar it is.
type Near = (f32, u32);

/// The `k` nearest of up to 64 test samples from `first` on, nearest first.
fn nearest(train: &Features, test: &Features, first: usize, k: usize) -> Vec<Vec<Near>> {
    let columns = PANEL.min(test.len() - first);
    let mut panel = vec![0.0; packed_len(train.width, columns)];
    pack(train.width, columns, &mut panel, |depth, column| test.row(first + column)[depth]);
    let right = Right::packed(&panel, train.width, columns);
    let mut near: Vec<Vec<Near>> = vec![vec![]; columns];
    // The similarity to exceed. Later samples lose ties, so an equal one is not nearer than the last one kept.
    let mut limits = vec![f32::NEG_INFINITY; columns];
    let mut similar = vec![0.0; BLOCK * columns]; // [BLOCK, columns]
    for begin in (0..train.len()).step_by(BLOCK) {
        let rows = BLOCK.min(train.len() - begin);
        let left = Left { data: &train.values[begin * train.stride..], row_step: train.stride, depth_step: 1 };
        multiply(left, rows, train.width, right, &mut similar, columns, false);
        for (row, similar) in similar.chunks_exact(columns).take(rows).enumerate() {
            for (column, similar) in similar.iter().enumerate() {
                if *similar > limits[column] {
                    let near = &mut near[column];
                    near.push((*similar, (begin + row) as u32));
                    if near.len() == 2 * k {
                        keep(near, k);
                        limits[column] = near[k - 1].0;
                    }
                }
            }
        }
    }
    near.iter_mut().for_each(|near| keep(near, k));
    near
}

/// The nearest `k`, in order.
fn keep(near: &mut Vec<Near>, k: usize) {
    near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    near.truncate(k);
}

/// The rank of `label` by votes.
fn vote(train: &Features, near: &[Near], temperature: Option<f64>, label: u32) -> usize {
    let mut votes = vec![0.0f64; train.classes];
    for &(similar, index) in near {
        votes[train.labels[index as usize] as usize] += temperature.map_or(1.0, |t| (similar as f64 / t).exp());
    }
    let own = votes[label as usize];
    if own == 0.0 {
        return usize::MAX;
    }
    votes.iter().enumerate().filter(|&(class, votes)| *votes > own || (*votes == own && class < label as usize)).count()
}
