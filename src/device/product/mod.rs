//! Matrix products of f32 slices: one register-tiled kernel and the parallel products built on it.
//!
//! An element of a product is one chain `((a0 b0) + a1 b1) + ...` in the order of depth, whatever tile it
//! falls in: a row's result depends neither on the number of rows, nor on its place among them, nor on
//! the number of threads. (A machine with fused multiply-add rounds once a step, one without it twice.)
//!
//! Floor: 2 m n k operations. The kernel holds 6 x 64 sums in registers and reads 6 + 64 numbers for each
//! 384 multiply-adds, so the right matrix, which streams from the second cache, costs 64 x 4 bytes in 24
//! cycles of a core that starts one 512-bit multiply-add a cycle.

mod pack;
mod tile;

pub use pack::{pack, pack_columns, pack_here, pack_rows, packed_len, panel, panel_stride};

use super::gelu::gelu;
use std::cell::RefCell;
use tile::{Target, tile, write};

use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

/// Rows of one register tile.
pub const TILE_ROWS: usize = 6;
/// Columns of one panel of the right matrix.
pub const PANEL: usize = 64;
/// Floats of a vector: 512 bits.
pub const LANES: usize = 16;

/// A left matrix: element (row, depth) is `data[row * row_step + depth * depth_step]`.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub data: &'a [f32],
    pub row_step: usize,
    pub depth_step: usize,
}

/// A right matrix in panels of `panel` columns, [`PANEL`] or [`LANES`]: element (depth, column) is
/// `data[column / panel * panel_step + depth * stride + column % panel]`. Columns are padded to a multiple of [`LANES`]; the padding must be
/// readable, its values do not matter.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    pub data: &'a [f32],
    pub width: usize,
    pub panel: usize,
    pub panel_step: usize,
    pub stride: usize,
}

/// The fused epilogue, `activation(result * scale + shift + residual)`, each part optional. It runs while the result is in registers or
/// cache.
#[derive(Clone, Copy, Default)]
pub struct Epilogue<'a> {
    pub scale: Option<&'a [f32]>,    // [width]
    pub shift: Option<&'a [f32]>,    // [width]
    pub residual: Option<&'a [f32]>, // [rows, width]
    pub activation: Activation,
}

/// The activation of an epilogue. The numbers are those of `kernels/conv.cuh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activation {
    #[default]
    Nothing = 0,
    Relu = 1,
    Gelu = 2,
}

impl Activation {
    /// Applies it to each value. Inlined, so that it is compiled with the caller's vector instructions.
    #[inline(always)]
    pub fn apply(self, y: &mut [f32]) {
        match self {
            Activation::Nothing => {}
            Activation::Relu => {
                for y in y {
                    *y = relu(*y);
                }
            }
            Activation::Gelu => {
                for y in y {
                    *y = gelu(*y);
                }
            }
        }
    }
}

/// max(x, 0). A NaN stays a NaN, so that it surfaces instead of becoming a zero.
#[inline(always)]
pub fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

impl Epilogue<'_> {
    /// Checks that every part fits a result `[rows, width]`.
    ///
    /// # Panics
    /// One does not.
    pub fn check(&self, rows: usize, width: usize) {
        assert!(self.scale.is_none_or(|s| s.len() == width), "one scale per output channel");
        assert!(self.shift.is_none_or(|s| s.len() == width), "one shift per output channel");
        assert!(self.residual.is_none_or(|r| r.len() == rows * width), "a residual like the output");
    }

    /// Applies everything but the activation to y, some columns of a row from `column` on. `at`: index of the first of them in the whole result.
    #[inline(always)]
    fn add_up(&self, at: usize, column: usize, y: &mut [f32]) {
        let columns = column..column + y.len();
        if let Some(scale) = self.scale {
            y.iter_mut().zip(&scale[columns.clone()]).for_each(|(y, s)| *y *= s);
        }
        if let Some(shift) = self.shift {
            y.iter_mut().zip(&shift[columns]).for_each(|(y, s)| *y += s);
        }
        if let Some(residual) = self.residual {
            y.iter_mut().zip(&residual[at..]).for_each(|(y, r)| *y += r);
        }
    }
}

/// `out[row * out_stride + column] (+)= sum over depth of left[row, depth] right[depth, column]`, on one thread.
/// A depth of zero gives zeros.
///
/// # Panics
/// A slice is too short.
pub fn multiply(left: Left, rows: usize, depth: usize, right: Right, out: &mut [f32], out_stride: usize, add: bool) {
    let epilogue = &Epilogue::default();
    multiply_to(left, [rows, depth], right, Target { out, stride: out_stride, add, epilogue, first: 0, pre_activation: None });
}

