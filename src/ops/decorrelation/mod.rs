//! Losses over the d x d correlations of output columns: Barlow Twins (Zbontar et al. 2021) and VICReg (Bardes et al. 2022).
//!
//! The forward stores dL/dC up to the upstream factor. With C = AᵀB, dL/dA = B (dL/dC)ᵀ, so the backward is one matrix product and one
//! elementwise pass.

mod barlow_twins;
mod columns;
mod vicreg;

use super::Case;
use super::reduce::sum_of;
use crate::device::conv::Conv;
use crate::device::{Gpu, Launch};
use columns::Columns;

pub static BARLOW_TWINS: &[Case] = barlow_twins::CASES;
pub static VICREG: &[Case] = vicreg::CASES;

/// The product AᵀB of two matrices [rows, cols] is the weight gradient of this linear layer, so it runs on the same kernels.
fn square(rows: usize, cols: usize) -> Conv {
    Conv::linear(rows, cols, cols)
}

/// The sum of (scale c)^2 over row i of a matrix, without the diagonal.
fn squares_but(i: usize, row: &[f32], scale: f32) -> f64 {
    let squares = |part: &[f32]| sum_of([part], |[c]| (c * scale).powi(2));
    squares(&row[..i]) + squares(&row[i + 1..])
}

/// A launch whose blocks each take all rows of a few columns: 64 bytes of a row if the columns allow 16-byte loads, else 32 columns.
fn column_blocks(g: &Gpu, kernel: &'static str, cols: usize) -> Launch {
    let vector = 16 / g.dtype().bytes();
    let (groups, wide) = if cols.is_multiple_of(vector) { (cols / vector, 4) } else { (cols, 32) };
    Launch { kernel, grid: [1, groups.div_ceil(wide) as u32, 1], block: [wide as u32, 256 / wide as u32, 1], shared: 0 }
}
