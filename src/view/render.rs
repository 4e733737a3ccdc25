//! Renders a drawn view: crop and resize, flip, jitter, gray, blur, solarise, normalise.

use super::pillow::plain;
use super::resize::{Taps, resize, short_side, weighted};
use super::tone::{Tone, apply, finish, gray, luma_sum};
use super::{Crop, Drawn, View};

/// Buffers of `render`. They grow with the largest image and view, and are reused.
#[derive(Debug, Default)]
pub struct Scratch {
    rows: Taps,
    columns: Taps,
    line: Vec<f32>,
    planes: Vec<f32>, // [3, size, size]
    kernel: Vec<f32>,
    padded: Vec<f32>, // [size + 2 * radius, size], one plane with reflected borders
}

/// Renders one view.
///
/// `pixels` is [height, width, 3] in 8 bits, `out` is [size, size, 3] in f32, normalised. The result is a function of the arguments alone:
/// the same bits on every machine and for any state of `scratch`. Equal to torchvision's v2 transforms on float images up to rounding;
/// un-augmented images are resized to Pillow's bytes.
///
/// # Panics
/// When a slice does not have the size that its shape says, or the drawn box leaves the image.
pub fn render(view: &View, drawn: &Drawn, pixels: &[u8], height: usize, width: usize, out: &mut [f32], scratch: &mut Scratch) {
    assert_eq!(pixels.len(), height * width * 3, "pixels of a {height} x {width} image");
    assert_eq!(out.len(), view.len(), "values of a view");
    let (top, left) = (drawn.top as usize, drawn.left as usize);
    let (box_height, box_width) = (drawn.height as usize, drawn.width as usize);
    assert!(top + box_height <= height && left + box_width <= width, "the box lies in the image");
    if view.is_plain() {
        return plain(view, pixels, height, width, out);
    }

    let size = view.size;
    let (to_height, to_width) = match view.crop {
        Crop::Center { resize } => short_side(box_height, box_width, resize),
        Crop::Square { resize } => (resize, resize),
        Crop::Random { .. } | Crop::Whole => (size, size),
    };
    let middle = |from: usize| ((from - size) as f64 / 2.0).round_ties_even() as usize;
    scratch.rows.plan(view.interpolation, box_height, to_height, middle(to_height), size);
    scratch.columns.plan(view.interpolation, box_width, to_width, middle(to_width), size);
    scratch.line.clear();
    scratch.line.resize(box_width * 3 + 1, 0.0);
    scratch.planes.resize(size * size * 3, 0.0);
    scratch.kernel.clear();
    if drawn.sigma > 0.0 {
        let width = view.blur.as_ref().map_or(1, |b| b.width(drawn.sigma));
        gaussian(width, drawn.sigma, &mut scratch.kernel);
        scratch.padded.resize((size + width - 1) * size, 0.0);
        let line = scratch.line.len().max(size + width - 1);
        scratch.line.resize(line, 0.0);
    }
    let from = (top * width + left) * 3;
    run(view, drawn, &pixels[from..], width * 3, box_width, out, scratch);
}

/// The sampled Gaussian, with sum one.
fn gaussian(width: usize, sigma: f32, kernel: &mut Vec<f32>) {
    let radius = (width / 2) as f64;
    let value = |i: usize| (-0.5 * ((i as f64 - radius) / sigma as f64).powi(2)).exp();
    let total: f64 = (0..width).map(value).sum();
    kernel.extend((0..width).map(|i| (value(i) / total) as f32));
}

/// The drawn operations of the jitter that the policy has, in their order.
fn tones(view: &View, drawn: &Drawn) -> impl Iterator<Item = Tone> + Clone {
    let strength = view.jitter.filter(|_| drawn.jitter);
    let drawn = *drawn;
    strength.into_iter().flat_map(move |j| {
        drawn.order.into_iter().filter_map(move |which| match which {
            0 => (j.brightness > 0.0).then_some(Tone::Brightness(drawn.brightness)),
            1 => (j.contrast > 0.0).then_some(Tone::Contrast(drawn.contrast)),
            2 => (j.saturation > 0.0).then_some(Tone::Saturation(drawn.saturation)),
            _ => (j.hue > 0.0).then_some(Tone::Hue(drawn.hue)),
        })
    })
}

