//! The register tile of a product, and the epilogue that is applied before its sums leave the registers.

// Counted loops over arrays of one length: the form that the compiler vectorises.
#![allow(clippy::needless_range_loop)]

use std::hint::black_box;

use multiversion::multiversion;

use super::{Epilogue, Left, Right, TILE_ROWS};

/// The destination of a product: row r goes to `out[r * stride ..]`.
pub(super) struct Target<'a, 'b> {
    pub out: &'a mut [f32],
    pub stride: usize,
    /// Accumulate into `out`.
    pub add: bool,
    pub epilogue: &'a Epilogue<'b>,
    /// Number of out's first row in the whole result `[rows, stride]`, by which the residual is indexed.
    pub first: usize,
    /// Gets the activation's argument; like `out`.
    pub pre_activation: Option<&'a mut [f32]>,
}

/// One register tile of `TILE_ROWS` x `W`. It returns its sums, which keeps them in registers.
///
/// # Safety
/// `left.data[a[r] + k * left.depth_step]` and `right.data[b + k * right.stride + j]` must lie inside for
/// k < depth and j < W.
#[inline(always)]
pub(super) unsafe fn tile<const W: usize, const FUSED: bool>(
    left: Left,
    a: [usize; TILE_ROWS],
    right: Right,
    b: usize,
    depth: usize,
) -> [[f32; W]; TILE_ROWS] {
    let a = a.map(|a| left.data.as_ptr().wrapping_add(a));
    let b = right.data.as_ptr().wrapping_add(b);
    let mut sums = [[0.0f32; W]; TILE_ROWS];
    for k in 0..depth {
        // Places were checked before the product began. Checked again here, they took a third of its time.
        let [b_step, a_step] = [right.stride, left.depth_step].map(|step| k.wrapping_mul(step));
        // SAFETY: k < depth, as the caller vouches.
        let b = unsafe { &*b.add(b_step).cast::<[f32; W]>() };
        for r in 0..TILE_ROWS {
            // SAFETY: k < depth, as the caller vouches.
            let a = unsafe { *a[r].add(a_step) };
            for j in 0..W {
                sums[r][j] = if FUSED { a.mul_add(b[j], sums[r][j]) } else { a * b[j] + sums[r][j] };
            }
        }
    }
    sums
}

/// Writes the first `count` rows and `columns` columns of a tile to `(row, column)`. Whole tiles go through the epilogue in
/// registers: a pass of its own over a layer's results took 18 % of scoring with ResNet-50.
#[inline(always)]
pub(super) fn write<const W: usize>(sums: [[f32; W]; TILE_ROWS], place: [usize; 2], [count, columns]: [usize; 2], to: &mut Target) {
    let Epilogue { scale, shift, residual, activation } = *to.epilogue;
    if count < TILE_ROWS || columns < W || to.pre_activation.is_some() {
        write_part(black_box(sums).as_flattened_mut(), W, place, [count, columns], to);
        return;
    }
    let [row, column] = place;
    for r in 0..TILE_ROWS {
        let mut y = sums[r];
        let at = (row + r) * to.stride + column;
        let out: &mut [f32; W] = to.out[at..].first_chunk_mut().expect("checked when the product began");
        if to.add {
            for j in 0..W {
                y[j] += out[j];
            }
        }
        if let Some(scale) = scale {
            let scale: &[f32; W] = chunk(scale, column);
            for j in 0..W {
                y[j] *= scale[j];
            }
        }
        if let Some(shift) = shift {
            let shift: &[f32; W] = chunk(shift, column);
            for j in 0..W {
                y[j] += shift[j];
            }
        }
        if let Some(residual) = residual {
            let residual: &[f32; W] = chunk(residual, at + to.first * to.stride);
            for j in 0..W {
                y[j] += residual[j];
            }
        }
        activation.apply(&mut y);
        *out = y;
    }
}

#[inline(always)]
fn chunk<const W: usize>(from: &[f32], at: usize) -> &[f32; W] {
    from[at..].first_chunk().expect("checked when the product began")
}

/// [`write`] at the edge, and where something is kept. `sums` are rows of `width`.
#[inline(never)]
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
fn write_part(sums: &mut [f32], width: usize, [row, column]: [usize; 2], [count, columns]: [usize; 2], to: &mut Target) {
    let sums = &mut sums[..count * width];
    for (r, y) in sums.chunks_exact_mut(width).enumerate() {
        let (y, at) = (&mut y[..columns], (row + r) * to.stride + column);
        if to.add {
            y.iter_mut().zip(&to.out[at..]).for_each(|(y, out)| *y += out);
        }
        to.epilogue.add_up(at + to.first * to.stride, column, y);
        if let Some(pre_activation) = &mut to.pre_activation {
            pre_activation[at..at + columns].copy_from_slice(y);
        }
    }
    to.epilogue.activation.apply(sums);
    for (r, y) in sums.chunks_exact(width).enumerate() {
        to.out[(row + r) * to.stride + column..][..columns].copy_from_slice(&y[..columns]);
    }
}
