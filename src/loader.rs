//! From a source to a program's batch: decode on all threads, lay the images one after the other.

use crate::data::{Image, Source};
use crate::error::Result;
use crate::ops::augment::Batch;
use crate::program::Program;
use rayon::prelude::*;

/// Put `samples` into `batch`, keyed for `epoch`. A short list is filled up by repeating its last sample, so
/// that a program of fixed size can run; the caller ignores the tail.
pub fn load(program: &mut Program, batch: &Batch, source: &dyn Source, samples: &[u32], epoch: u32) -> Result<()> {
    let images: Vec<Image> = samples.par_iter().map(|&i| source.image(i as usize)).collect::<Result<_>>()?;
    let (mut pixels, mut table, mut keys) = (vec![], vec![], vec![]);
    for (image, &sample) in images.iter().zip(samples) {
        table.extend([pixels.len() as u32, image.height as u32, image.width as u32]);
        keys.extend([epoch, sample]);
        pixels.extend_from_slice(&image.pixels);
    }
    for _ in samples.len()..batch.n {
        table.extend_from_within(table.len() - 3..);
        keys.extend_from_within(keys.len() - 2..);
    }
    program.write(batch.pixels, &pixels)?;
    program.write(batch.table, &table)?;
    program.write(batch.keys, &keys)?;
    Ok(())
}
