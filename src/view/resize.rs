//! Separable antialiased resizing of a box of an 8-bit image, to float planes.

use super::{Interpolation, pillow};
use crate::data::{Image, LIMIT};

/// The inputs that each output along one axis reads, and their weights.
#[derive(Debug, Default)]
pub struct Taps {
    spans: Vec<Span>,
    weights: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    input: usize,
    weight: usize,
    len: usize,
}

impl Taps {
    /// Plans the outputs `offset..offset + window` of an axis that goes from `input` to `output` pixels.
    ///
    /// The expressions, and where they are single precision, are those of PyTorch's
    /// `upsample_*_aa` kernels, so that the weights of large images agree as well.
    pub fn plan(&mut self, interpolation: Interpolation, input: usize, output: usize, offset: usize, window: usize) {
        let (filter, radius): (fn(f32) -> f32, f32) = match interpolation {
            Interpolation::Bilinear => (triangle, 1.0),
            Interpolation::Bicubic => (cubic, 2.0),
        };
        let scale = input as f32 / output as f32;
        let (support, inverse) = if scale >= 1.0 { (radius * scale, 1.0 / scale) } else { (radius, 1.0) };
        self.spans.clear();
        self.weights.clear();
        for index in offset..offset + window {
            let center = (scale as f64 * (index as f64 + 0.5)) as f32;
            // `as usize` clamps negative positions to the first pixel.
            let first = ((center - support) as f64 + 0.5) as usize;
            let end = (((center + support) as f64 + 0.5) as usize).min(input);
            let weight = self.weights.len();
            self.weights.extend((first..end).map(|i| filter((((i as f32 - center) as f64 + 0.5) * inverse as f64) as f32)));
            let total: f32 = self.weights[weight..].iter().sum();
            self.weights[weight..].iter_mut().for_each(|w| *w /= total);
            // Zeros at both ends are common (no change of size): leave them out.
            while self.weights.len() > weight + 1 && self.weights.last() == Some(&0.0) {
                self.weights.pop();
            }
            let skip = self.weights[weight..self.weights.len() - 1].iter().take_while(|w| **w == 0.0).count();
            let len = self.weights.len() - weight - skip;
            self.spans.push(Span { input: first + skip, weight: weight + skip, len });
        }
    }

    #[inline(always)]
    fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[f32])> + Clone {
        self.spans.iter().map(|s| (s.input, &self.weights[s.weight..s.weight + s.len]))
    }
}

/// The weights [output, input] with which an axis of `input` values is resampled to `output`, bicubic and antialiased.
pub fn resampling(input: usize, output: usize) -> Vec<f32> {
    let mut taps = Taps::default();
    taps.plan(Interpolation::Bicubic, input, output, 0, output);
    let mut matrix = vec![0.0; output * input];
    for (row, (first, weights)) in matrix.chunks_exact_mut(input).zip(taps.iter()) {
        row[first..][..weights.len()].copy_from_slice(weights);
    }
    matrix
}

/// The image with its short side `side` pixels long: torchvision's `Resize(side)` of a PIL image, bilinear, byte for byte.
///
/// # Errors
/// The long side would make the result larger than an image may be.
pub fn resized(image: Image, side: usize) -> Result<Image, String> {
    let (height, width) = short_side(image.height, image.width, side);
    if (height, width) == (image.height, image.width) {
        return Ok(image);
    }
    if (height as u64).saturating_mul(width as u64).saturating_mul(3) > LIMIT {
        return Err(format!("the image would have {width} x {height} pixels, more than {} MiB", LIMIT >> 20));
    }
    let mut pixels = vec![0; height * width * 3];
    let (from, to) = ([image.height, image.width], [height, width]);
    pillow::resize(Interpolation::Bilinear, &image.pixels, from, to, [0, 0], to, &mut pixels);
    Ok(Image { height, width, pixels })
}

/// Height and width when the short side becomes `side`; the long side rounds down as in torchvision.
pub fn short_side(height: usize, width: usize, side: usize) -> (usize, usize) {
    if width <= height { (side * height / width, side) } else { (side, side * width / height) }
}

fn triangle(x: f32) -> f32 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f32) -> f32 {
    const A: f32 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Resizes `pixels` [.., pitch] (8 bit, interleaved, from the box's first pixel on) to three planes in [0, 1].
///
/// Rows first: there whole rows of bytes are added up, which suits any vector width. `line` holds one
/// row of the box: width * 3 values and one more that the last pixel's fourth lane reads.
#[inline(always)]
pub fn resize(pixels: &[u8], pitch: usize, (rows, columns): (&Taps, &Taps), flip: bool, line: &mut [f32], planes: [&mut [f32]; 3]) {
    let size = columns.spans.len();
    let width = line.len() - 1;
    let [red, green, blue] = planes;
    let rgb = red.chunks_exact_mut(size).zip(green.chunks_exact_mut(size)).zip(blue.chunks_exact_mut(size));
    for ((first, weights), ((red, green), blue)) in rows.iter().zip(rgb) {
        weighted(weights, &pixels[first * pitch..], pitch, &mut line[..width]);
        for (x, (first, weights)) in columns.iter().enumerate() {
            let mut sum = [0.0f32; 4];
            for (tap, weight) in weights.iter().enumerate() {
                let at = (first + tap) * 3;
                for (sum, value) in sum.iter_mut().zip(&line[at..at + 4]) {
                    *sum += weight * value;
                }
            }
            let x = if flip { size - 1 - x } else { x };
            // The product with the rounded 1/255 is torchvision's `to_dtype`.
            red[x] = sum[0] * (1.0 / 255.0);
            green[x] = sum[1] * (1.0 / 255.0);
            blue[x] = sum[2] * (1.0 / 255.0);
        }
    }
}

/// `out[j]` = sum over k of `weights[k] * source[k * pitch + j]`, added up in the order of k.
#[inline(always)]
pub fn weighted<T: Copy + Into<f32>>(weights: &[f32], source: &[T], pitch: usize, out: &mut [f32]) {
    let mut at = 0;
    at = blocks::<64, T>(weights, source, pitch, out, at);
    at = blocks::<16, T>(weights, source, pitch, out, at);
    blocks::<1, T>(weights, source, pitch, out, at);
}

/// All whole blocks of N values from `at` on; the sums of a block stay in registers.
#[inline(always)]
fn blocks<const N: usize, T: Copy + Into<f32>>(weights: &[f32], source: &[T], pitch: usize, out: &mut [f32], mut at: usize) -> usize {
    while at + N <= out.len() {
        let mut sum = [0.0f32; N];
        for (k, weight) in weights.iter().enumerate() {
            let start = k * pitch + at;
            for (sum, value) in sum.iter_mut().zip(&source[start..start + N]) {
                *sum += weight * (*value).into();
            }
        }
        out[at..at + N].copy_from_slice(&sum);
        at += N;
    }
    at
}
