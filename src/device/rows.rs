//! Launches of kernels over a matrix `[rows, cols]`: the counterpart of `kernels/rows.cuh`.

use super::{Gpu, Launch};

/// Most threads of a block: `THREADS` of the kernels.
pub(crate) const THREADS: usize = 256;
/// Most groups of columns of a block: 512 bytes of a row.
const GROUPS: usize = 32;
/// Most blocks of a launch: several waves on every card, so that the tail does not matter.
const MANY: usize = 4096;

/// Rows per chunk of a reduction over the rows of `[rows, cols]`, whose partial sums a second kernel adds. A block gets at least 16384 values,
/// and there are at most about [`MANY`] blocks. It depends on the shape alone, so every card adds in the same order.
pub(crate) fn chunk(rows: usize, cols: usize) -> usize {
    let tiles = cols.div_ceil(THREADS);
    (16384 / cols.min(THREADS)).max((rows * tiles).div_ceil(MANY))
}

impl Launch {
    /// A launch for independent rows. Each thread takes 4 to 16 rows, to amortise the loads of per-column values.
    pub(crate) fn rows(g: &Gpu, kernel: &'static str, rows: usize, cols: usize) -> Launch {
        let mut launch = Launch::chunks(g, kernel, 1, cols);
        let (tiles, high) = (launch.grid[1] as usize, launch.block[1] as usize);
        let each = (rows * tiles).div_ceil(high * MANY).clamp(4, 16);
        launch.grid[0] = rows.div_ceil(high * each) as u32;
        launch
    }
    /// A launch whose blocks each take one of `chunks` chunks of rows.
    pub(crate) fn chunks(g: &Gpu, kernel: &'static str, chunks: usize, cols: usize) -> Launch {
        let vector = 16 / g.dtype().bytes();
        let groups = if cols.is_multiple_of(vector) { cols / vector } else { cols };
        let tiles = groups.div_ceil(GROUPS);
        let wide = groups.div_ceil(tiles);
        Launch { kernel, grid: [chunks as u32, tiles as u32, 1], block: [wide as u32, (THREADS / wide) as u32, 1], shared: 0 }
    }
    /// A one-dimensional launch of blocks of 256 threads, without dynamic shared memory.
    pub(crate) fn blocks(kernel: &'static str, blocks: usize) -> Launch {
        Launch { kernel, grid: [blocks as u32, 1, 1], block: [THREADS as u32, 1, 1], shared: 0 }
    }
}