/// [`multiply`] with an epilogue.
fn multiply_to(left: Left, [rows, depth]: [usize; 2], right: Right, mut to: Target) {
    let width = right.width;
    if rows == 0 || width == 0 {
        return;
    }
    // The last index that is touched, or usize::MAX on overflow.
    let last = |a: usize, a_step: usize, b: usize, b_step: usize| a.saturating_mul(a_step).saturating_add(b.saturating_mul(b_step));
    assert!(right.panel == PANEL || right.panel == LANES, "a panel of {PANEL} or {LANES} columns");
    let panels = width.div_ceil(right.panel);
    let end = last(rows - 1, to.stride, 1, width);
    assert!(end <= to.out.len(), "the product's output is too short");
    if depth > 0 {
        let end = last(rows - 1, left.row_step, depth - 1, left.depth_step);
        assert!(end < left.data.len(), "the product's left matrix is too short");
        for panel in panels.saturating_sub(2)..panels {
            let columns = (width - panel * right.panel).min(right.panel).next_multiple_of(LANES);
            let end = last(depth - 1, right.stride, panel, right.panel_step).saturating_add(columns);
            assert!(end <= right.data.len(), "the product's right matrix is too short");
        }
    }
    // A tile of few rows reads the right matrix hardly more often than a copy of it would.
    let strip = if rows > 2 * TILE_ROWS && right.stride != LANES && narrow() { depth * LANES } else { 0 };
    with_scratch(strip, |strip| {
        // SAFETY: every element (row < rows, depth < depth) of `left` and every vector of LANES columns of
        // `right` up to the rounded width was checked above to lie inside its slice; `strip` has room for one
        // vector of each depth, or for nothing.
        unsafe { multiply_unchecked(left, [rows, depth], right, strip, &mut to) }
    });
}

/// Whether a tile is one vector of LANES columns wide, as it is without AVX-512. The vectors of a panel of 64 lie PANEL
/// apart then: a quarter of the sets of a cache would hold them all. So [`pack`] makes panels of LANES columns, and what
/// comes in panels of 64 is copied together first. (A product of 1576 x 384 x 1536 beside others' 132 GFLOP/s with the
/// copy and 121 without it: 141.)
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn narrow() -> bool {
    match_target! { "x86_64+avx512f" => false, _ => true }
}