/// Everything after the planning, in one function so that one dispatch serves all of its loops.
/// No fused multiply-add anywhere: the three versions give the same bits.
#[multiversion::multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn run(view: &View, drawn: &Drawn, pixels: &[u8], pitch: usize, box_width: usize, out: &mut [f32], scratch: &mut Scratch) {
    let size = view.size;
    let (red, rest) = scratch.planes.split_at_mut(size * size);
    let (green, blue) = rest.split_at_mut(size * size);
    let line = &mut scratch.line[..];
    resize(pixels, pitch, (&scratch.rows, &scratch.columns), drawn.flip, &mut line[..box_width * 3 + 1], [red, green, blue]);

    // Contrast needs the mean of the whole image at that point, so the operations before it run first.
    let steps = tones(view, drawn);
    let before = steps.clone().take_while(|t| !matches!(t, Tone::Contrast(_))).count();
    let mut after = 0;
    let mut mean = 0.0;
    if before < steps.clone().count() {
        let mut sum = 0.0;
        for y in 0..size {
            let row = y * size..(y + 1) * size;
            let (r, g, b) = (&mut red[row.clone()], &mut green[row.clone()], &mut blue[row]);
            for tone in steps.clone().take(before) {
                apply(tone, 0.0, r, g, b);
            }
            sum += luma_sum(r, g, b);
        }
        mean = (sum / (size * size) as f64) as f32;
        after = before;
    }
    let blur = !scratch.kernel.is_empty();
    let threshold = match &view.solarize {
        Some(s) if drawn.solarize => s.threshold,
        _ => f32::INFINITY,
    };
    let scale = view.std.map(|s| 1.0 / s);
    for (y, out) in out.chunks_exact_mut(size * 3).enumerate() {
        let row = y * size..(y + 1) * size;
        let (r, g, b) = (&mut red[row.clone()], &mut green[row.clone()], &mut blue[row]);
        for tone in steps.clone().skip(after) {
            apply(tone, mean, r, g, b);
        }
        if drawn.gray {
            gray(r, g, b);
        }
        if !blur {
            finish([r, g, b], threshold, view.mean, scale, out);
        }
    }
    if blur {
        let span = size + scratch.kernel.len() - 1;
        for plane in [&mut *red, &mut *green, &mut *blue] {
            smooth(&scratch.kernel, size, &mut scratch.padded[..span * size], &mut line[..span], plane);
        }
        for (y, out) in out.chunks_exact_mut(size * 3).enumerate() {
            let row = y * size..(y + 1) * size;
            finish([&red[row.clone()], &green[row.clone()], &blue[row]], threshold, view.mean, scale, out);
        }
    }
}

/// Blurs a plane in place, columns and then rows, with reflected borders (the edge is not repeated).
#[inline(always)]
fn smooth(kernel: &[f32], size: usize, padded: &mut [f32], line: &mut [f32], plane: &mut [f32]) {
    let radius = kernel.len() / 2;
    for (at, row) in padded.chunks_exact_mut(size).enumerate() {
        let from = reflect(at, radius, size);
        row.copy_from_slice(&plane[from * size..(from + 1) * size]);
    }
    for (y, row) in plane.chunks_exact_mut(size).enumerate() {
        weighted(kernel, &padded[y * size..], size, &mut line[radius..radius + size]);
        for i in 0..radius {
            line[i] = line[2 * radius - i];
            line[radius + size + i] = line[radius + size - 2 - i];
        }
        weighted(kernel, line, 1, row);
    }
}

/// The position in an axis of `size` that a position in the padded axis reflects.
fn reflect(at: usize, radius: usize, size: usize) -> usize {
    let distance = at.abs_diff(radius);
    if distance < size { distance } else { 2 * (size - 1) - distance }
}
