//! Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011).
//!
//! Every number is a function of (seed, purpose, epoch, sample, view, position) alone. So results never depend on batch, order or thread,
//! and a GPU draws the same numbers without state.

/// Purpose of a stream. Streams of different purposes never share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    Init = 1,
    Shuffle = 2,
    Train = 3,
    Score = 4,
    Split = 5,
    Synthetic = 6,
    Statistics = 7,
    /// The masked patches of an image (MAE).
    Mask = 8,
    /// The residual branches dropped for an image (stochastic depth).
    Drop = 9,
    /// Initial weights and orders of a probe's training.
    Probe = 10,
}

/// One stream of numbers, at a position that `next` advances.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4], // block of four draws, sample, epoch, purpose and view
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of one view of one sample.
    ///
    /// # Panics
    /// `view` is not below 2^24.
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, sample: u32, view: u32) -> Stream {
        assert!(view < 1 << 24, "view {view} does not fit the counter");
        let counter = [0, sample, epoch, (purpose as u32) << 24 | view];
        Stream { key: [seed as u32, (seed >> 32) as u32], counter, block: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    #[inline]
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] += 1;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in [0, 1), a multiple of 2^-24.
    #[inline]
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
    }

    /// Uniform in [low, high).
    #[inline]
    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n by the high half of a product; the bias is below n / 2^32.
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        ((self.bits() as u64 * n as u64) >> 32) as u32
    }

    /// Standard normal (Box and Muller, the cosine half).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform() as f64).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform() as f64).cos()) as f32
    }

    /// A random order of 0..n (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u32 + 1) as usize);
        }
        order
    }
}

/// The bijection itself: ten rounds.
pub fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = c[0] as u64 * 0xD251_1F53;
        let b = c[2] as u64 * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}
