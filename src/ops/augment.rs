//! Augmented views from 8-bit images: crop, resize, flip, jitter, gray, blur, solarize, normalise in one call.
//! View v of sample i is a function of (seed, purpose, epoch, i, v) alone; see [`crate::view`].

use crate::device::{Arg, Gpu, Host, Launch};
use crate::error::Error;
use crate::random::{Purpose, Stream};
use crate::tape::{Call, Cost, Operands, Tape};
use crate::var::{Dtype, Var};
use crate::view::{Crop, Interpolation, Jitter, Scratch, View, render};
use rayon::prelude::*;

/// The input of a program: a batch of images of any size, and their identities. The host fills it before a run.
#[derive(Clone, Copy)]
pub struct Batch {
    /// Decoded images `[height, width, 3]`, one after the other. The last 16 bytes stay free, because kernels read whole words.
    pub pixels: Var, // [capacity] u8
    /// Offset into `pixels` (bytes), height, width.
    pub table: Var, // [n, 3] u32
    /// Epoch and sample, which key the random numbers.
    pub keys: Var, // [n, 2] u32
    /// Class labels, for supervised losses and measures; [`NO_LABEL`] where a sample has none.
    pub labels: Option<Var>, // [n] u32
    pub n: usize,
    /// Bytes of `pixels`.
    pub capacity: usize,
}

/// The label of a sample without a class.
pub const NO_LABEL: u32 = u32::MAX;

impl Tape {
    /// A batch of `n` images of at most `largest` bytes each, plus the 16 bytes that kernels may read beyond the last pixel.
    pub fn batch(&mut self, n: usize, largest: usize) -> Batch {
        self.batch_of(n, n * largest + 16)
    }

    /// A batch of `n` images of `capacity` bytes together, 16 of which stay free.
    pub fn batch_of(&mut self, n: usize, capacity: usize) -> Batch {
        Batch {
            pixels: self.fixed([capacity], Dtype::U8),
            table: self.fixed([n, 3], Dtype::U32),
            keys: self.fixed([n, 2], Dtype::U32),
            labels: None,
            n,
            capacity,
        }
    }

    /// The same batch, with the classes of its samples.
    pub fn labelled(&mut self, batch: Batch) -> Batch {
        Batch { labels: Some(self.fixed([batch.n], Dtype::U32)), ..batch }
    }

    /// One view per policy of every image: `[policies * n, size, size, 3]`, where row v * n + i is view v of image i.
    ///
    /// `first` is the number of the first view, on which its random numbers depend. No gradient. Kernel: `augment.cu`.
    ///
    /// # Panics
    /// There is no policy, or their views differ in size.
    pub fn augment(&mut self, batch: Batch, policies: Vec<View>, first: usize, seed: u64, purpose: Purpose) -> Var {
        let size = policies[0].size;
        assert!(policies.iter().all(|p| p.size == size), "views of one call have one size");
        let y = self.var([policies.len() * batch.n, size, size, 3]);
        let numbers = self.fixed([policies.len(), WORDS], Dtype::U32);
        self.gpu_only(numbers);
        self.no_grad(Augment { y, numbers, batch, policies, first, seed, purpose, size });
        y
    }
}

struct Augment {
    y: Var,       // [policies * n, size, size, 3]
    numbers: Var, // [policies, WORDS] u32: a `Policy` of kernels/draw.cuh each
    batch: Batch,
    policies: Vec<View>,
    first: usize,
    seed: u64,
    purpose: Purpose,
    size: usize,
}

/// Words of `Policy` in kernels/draw.cuh.
pub const WORDS: usize = 40;
/// Constants of kernels/augment.cu: pixels of a thread, values that a thread blurs at once, the gap between them, zeros around the blur's weights, and its
/// static shared memory in bytes.
const PIXELS: usize = 8;
const RUN: usize = 8;
const GAP: usize = 11;
const PADDING: usize = 3 * RUN;
const STATIC: usize = 1024;
/// Two blocks of 128 registers per thread fill a multiprocessor: one computes while the other waits at a barrier.
const THREADS: usize = 256;
const BLOCKS: usize = 2;

