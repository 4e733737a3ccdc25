//! The properties of a device on which the choice of a kernel depends.

/// The properties of a device. `src/ops/choose.rs` is the only reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The compute capability, major and minor: 9.0 is Hopper.
    pub compute: (i32, i32),
    pub multiprocessors: usize,
    /// Bytes of shared memory that one block may use.
    pub shared: usize,
    /// Use the kernels of `*_hopper.cu`, which multiply by wgmma.
    pub wgmma: bool,
    /// Also use the Hopper kernels that copy by TMA, for products of plain matrices. Off until a card has compared them.
    pub tma: bool,
    /// Fewest tiles of 128 x 256 for which that tile is chosen: fewer would leave multiprocessors of a large card idle.
    pub wide: usize,
    /// Smallest K for which the 128 x 256 tile of wgmma is chosen. On an H200 it was 8 and 6 % faster for K = 3,072 and 8,192, equal for 2,304,
    /// and 5 and 8 % slower for 768 and 1,024.
    pub deep: usize,
}

impl Capabilities {
    /// A device that runs only the portable kernels.
    pub const fn portable(compute: (i32, i32), multiprocessors: usize, shared: usize) -> Capabilities {
        Capabilities { compute, multiprocessors, shared, wgmma: false, tma: false, wide: 128, deep: 2048 }
    }
}
