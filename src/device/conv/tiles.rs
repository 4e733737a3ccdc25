//! The geometry of a Winograd convolution: its tiles in x, in y and in the scratch of a task.

use super::Conv;
use crate::device::product::{LANES, PANEL};

/// Points of a tile: 6 x 6.
pub(super) const POINTS: usize = 36;
/// The index of a pixel in the padding.
pub(super) const OUTSIDE: usize = usize::MAX;
pub(super) static ZEROS: [f32; PANEL] = [0.0; PANEL];

/// A layer's tiles; tile rows are counted through the whole batch.
#[derive(Clone, Copy)]
pub(super) struct Tiling<'a> {
    pub c: &'a Conv,
    pub out_height: usize,
    pub out_width: usize,
    pub down: usize,
    pub across: usize,
}

impl Tiling<'_> {
    pub fn new(c: &Conv) -> Tiling<'_> {
        let (out_height, out_width) = (c.out_height(), c.out_width());
        Tiling { c, out_height, out_width, down: out_height.div_ceil(4), across: out_width.div_ceil(4) }
    }

    /// Tile rows of the whole batch.
    pub fn rows(&self) -> usize {
        self.c.batch * self.down
    }

    /// The index of a tile's first output pixel in y, and the lines and columns of the tile that lie inside.
    pub fn outputs_of(&self, row: usize, column: usize) -> (usize, usize, usize) {
        let (y, x) = (row % self.down * 4, column * 4);
        let (height, width) = ((self.out_height - y).min(4), (self.out_width - x).min(4));
        (self.line(row) * self.out_width + x, height, width)
    }

    /// The indices in x of a tile's 6x6 pixels.
    pub fn inputs_of(&self, row: usize, column: usize) -> [[usize; 6]; 6] {
        let c = self.c;
        let (image, y, x) = (row / self.down, row % self.down * 4, column * 4);
        let mut places = [[OUTSIDE; 6]; 6];
        for (i, places) in places.iter_mut().enumerate() {
            let y = (y + i).wrapping_sub(c.pad);
            for (j, place) in places.iter_mut().enumerate() {
                let x = (x + j).wrapping_sub(c.pad);
                if y < c.height && x < c.width {
                    *place = ((image * c.height + y) * c.width + x) * c.channels;
                }
            }
        }
        places
    }

    /// Output lines above a tile row, counted through the batch.
    pub fn line(&self, row: usize) -> usize {
        row / self.down * self.out_height + row % self.down * 4
    }
}

/// The points of one task: element `[point, tile, channel]` is at `point * step + tile * stride + channel`.
#[derive(Clone, Copy)]
pub(super) struct TileLayout {
    pub step: usize,
    pub stride: usize,
}

impl TileLayout {
    pub fn new(tiles: usize, channels: usize) -> TileLayout {
        let stride = channels + LANES;
        TileLayout { step: odd_lines(tiles * stride), stride }
    }
}

/// The next odd number of cache lines: steps of that length fall into all sets of a cache in turn, those of
/// a power of two into one.
pub(super) fn odd_lines(len: usize) -> usize {
    len.next_multiple_of(LANES) | LANES
}

/// `W` numbers from `place` on.
#[inline(always)]
pub(super) fn channels<const W: usize>(from: &[f32], place: usize) -> &[f32; W] {
    from[place..].first_chunk().expect("whole vectors of channels")
}
