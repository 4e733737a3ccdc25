//! Random masking as in MAE (He et al. 2022): the patches with the smallest uniform noise are seen.

use super::Case;
use super::augment::Batch;
use crate::device::{Arg, Gpu, Host, Launch};
use crate::random::{Purpose, Stream};
use crate::tape::{Call, Cost, Mode, Operands, Scope, Tape};
use crate::var::{Dtype, Var};
use rayon::prelude::*;

/// The patches of each image in a random order, of which the first `keep` are seen.
#[derive(Clone, Copy, Debug)]
pub struct Masking {
    /// `[n, keep]` u32: the patches that are seen, in the order of their noise.
    pub ids_keep: Var,
    /// `[n, patches]` u32: the rank of each patch's noise; ranks below `keep` are seen.
    pub ids_restore: Var,
    pub keep: usize,
}

impl Tape {
    /// Chooses `keep` of the `tokens` patches of each image. The noise is a function of (seed, epoch, sample, patch) alone; of equal noise
    /// the first patch wins. No gradient. Kernel: `mask.cu`.
    ///
    /// # Panics
    /// `keep` is 0 or larger than `tokens`.
    pub fn mask(&mut self, batch: Batch, tokens: usize, keep: usize, seed: u64) -> Masking {
        assert!(0 < keep && keep <= tokens, "{keep} of {tokens} patches are no choice");
        let (ids, place) = (self.fixed([batch.n, keep], Dtype::U32), self.fixed([batch.n, tokens], Dtype::U32));
        self.no_grad(Mask { ids, place, keys: batch.keys, n: batch.n, tokens, keep, seed });
        Masking { ids_keep: ids, ids_restore: place, keep }
    }
}

struct Mask {
    ids: Var,   // [n, keep] u32
    place: Var, // [n, tokens] u32
    keys: Var,  // [n, 2] u32
    n: usize,
    tokens: usize,
    keep: usize,
    seed: u64,
}

impl Call for Mask {
    fn name(&self) -> &'static str {
        "mask"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.ids, self.place], &[self.keys])
    }
    fn cpu(&self, m: &Host) {
        let (keys, mut ids, mut place) = (m.u(self.keys), m.u_mut(self.ids), m.u_mut(self.place));
        let images = ids.par_chunks_mut(self.keep).zip(place.par_chunks_mut(self.tokens)).zip(keys.par_chunks(2));
        images.for_each(|((ids, place), keys)| {
            let mut stream = Stream::new(self.seed, Purpose::Mask, keys[0], keys[1], 0);
            let noise: Vec<f32> = place.iter().map(|_| stream.uniform()).collect();
            let mut order: Vec<u32> = (0..self.tokens as u32).collect();
            order.sort_by(|a, b| noise[*a as usize].total_cmp(&noise[*b as usize]));
            order.iter().enumerate().for_each(|(rank, l)| place[*l as usize] = rank as u32);
            ids.copy_from_slice(&order[..self.keep]);
        });
    }
    fn gpu(&self, g: &Gpu) {
        let launch = Launch { shared: 4 * self.tokens as u32, ..Launch::blocks("mask", self.n) };
        let pointers = [self.ids.into(), self.place.into(), self.keys.into(), self.tokens.into(), self.keep.into()];
        let words = [self.seed as u32, (self.seed >> 32) as u32, (Purpose::Mask as u32) << 24].map(Arg::from);
        g.launch(&launch, &[&pointers[..], &words].concat());
    }
    fn cost(&self, _: u64) -> Cost {
        Cost { flops: 0, bytes: 4 * (self.n * (self.tokens + self.keep)) as u64 }
    }
}

/// Keys of `n` samples as a loader would write them, for cases.
pub(super) fn batch(t: &mut Tape, n: usize) -> Batch {
    let keys = t.words([n, 2], (0..n as u32).flat_map(|i| [3, 100 + 7 * i]).collect());
    let (pixels, table) = (t.fixed([16], Dtype::U8), t.fixed([n, 3], Dtype::U32));
    Batch { pixels, table, keys, labels: None, n, capacity: 16 }
}

pub static CASES: &[Case] = &[
    Case { name: "mask/one", mode: Mode::Eval, inputs: &[&[1, 2, 2, 3]], build: |s, x| seen(s, x[0], 2, 1) },
    Case { name: "mask/quarter", mode: Mode::Eval, inputs: &[&[5, 16, 16, 3]], build: |s, x| seen(s, x[0], 4, 4) },
    // More patches than a block has threads.
    Case { name: "mask/many", mode: Mode::Eval, inputs: &[&[2, 40, 36, 3]], build: |s, x| seen(s, x[0], 2, 90) },
];

/// The patches that are seen.
fn seen(s: &mut Scope, images: Var, patch: usize, keep: usize) -> Var {
    let &[n, h, w, _] = s.shape(images).dims() else { panic!("a case of [n, h, w, c]") };
    let batch = batch(s.tape(), n);
    let masking = s.tape().mask(batch, h / patch * (w / patch), keep, 9);
    s.patches(images, patch, Some(masking))
}
