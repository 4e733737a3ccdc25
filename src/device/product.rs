//! temporary
use rayon::prelude::*;
fn mm(m: usize, n: usize, k: usize, a: &[f32], ars: isize, acs: isize, b: &[f32], brs: isize, bcs: isize, c: &mut [f32], add: bool) {
    unsafe { gemm::gemm(m, n, k, c.as_mut_ptr(), 1, n as isize, add, a.as_ptr(), acs, ars, b.as_ptr(), bcs, brs, 1.0, 1.0, false, false, false, gemm::Parallelism::None) }
}
pub fn forward(_rows: usize, inner: usize, out: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, relu: bool, y: &mut [f32]) {
    y.par_chunks_mut(32 * out).zip(x.par_chunks(32 * inner)).for_each(|(y, x)| {
        mm(x.len() / inner, out, inner, x, inner as isize, 1, w, 1, inner as isize, y, false);
        if let Some(b) = bias { y.chunks_mut(out).for_each(|y| y.iter_mut().zip(b).for_each(|(y, b)| *y += b)) }
        if relu { y.iter_mut().for_each(|y| *y = y.max(0.0)) }
    });
}
pub fn backward_data(_rows: usize, inner: usize, out: usize, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    dx.par_chunks_mut(32 * inner).zip(dy.par_chunks(32 * out)).for_each(|(dx, dy)| mm(dy.len() / out, inner, out, dy, out as isize, 1, w, inner as isize, 1, dx, add));
}
pub fn backward_weight(rows: usize, inner: usize, out: usize, x: &[f32], dy: &[f32], dw: &mut [f32], add: bool) {
    mm(out, inner, rows, dy, 1, out as isize, x, inner as isize, 1, dw, add);
}