/// # Safety
/// What [`multiply_to`] asserts must hold.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
unsafe fn multiply_unchecked(left: Left, [rows, depth]: [usize; 2], right: Right, strip: &mut [f32], to: &mut Target) {
    let step = match_target! { "x86_64+avx512f" => PANEL, _ => LANES };
    for panel in (0..right.width).step_by(right.panel) {
        let end = (panel + right.panel).min(right.width);
        for column in (panel..end).step_by(step) {
            let columns = step.min(end - column);
            let mut b = panel / right.panel * right.panel_step + (column - panel);
            let mut right = right;
            if !strip.is_empty() {
                for (k, to) in strip.chunks_exact_mut(LANES).enumerate() {
                    to.copy_from_slice(&right.data[b + k * right.stride..][..LANES]);
                }
                (right, b) = (Right { data: strip, stride: LANES, ..right }, 0);
            }
            for row in (0..rows).step_by(TILE_ROWS) {
                // Rows past the last repeat the last one, so that every tile runs the same code.
                let a: [usize; TILE_ROWS] = std::array::from_fn(|r| (row + r).min(rows - 1) * left.row_step);
                let size = [TILE_ROWS.min(rows - row), columns];
                // Prefetch the residual while the sums are computed: two ResNet-50 scored 1.72 instead of 1.63 samples/s.
                if let Some(residual) = to.epilogue.residual {
                    let at = residual.as_ptr().wrapping_add((to.first + row) * to.stride + column);
                    for (r, j) in (0..size[0]).flat_map(|r| (0..columns).step_by(LANES).map(move |j| (r, j))) {
                        let next = at.wrapping_add(r * to.stride + j);
                        match_target! {
                            // SAFETY: a prefetch reads nothing, wherever it points.
                            "x86_64+fma" => unsafe {
                                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(next.cast())
                            },
                            _ => {
                                _ = next;
                            }
                        }
                    }
                }
                // SAFETY: as the caller vouches.
                unsafe {
                    match_target! {
                        "x86_64+avx512f" => match columns.div_ceil(LANES) {
                            1 => write(tile::<16, true>(left, a, right, b, depth), [row, column], size, to),
                            2 => write(tile::<32, true>(left, a, right, b, depth), [row, column], size, to),
                            3 => write(tile::<48, true>(left, a, right, b, depth), [row, column], size, to),
                            _ => write(tile::<64, true>(left, a, right, b, depth), [row, column], size, to),
                        },
                        "x86_64+fma" => write(tile::<16, true>(left, a, right, b, depth), [row, column], size, to),
                        "aarch64+neon" => write(tile::<16, true>(left, a, right, b, depth), [row, column], size, to),
                        _ => write(tile::<16, false>(left, a, right, b, depth), [row, column], size, to),
                    }
                }
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `work` a scratch buffer of `len` floats with undefined contents, aligned to a cache line. Each thread keeps and reuses its buffers;
/// nested calls get different ones.
pub fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with_borrow_mut(|pool| pool.pop()).unwrap_or_default();
    if buffer.len() < len + LANES {
        buffer = vec![0.0; len + LANES];
    }
    let start = buffer.as_ptr().align_offset(64).min(LANES);
    let result = work(&mut buffer[start..start + len]);
    SCRATCH.with_borrow_mut(|pool| pool.push(buffer));
    result
}

/// Rows per task such that every thread gets some, between one tile and `most`. Results do not depend on it.
pub fn rows_per_task(rows: usize, most: usize) -> usize {
    let share = rows.div_ceil(rayon::current_num_threads()).next_multiple_of(TILE_ROWS);
    share.clamp(TILE_ROWS, most.max(TILE_ROWS))
}

/// The destination of [`rows_times`].
pub struct Output<'a> {
    pub y: &'a mut [f32], // [rows, width]
    /// Accumulate into y.
    pub add: bool,
    /// Gets the activation's argument.
    pub pre_activation: Option<&'a mut [f32]>, // [rows, width]
}

/// `y[row, ..] = epilogue(left row · right)` for all `rows`, or `y[row, ..] += ...`, in parallel. `left` lends
/// its rows in place or copies them into a tile, as a convolution does with its windows.
///
/// # Panics
/// `to` or a part of the epilogue has not the result's shape.
pub fn rows_times(left: &impl Rows, [rows, depth]: [usize; 2], right: Right, epilogue: &Epilogue, to: Output) {
    let Output { y, add, pre_activation } = to;
    let width = right.width;
    assert_eq!(y.len(), rows * width, "the output has {width} numbers per row");
    assert!(pre_activation.as_ref().is_none_or(|b| b.len() == y.len()), "what is kept is like the output");
    epilogue.check(rows, width);
    if y.is_empty() {
        return;
    }
    let stride = depth.next_multiple_of(LANES) + LANES;
    // A tile of 512 KiB leaves room for a panel in the L2 cache.
    let per_task = rows_per_task(rows, (131_072 / stride / TILE_ROWS * TILE_ROWS).clamp(24, 96));
    let mut kept: Vec<Option<&mut [f32]>> = match pre_activation {
        Some(pre_activation) => pre_activation.chunks_mut(per_task * width).map(Some).collect(),
        None => vec![],
    };
    kept.resize_with(rows.div_ceil(per_task), || None);
    y.par_chunks_mut(per_task * width).zip(kept).enumerate().for_each(|(task, (y, mut pre_activation))| {
        let first = task * per_task;
        let count = y.len() / width;
        let pre_activation = pre_activation.as_deref_mut();
        let to = Target { out: y, stride: width, add, epilogue, first, pre_activation };
        match left.lend(first, count) {
            Some(left) => multiply_to(left, [count, depth], right, to),
            None => with_scratch(count * stride, |tile| {
                left.copy(first, count, tile, stride);
                multiply_to(Left { data: tile, row_step: stride, depth_step: 1 }, [count, depth], right, to);
            }),
        }
    });
}

/// A left matrix that is stored, or computed row by row.
pub trait Rows: Sync {
    /// `count` rows from `first` on in place, if they are stored.
    fn lend(&self, first: usize, count: usize) -> Option<Left<'_>>;
    /// Writes row `first + r` to `tile[r * stride ..]`.
    fn copy(&self, first: usize, count: usize, tile: &mut [f32], stride: usize);
}