/// A policy as the kernel reads it: `Policy` in kernels/draw.cuh.
pub fn numbers(view: &View) -> [u32; WORDS] {
    let (kind, scale, ratio, resize) = match view.crop {
        Crop::Random { scale, ratio } => (0, scale, ratio, 0),
        Crop::Center { resize } => (1, [1.0; 2], [1.0; 2], resize),
        Crop::Whole => (2, [1.0; 2], [1.0; 2], view.size),
        Crop::Square { resize } => (2, [1.0; 2], [1.0; 2], resize),
    };
    let ratio = ratio.map(f64::from);
    let mut words = vec![];
    for double in [scale.map(f64::from), ratio.map(f64::ln), ratio].concat() {
        words.extend([double.to_bits() as u32, (double.to_bits() >> 32) as u32]);
    }
    let off = Jitter { brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.0, p: 0.0 };
    let jitter = view.jitter.as_ref().unwrap_or(&off);
    let strengths = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue];
    let tones = (0..4).map(|t| ((strengths[t] > 0.0) as u32) << t).sum::<u32>() | (view.is_plain() as u32) << 4;
    words.extend([view.size as u32, kind, resize as u32, (view.interpolation == Interpolation::Bicubic) as u32, tones]);
    let float = |x: &f32| x.to_bits();
    words.extend([view.flip, view.gray].iter().chain(&view.mean).map(float));
    words.extend(view.std.iter().map(|s| (1.0 / s).to_bits()).chain([jitter.p.to_bits()]));
    words.extend(strengths[..3].iter().flat_map(|s| [(1.0 - s).max(0.0), 1.0 + s]).chain([-jitter.hue, jitter.hue]).map(f32::to_bits));
    let (p, sigma, kernel) = view.blur.as_ref().map_or((0.0, [0.0; 2], 0), |b| (b.p, b.sigma, b.kernel.unwrap_or(0)));
    words.extend([p, sigma[0], sigma[1]].iter().map(float).chain([kernel as u32]));
    let (p, threshold) = view.solarize.as_ref().map_or((0.0, 0.0), |s| (s.p, s.threshold));
    words.extend([p, threshold].iter().map(float));
    words.try_into().expect("the fields of Policy")
}

/// The strips in which a block processes its view: `rows` rows of `tile` columns, plus `halo` pixels on each side for a blur.
#[derive(Debug, PartialEq)]
struct Strips {
    tile: usize,
    rows: usize,
    halo: usize,
    /// Floats for the source rows of a strip.
    capacity: usize,
    threads: usize,
    shared: usize,
}

impl Strips {
    /// The strips for blocks that may use `shared` bytes. Prefers whole rows, then tall strips, which read fewer source rows twice.
    fn new(size: usize, halo: usize, shared: usize) -> Option<Strips> {
        let threads = (size * size).div_ceil(PIXELS).next_multiple_of(32).min(THREADS);
        let half = ((shared + 1024) / BLOCKS).saturating_sub(1024);
        let tiles = || std::iter::successors(Some(size), |t| (*t > RUN).then(|| t.div_ceil(2)));
        let good = |s: &Strips| s.rows >= RUN.min(size);
        let fits = |shared| tiles().filter_map(move |tile| Strips::fitting(size, tile, halo, threads, shared));
        let whole = fits(half).next().filter(|s| good(s) && s.tile == size);
        whole.or_else(|| fits(shared).find(good)).or_else(|| fits(shared).max_by_key(|s| s.rows))
    }

