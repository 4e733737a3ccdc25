//! What a device can do, as far as the choice of a kernel depends on it.

/// A device without a name. What is chosen by it is chosen in `src/ops/choose.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The compute capability, major and minor: 9.0 is Hopper.
    pub compute: (i32, i32),
    pub multiprocessors: usize,
    /// Bytes of shared memory that one block may use.
    pub shared: usize,
    /// The kernels of the files `*_hopper.cu`, which multiply by wgmma, run here and are to.
    pub wgmma: bool,
    /// Of them also those that fetch by TMA, where a product is one of plain matrices. Off until a card has compared them.
    pub tma: bool,
    /// Blocks of 128 x 256 from which on these are taken: fewer leave multiprocessors of a large card idle.
    pub wide: usize,
    /// Where wgmma multiplies, also the terms of a sum from which on. On an H200 sums of 3,072 and 8,192 terms were 8 and 6 % faster that way,
    /// those of 2,304 no different, those of 768 and 1,024 5 and 8 % slower.
    pub deep: usize,
}

impl Capabilities {
    /// A device that runs the kernels of all cards.
    pub const fn portable(compute: (i32, i32), multiprocessors: usize, shared: usize) -> Capabilities {
        Capabilities { compute, multiprocessors, shared, wgmma: false, tma: false, wide: 128, deep: 2048 }
    }
}
