//! How kernels over rows x columns are launched: the counterpart of `kernels/rows.cuh`.

use super::{Gpu, Launch};

/// Threads of a block at most: `THREADS` of the kernels.
pub(crate) const THREADS: usize = 256;
/// Groups of columns that a block takes at most: 512 bytes of a row.
const GROUPS: usize = 32;
/// Blocks that fill every card there is several times over, so that the last ones to end do not matter.
const MANY: usize = 4096;

/// Where `rows` x `cols` are cut into chunks whose sums are added up later: rows per chunk. At least 16384 values for
/// each block, and not more blocks than fill a card.
pub(crate) fn chunk(rows: usize, cols: usize) -> usize {
    let tiles = cols.div_ceil(THREADS);
    (16384 / cols.min(THREADS)).max((rows * tiles).div_ceil(MANY))
}

impl Launch {
    /// Threads that take all columns of all rows, in any order: 4 to 16 rows each, because a thread also loads what belongs to
    /// its columns.
    pub(crate) fn rows(g: &Gpu, kernel: &'static str, rows: usize, cols: usize) -> Launch {
        let mut launch = Launch::chunks(g, kernel, 1, cols);
        let (tiles, high) = (launch.grid[1] as usize, launch.block[1] as usize);
        let each = (rows * tiles).div_ceil(high * MANY).clamp(4, 16);
        launch.grid[0] = rows.div_ceil(high * each) as u32;
        launch
    }
    /// Blocks that each take one of `chunks` chunks of rows.
    pub(crate) fn chunks(g: &Gpu, kernel: &'static str, chunks: usize, cols: usize) -> Launch {
        let vector = 16 / g.dtype().bytes();
        let groups = if cols.is_multiple_of(vector) { cols / vector } else { cols };
        let tiles = groups.div_ceil(GROUPS);
        let wide = groups.div_ceil(tiles);
        Launch { kernel, grid: [chunks as u32, tiles as u32, 1], block: [wide as u32, (THREADS / wide) as u32, 1], shared: 0 }
    }
    /// Blocks of one dimension.
    pub(crate) fn blocks(kernel: &'static str, blocks: usize) -> Launch {
        Launch { kernel, grid: [blocks as u32, 1, 1], block: [THREADS as u32, 1, 1], shared: 0 }
    }
}