    /// The tallest strips of `tile` columns.
    fn fitting(size: usize, tile: usize, halo: usize, threads: usize, shared: usize) -> Option<Strips> {
        let width = (tile + 2 * halo).min(size);
        let floats = shared.checked_sub(STATIC)? / 4;
        let most = (PIXELS * threads / width).min(size);
        (1..=most).rev().find_map(|rows| {
            let blur = if halo == 0 { 0 } else { 2 * halo + 1 + PADDING + (rows + 2 * halo).min(size) * tile * 3 };
            // Up to a scale of 1.5 a strip's source rows fit at once; more would only keep other blocks away.
            let capacity = floats.checked_sub(blur)?.min((rows * 3 / 2 + 8) * width * 3) / 4 * 4;
            let shared = 4 * (capacity + blur);
            // The pixels of a strip, with the gaps between runs that a blur needs against bank conflicts.
            (capacity >= rows * (3 * width + GAP * (width / RUN))).then_some(Strips { tile, rows, halo, capacity, threads, shared })
        })
    }
}

impl Call for Augment {
    fn name(&self) -> &'static str {
        "augment"
    }
    fn operands(&self) -> Operands {
        Operands::new(&[self.y], &[self.numbers, self.batch.pixels, self.batch.table, self.batch.keys])
    }
    fn cpu(&self, m: &Host) {
        let (pixels, table, keys) = (m.bytes(self.batch.pixels), m.u(self.batch.table), m.u(self.batch.keys));
        let (pixels, table, keys, n) = (&*pixels, &*table, &*keys, self.batch.n);
        let mut y = m.f_mut(self.y);
        y.par_chunks_mut(self.size * self.size * 3).enumerate().for_each_init(Scratch::default, |scratch, (row, out)| {
            let (v, i) = (row / n, row % n);
            let [offset, height, width] = [0, 1, 2].map(|k| table[3 * i + k] as usize);
            let mut stream = Stream::new(self.seed, self.purpose, keys[2 * i], keys[2 * i + 1], (self.first + v) as u32);
            let drawn = self.policies[v].draw(&mut stream, height, width);
            render(&self.policies[v], &drawn, &pixels[offset..][..height * width * 3], height, width, out, scratch);
        });
    }
    fn prepare(&self, g: &Gpu) {
        // A kernel reads four pixels in whole words, so it may read bytes that no image has filled.
        g.write(self.batch.pixels, &vec![0u8; self.batch.capacity]);
        g.write(self.numbers, &self.policies.iter().flat_map(numbers).collect::<Vec<u32>>());
    }
    fn gpu(&self, g: &Gpu) {
        let radius = |p: &View| p.blur.as_ref().map_or(0, |b| b.width(b.sigma[1]) / 2);
        let halo = self.policies.iter().map(radius).max().unwrap_or(0);
        let Some(s) = Strips::new(self.size, halo, g.capabilities().shared) else {
            let what =
                format!("a blur of {} pixels on views of {} pixels needs more shared memory than this GPU has", 2 * halo + 1, self.size);
            return g.fail(Error::config(what, "choose a smaller blur or smaller views, or run on the CPU"));
        };
        let blocks = (self.policies.len() * self.batch.n) as u32;
        let launch = Launch { kernel: "augment", grid: [blocks, 1, 1], block: [s.threads as u32, 1, 1], shared: s.shared as u32 };
        let Batch { pixels, table, keys, n, .. } = self.batch;
        let seed = [self.seed as u32, (self.seed >> 32) as u32, ((self.purpose as u32) << 24) + self.first as u32];
        let strips = [s.tile, s.rows, s.capacity, s.halo];
        let mut args = vec![self.y.into(), pixels.into(), table.into(), keys.into(), self.numbers.into(), n.into()];
        args.extend(seed.map(Arg::U32));
        args.extend(strips.map(Arg::from));
        g.launch(&launch, &args);
    }
    fn cost(&self, element: u64) -> Cost {
        let views = self.policies.len() * self.batch.n * self.size * self.size * 3;
        Cost { flops: 40 * views as u64, bytes: (1 + element) * views as u64 }
    }
}
