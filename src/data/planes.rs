//! Upsamples the planes of a JPEG with unusual sampling to pixels, as libjpeg-turbo's jdsample.c and jdcolor.c do.

use libjpeg_turbo_rs::{ColorSpace, FrameHeader, RawImage};

/// One component, at its own size or upsampled.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<u8>, // [height, width]
}

/// The interleaved pixels at the image's size: RGB from three components, stored CMYK from four.
///
/// # Errors
/// The largest component is no multiple of another's size, which libjpeg refuses, too.
pub fn pixels(raw: RawImage, header: &FrameHeader, space: ColorSpace) -> Result<Vec<u8>, String> {
    let (width, height) = (raw.width, raw.height);
    let sampling = || header.components.iter().map(|c| [c.horizontal_sampling as usize, c.vertical_sampling as usize]);
    let most = [0, 1].map(|axis| sampling().map(|s| s[axis]).max().unwrap_or(1));
    let mut planes = Vec::new();
    for (at, (values, own)) in raw.planes.into_iter().zip(sampling()).enumerate() {
        // Samples beyond the image only fill a block and are dropped.
        let inside = [width, height].into_iter().zip(own).zip(most).map(|((size, own), most)| (size * own).div_ceil(most));
        let [columns, rows] = [0, 1].map(|axis| inside.clone().nth(axis).unwrap_or_default());
        let plane = cut(&values, raw.plane_widths[at], columns, rows);
        planes.push(upsampled(plane, own, most)?);
    }
    let mut pixels = Vec::with_capacity(width * height * planes.len());
    for y in 0..height {
        for x in 0..width {
            let of = |plane: &Plane| plane.values[y * plane.width + x];
            match (&planes[..], space) {
                ([a, b, c], ColorSpace::Rgb) => pixels.extend([of(a), of(b), of(c)]),
                ([a, b, c], _) => pixels.extend(rgb(of(a), of(b), of(c))),
                ([a, b, c, k], ColorSpace::Ycck) => {
                    pixels.extend(rgb(of(a), of(b), of(c)).map(|v| 255 - v));
                    pixels.push(of(k));
                }
                (all, _) => pixels.extend(all.iter().map(of)),
            }
        }
    }
    Ok(pixels)
}

fn cut(values: &[u8], stride: usize, width: usize, height: usize) -> Plane {
    let values = values.chunks(stride).take(height).flat_map(|row| &row[..width]).copied().collect();
    Plane { width, height, values }
}

/// A plane upsampled to the largest: smoothly (libjpeg's fancy upsampling) if it is half as wide or high, else by repetition.
fn upsampled(plane: Plane, own: [usize; 2], most: [usize; 2]) -> Result<Plane, String> {
    let [across, down] = [0, 1].map(|axis| if most[axis].is_multiple_of(own[axis].max(1)) { most[axis] / own[axis].max(1) } else { 0 });
    // Two columns are too few for fancy upsampling, which treats both ends specially.
    let smooth = plane.width > 2;
    Ok(match (across, down) {
        (0, _) | (_, 0) => return Err("this kind of JPEG is not supported (a component is sampled at no whole share of another)".into()),
        (1, 1) => plane,
        (2, 1) if smooth => wider(&plane),
        (1, 2) => higher(&plane),
        (2, 2) if smooth => both(&plane),
        _ => repeated(&plane, across, down),
    })
}

fn repeated(plane: &Plane, across: usize, down: usize) -> Plane {
    let row = |y: usize| plane.values[y * plane.width..][..plane.width].iter().flat_map(move |&v| std::iter::repeat_n(v, across));
    let values = (0..plane.height * down).flat_map(|y| row(y / down)).collect();
    Plane { width: plane.width * across, height: plane.height * down, values }
}

/// h2v1_fancy_upsample: 3/4 of the nearer column and 1/4 of the other, rounded down and up in turn.
fn wider(plane: &Plane) -> Plane {
    let mut values = Vec::with_capacity(2 * plane.values.len());
    for row in plane.values.chunks_exact(plane.width) {
        for (x, &v) in row.iter().enumerate() {
            let mix = |other: usize, round: u16| ((3 * u16::from(v) + u16::from(row[other]) + round) >> 2) as u8;
            values.push(if x == 0 { v } else { mix(x - 1, 1) });
            values.push(if x + 1 == row.len() { v } else { mix(x + 1, 2) });
        }
    }
    Plane { width: 2 * plane.width, height: plane.height, values }
}

/// The rows around one, the first and the last repeated at the edges: above and below.
fn around(plane: &Plane, y: usize) -> [&[u8]; 3] {
    [y.saturating_sub(1), y, (y + 1).min(plane.height - 1)].map(|y| &plane.values[y * plane.width..][..plane.width])
}

/// h1v2_fancy_upsample.
fn higher(plane: &Plane) -> Plane {
    let mut values = Vec::with_capacity(2 * plane.values.len());
    for y in 0..plane.height {
        let [above, row, below] = around(plane, y);
        for (other, round) in [(above, 1), (below, 2)] {
            values.extend(row.iter().zip(other).map(|(&v, &o)| ((3 * u16::from(v) + u16::from(o) + round) >> 2) as u8));
        }
    }
    Plane { width: plane.width, height: 2 * plane.height, values }
}

/// h2v2_fancy_upsample: sums over rows first, then over columns.
fn both(plane: &Plane) -> Plane {
    let mut values = Vec::with_capacity(4 * plane.values.len());
    for y in 0..plane.height {
        let [above, row, below] = around(plane, y);
        for other in [above, below] {
            let sums: Vec<u16> = row.iter().zip(other).map(|(&v, &o)| 3 * u16::from(v) + u16::from(o)).collect();
            for (x, &sum) in sums.iter().enumerate() {
                let left = if x == 0 { sum } else { sums[x - 1] };
                let right = if x + 1 == sums.len() { sum } else { sums[x + 1] };
                values.extend([((3 * sum + left + 8) >> 4) as u8, ((3 * sum + right + 7) >> 4) as u8]);
            }
        }
    }
    Plane { width: 2 * plane.width, height: 2 * plane.height, values }
}

/// YCbCr to RGB in libjpeg's fixed point of 16 bits.
fn rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let fixed = |factor: f64| (factor * 65536.0 + 0.5) as i32;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = (fixed(1.402) * cr + HALF) >> 16;
    let green = (-fixed(0.34414) * cb - fixed(0.71414) * cr + HALF) >> 16;
    let blue = (fixed(1.772) * cb + HALF) >> 16;
    [red, green, blue].map(|colour| (y + colour).clamp(0, 255) as u8)
}
