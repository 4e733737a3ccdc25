//! Augmented views from 8-bit images: crop, resize, flip, jitter, gray, blur, solarize, normalise in one call.
//! View v of sample i is a function of (seed, purpose, epoch, i, v) alone; see [`crate::view`].

use crate::device::Host;
use crate::random::{Purpose, Stream};
use crate::tape::{Call, Cost, Operands, Tape};
use crate::var::{Dtype, Var};
use crate::view::{Scratch, View, render};
use rayon::prelude::*;

/// Where a batch of images of any size lies, and who they are. The host fills it before a run.
#[derive(Clone, Copy)]
pub struct Batch {
    /// Decoded images, one after the other.
    pub pixels: Var, // [capacity] u8
    /// Offset into `pixels`, height, width.
    pub table: Var, // [n, 3] u32
    /// Epoch and sample, which key the random numbers.
    pub keys: Var, // [n, 2] u32
    pub n: usize,
}

impl Tape {
    /// Room for `n` images of at most `largest` bytes each.
    pub fn batch(&mut self, n: usize, largest: usize) -> Batch {
        Batch {
            pixels: self.fixed([n * largest], Dtype::U8),
            table: self.fixed([n, 3], Dtype::U32),
            keys: self.fixed([n, 2], Dtype::U32),
            n,
        }
    }

    /// One view per policy of every image: [policies * n, size, size, 3], row v * n + i. All policies must
    /// make views of one size.
    pub fn augment(&mut self, batch: Batch, policies: Vec<View>, seed: u64, purpose: Purpose) -> Var {
        let size = policies[0].size;
        assert!(policies.iter().all(|p| p.size == size), "views of one call have one size");
        let y = self.var([policies.len() * batch.n, size, size, 3]);
        self.call(Augment { y, batch, policies, seed, purpose, size });
        y
    }
}

struct Augment {
    y: Var, // [policies * n, size, size, 3]
    batch: Batch,
    policies: Vec<View>,
    seed: u64,
    purpose: Purpose,
    size: usize,
}

impl Call for Augment {
    fn name(&self) -> &'static str {
        "augment"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.batch.pixels, self.batch.table, self.batch.keys])
    }
    fn cpu(&self, m: &Host) {
        let (pixels, table, keys) = (m.bytes(self.batch.pixels), m.u(self.batch.table), m.u(self.batch.keys));
        let (pixels, table, keys, n) = (&*pixels, &*table, &*keys, self.batch.n);
        let mut y = m.f_mut(self.y);
        y.par_chunks_mut(self.size * self.size * 3).enumerate().for_each_init(Scratch::default, |scratch, (row, out)| {
            let (v, i) = (row / n, row % n);
            let [offset, height, width] = [0, 1, 2].map(|k| table[3 * i + k] as usize);
            let mut stream = Stream::new(self.seed, self.purpose, keys[2 * i], keys[2 * i + 1], v as u32);
            let drawn = self.policies[v].draw(&mut stream, height, width);
            render(&self.policies[v], &drawn, &pixels[offset..][..height * width * 3], height, width, out, scratch);
        });
    }
    fn cost(&self) -> Cost {
        let views = self.policies.len() * self.batch.n * self.size * self.size * 3;
        Cost { flops: 40 * views as u64, bytes: 5 * views as u64 }
    }
}
