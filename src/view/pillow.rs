//! Resizing as in Pillow (`libImaging/Resample.c`): weights in fixed point, columns first, rounded to 8 bits after the columns and again
//! after the rows. Authors evaluated encoders on such pixels; a resize in floating point changes the features of a ViT by half a percent.
//!
//! This is Pillow before version 13, which takes the rows of some tall images first (with 236 x 280 pixels the features of a ViT-Tiny
//! differ by up to .17 % of the largest).

use super::{Crop, Interpolation, View, short_side};

/// Fractional bits of a weight.
const BITS: u32 = 22;

/// Weights of one output position along an axis: the first source pixel, and the weights from there on.
struct Span {
    first: usize,
    weights: Vec<i32>,
}

impl Interpolation {
    /// Support of the filter without shrinking, in pixels to each side.
    fn support(self) -> f64 {
        if self == Interpolation::Bicubic { 2.0 } else { 1.0 }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Interpolation::Bilinear if x < 1.0 => 1.0 - x,
            Interpolation::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Interpolation::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            _ => 0.0,
        }
    }
}

/// Weights of `count` output positions from `start` on, when `from` pixels become `to`.
fn spans(filter: Interpolation, from: usize, to: usize, start: usize, count: usize) -> Vec<Span> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let (support, inverse) = (filter.support() * wide, 1.0 / wide);
    let span = |at: usize| {
        let center = (at as f64 + 0.5) * scale;
        // Truncated as in C; negative values become 0.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let raw: Vec<f64> = (first..end).map(|x| filter.weight((x as f64 - center + 0.5) * inverse)).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |weight: f64| {
            let weight = weight / sum * (1 << BITS) as f64;
            (if weight < 0.0 { weight - 0.5 } else { weight + 0.5 }) as i32
        };
        Span { first, weights: raw.into_iter().map(fixed).collect() }
    };
    (start..start + count).map(span).collect()
}

/// The weighted sum of pixels as 8 bits. It starts at 0.5 in fixed point ([`BITS`]), so that the shift rounds.
fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Adds a weighted pixel. Weights of a place sum to 1, and without their signs to less than 1.5: 255 of them are less than 2^31 with their
/// 22 bits, so nothing can overflow, and checks would only keep the loops from being vectored.
fn add(sum: &mut i32, value: u8, weight: i32) {
    *sum = sum.wrapping_add(i32::from(value).wrapping_mul(weight));
}

const HALF: i32 = 1 << (BITS - 1);

/// A window of the image resized to `to` (height, width): from `start` (top, left), `size` (height, width). `pixels` is [height, width, 3],
/// `out` [size, 3].
pub fn resize(
    filter: Interpolation,
    pixels: &[u8],
    [height, width]: [usize; 2],
    to: [usize; 2],
    start: [usize; 2],
    size: [usize; 2],
    out: &mut [u8],
) {
    let rows = spans(filter, height, to[0], start[0], size[0]);
    let columns = spans(filter, width, to[1], start[1], size[1]);
    let Some(first) = rows.first().map(|row| row.first) else { return };
    let last = rows.last().map_or(first, |row| row.first + row.weights.len());
    let line = size[1] * 3;
    let mut narrow = vec![0u8; (last - first) * line]; // [rows needed, size, 3]
    for (source, to) in pixels.chunks_exact(width * 3).skip(first).zip(narrow.chunks_exact_mut(line)) {
        for (span, to) in columns.iter().zip(to.chunks_exact_mut(3)) {
            let mut sum = [HALF; 3];
            for (pixel, weight) in source[3 * span.first..].chunks_exact(3).zip(&span.weights) {
                for (sum, value) in sum.iter_mut().zip(pixel) {
                    add(sum, *value, *weight);
                }
            }
            to.copy_from_slice(&sum.map(byte));
        }
    }
    let mut sums = vec![0i32; line];
    for (span, to) in rows.iter().zip(out.chunks_exact_mut(line)) {
        sums.fill(HALF);
        for (source, weight) in narrow[(span.first - first) * line..].chunks_exact(line).zip(&span.weights) {
            for (sum, value) in sums.iter_mut().zip(source) {
                add(sum, *value, *weight);
            }
        }
        for (to, sum) in to.iter_mut().zip(&sums) {
            *to = byte(*sum);
        }
    }
}

/// Renders an un-augmented view; [`super::render`] renders the others.
pub fn plain(view: &View, pixels: &[u8], height: usize, width: usize, out: &mut [f32]) {
    let size = view.size;
    let to = match view.crop {
        Crop::Center { resize } => short_side(height, width, resize),
        Crop::Square { resize } => (resize, resize),
        Crop::Random { .. } | Crop::Whole => (size, size),
    };
    let middle = |from: usize| ((from - size) as f64 / 2.0).round_ties_even() as usize;
    let mut bytes = vec![0; view.len()];
    resize(view.interpolation, pixels, [height, width], to.into(), [middle(to.0), middle(to.1)], [size; 2], &mut bytes);
    let scale = view.std.map(|s| 1.0 / s);
    for (out, pixel) in out.chunks_exact_mut(3).zip(bytes.chunks_exact(3)) {
        for c in 0..3 {
            out[c] = (pixel[c] as f32 * (1.0 / 255.0) - view.mean[c]) * scale[c];
        }
    }
}
