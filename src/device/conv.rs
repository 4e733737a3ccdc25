//! temporary
use super::product;
use rayon::prelude::*;
#[derive(Clone, Copy, Debug)]
pub struct Conv { pub batch: usize, pub height: usize, pub width: usize, pub channels: usize, pub outputs: usize, pub kernel: usize, pub stride: usize, pub pad: usize }
impl Conv {
    pub fn out_height(&self) -> usize { (self.height + 2 * self.pad - self.kernel) / self.stride + 1 }
    pub fn out_width(&self) -> usize { (self.width + 2 * self.pad - self.kernel) / self.stride + 1 }
}
pub struct Epilogue<'a> { pub scale: Option<&'a [f32]>, pub shift: Option<&'a [f32]>, pub residual: Option<&'a [f32]>, pub relu: bool }
fn each(c: &Conv, mut f: impl FnMut(usize, usize, usize)) {
    let (oh, ow, k) = (c.out_height(), c.out_width(), c.kernel);
    for o in 0..oh * ow { for t in 0..k * k {
        let (i, j) = ((o / ow * c.stride + t / k).wrapping_sub(c.pad), (o % ow * c.stride + t % k).wrapping_sub(c.pad));
        if i < c.height && j < c.width { f(o, t, i * c.width + j) }
    } }
}
fn cols(c: &Conv, x: &[f32]) -> Vec<f32> {
    let (kk, ch) = (c.kernel * c.kernel, c.channels);
    let mut p = vec![0.0; c.out_height() * c.out_width() * kk * ch];
    each(c, |o, t, i| p[(o * kk + t) * ch..][..ch].copy_from_slice(&x[i * ch..][..ch]));
    p
}
fn packed(c: &Conv, w: &[f32]) -> Vec<f32> {
    let (kk, ch) = (c.kernel * c.kernel, c.channels);
    let mut p = vec![0.0; w.len()];
    for o in 0..c.outputs { for i in 0..ch { for t in 0..kk { p[(o * kk + t) * ch + i] = w[(o * ch + i) * kk + t]; } } }
    p
}
pub fn forward(c: &Conv, x: &[f32], w: &[f32], e: &Epilogue, y: &mut [f32]) {
    let (inp, out, n) = (c.height * c.width * c.channels, c.out_height() * c.out_width(), c.outputs);
    let w = packed(c, w);
    y.par_chunks_mut(out * n).zip(x.par_chunks(inp)).enumerate().for_each(|(i, (y, x))| {
        product::forward(out, c.kernel * c.kernel * c.channels, n, &cols(c, x), &w, None, false, y);
        for (k, y) in y.iter_mut().enumerate() {
            let ch = k % n;
            let mut v = *y;
            if let Some(s) = e.scale { v *= s[ch] }
            if let Some(s) = e.shift { v += s[ch] }
            if let Some(r) = e.residual { v += r[i * out * n + k] }
            *y = if e.relu && v < 0.0 { 0.0 } else { v };
        }
    });
}
pub fn backward_data(c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    let (inp, out, kk, ch) = (c.height * c.width * c.channels, c.out_height() * c.out_width(), c.kernel * c.kernel, c.channels);
    let w = packed(c, w);
    dx.par_chunks_mut(inp).zip(dy.par_chunks(out * c.outputs)).for_each(|(dx, dy)| {
        let mut p = vec![0.0; out * kk * ch];
        product::backward_data(out, kk * ch, c.outputs, dy, &w, &mut p, false);
        if !add { dx.fill(0.0) }
        each(c, |o, t, i| dx[i * ch..][..ch].iter_mut().zip(&p[(o * kk + t) * ch..][..ch]).for_each(|(a, b)| *a += b));
    });
}
pub fn backward_weight(c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32], add: bool) {
    let (inp, out, kk, ch) = (c.height * c.width * c.channels, c.out_height() * c.out_width(), c.kernel * c.kernel, c.channels);
    let parts: Vec<Vec<f32>> = x.par_chunks(inp * 8).zip(dy.par_chunks(out * c.outputs * 8)).map(|(x, dy)| {
        let mut p = vec![0.0; dw.len()];
        for (x, dy) in x.chunks(inp).zip(dy.chunks(out * c.outputs)) { product::backward_weight(out, kk * ch, c.outputs, &cols(c, x), dy, &mut p, true); }
        p
    }).collect();
    if !add { dw.fill(0.0) }
    for p in parts { for o in 0..c.outputs { for i in 0..ch { for t in 0..kk { dw[(o * ch + i) * kk + t] += p[(o * kk + t) * ch + i]; } } } }
}
