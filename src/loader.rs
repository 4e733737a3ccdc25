//! From a source to a program's batch: decode on all threads, lay the images one after the other.

use crate::data::{Image, Source};
use crate::error::{Error, Result};
use crate::ops::augment::Batch;
use crate::program::Program;
use rayon::prelude::*;

/// The decoded images of a batch.
struct Images {
    pixels: Vec<u8>, // one image after the other
    table: Vec<u32>, // [n, 3]: offset, height, width
    keys: Vec<u32>,  // [n, 2]: epoch, sample
}

impl Images {
    fn decode(batch: &Batch, source: &dyn Source, samples: &[u32], epoch: u32) -> Result<Images> {
        let images: Vec<Image> = samples.par_iter().map(|&i| source.image(i as usize)).collect::<Result<_>>()?;
        let (mut pixels, mut table, mut keys) = (vec![], vec![], vec![]);
        for (image, &sample) in images.iter().zip(samples) {
            table.extend([pixels.len() as u32, image.height as u32, image.width as u32]);
            keys.extend([epoch, sample]);
            pixels.extend_from_slice(&image.pixels);
            if u32::try_from(pixels.len()).is_err() {
                return Err(Error::config(format!("{} images of this size are more than 4 GiB in one batch", batch.n), "lower the batch"));
            }
        }
        for _ in samples.len()..batch.n {
            table.extend_from_within(table.len() - 3..);
            keys.extend_from_within(keys.len() - 2..);
        }
        Ok(Images { pixels, table, keys })
    }

    fn put(&self, program: &mut Program, batch: &Batch) -> Result<()> {
        program.write(batch.pixels, &self.pixels)?;
        program.write(batch.table, &self.table)?;
        program.write(batch.keys, &self.keys)
    }
}

/// Put `samples` into `batch`, keyed for `epoch`. A short list is filled up by repeating its last sample, so
/// that a program of fixed size can run; the caller ignores the tail.
pub fn load(program: &mut Program, batch: &Batch, source: &dyn Source, samples: &[u32], epoch: u32) -> Result<()> {
    Images::decode(batch, source, samples, epoch)?.put(program, batch)
}

/// Run `program` on all `samples`, a batch at a time, and give each part to `take`, which reads its results. The next
/// images are decoded before results are read, so a GPU works while the CPU decodes.
pub fn stream(
    program: &mut Program,
    batch: &Batch,
    source: &dyn Source,
    samples: &[u32],
    mut take: impl FnMut(&Program, &[u32]) -> Result<()>,
) -> Result<()> {
    let mut parts = samples.chunks(batch.n).map(|part| Ok((part, Images::decode(batch, source, part, 0)?)));
    let mut next = parts.next().transpose()?;
    while let Some((part, images)) = next {
        images.put(program, batch)?;
        program.run()?;
        next = parts.next().transpose()?;
        take(program, part)?;
    }
    Ok(())
}
