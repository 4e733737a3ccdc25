//! The operations on the colours of single pixels, for rows of three float planes.

/// One operation of ColorJitter with its drawn factor.
#[derive(Clone, Copy, Debug)]
pub enum Tone {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    Hue(f32),
}

const WEIGHTS: [f32; 3] = [0.2989, 0.587, 0.114];

#[inline(always)]
fn luma(r: f32, g: f32, b: f32) -> f32 {
    r * WEIGHTS[0] + g * WEIGHTS[1] + b * WEIGHTS[2]
}

/// Applies one operation to a row. `mean` is the mean of the gray image, which contrast alone needs.
#[inline(always)]
pub fn apply(tone: Tone, mean: f32, r: &mut [f32], g: &mut [f32], b: &mut [f32]) {
    match tone {
        Tone::Brightness(factor) => blend(r, g, b, factor, |_, _, _| 0.0),
        Tone::Contrast(factor) => blend(r, g, b, factor, |_, _, _| mean),
        Tone::Saturation(factor) => blend(r, g, b, factor, luma),
        Tone::Hue(shift) => each(r, g, b, |r, g, b| turn(r, g, b, shift)),
    }
}

#[inline(always)]
pub fn gray(r: &mut [f32], g: &mut [f32], b: &mut [f32]) {
    each(r, g, b, |r, g, b| [luma(r, g, b); 3]);
}

/// Sum of the gray values of a row, over sixteen lanes on every machine, so that it rounds alike.
#[inline(always)]
pub fn luma_sum(r: &[f32], g: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f32; 16];
    let whole = r.len() / 16 * 16;
    let (g, b) = (&g[..r.len()], &b[..r.len()]);
    for at in (0..whole).step_by(16) {
        let (r, g, b) = (&r[at..at + 16], &g[at..at + 16], &b[at..at + 16]);
        for lane in 0..16 {
            lanes[lane] += luma(r[lane], g[lane], b[lane]);
        }
    }
    for at in whole..r.len() {
        lanes[at - whole] += luma(r[at], g[at], b[at]);
    }
    lanes.iter().map(|v| *v as f64).sum()
}

/// factor * pixel + (1 - factor) * reference, kept within [0, 1].
#[inline(always)]
fn blend(r: &mut [f32], g: &mut [f32], b: &mut [f32], factor: f32, reference: impl Fn(f32, f32, f32) -> f32) {
    let rest = (1.0 - factor as f64) as f32;
    each(r, g, b, |r, g, b| {
        let reference = reference(r, g, b);
        [r, g, b].map(|v| (v * factor + reference * rest).clamp(0.0, 1.0))
    });
}

#[inline(always)]
fn each(r: &mut [f32], g: &mut [f32], b: &mut [f32], f: impl Fn(f32, f32, f32) -> [f32; 3]) {
    let n = r.len();
    let (g, b) = (&mut g[..n], &mut b[..n]);
    for i in 0..n {
        [r[i], g[i], b[i]] = f(r[i], g[i], b[i]);
    }
}

/// Turns the hue by `shift` in [-0.5, 0.5] turns: torchvision's `_rgb_to_hsv` and `_hsv_to_rgb`, with
/// selections in place of branches and gathers. Values outside [0, 1], which bicubic resizing leaves,
/// go the same way as there, but a largest channel of exactly zero above negative ones gives black
/// and not NaN.
#[inline(always)]
fn turn(r: f32, g: f32, b: f32, shift: f32) -> [f32; 3] {
    let high = larger(larger(r, g), b);
    let low = smaller(smaller(r, g), b);
    let range = high - low;
    let s = range / if high == low || high == 0.0 { 1.0 } else { high };
    let divisor = if high == low { 1.0 } else { range };
    let (rc, gc, bc) = ((high - r) / divisor, (high - g) / divisor, (high - b) / divisor);
    let sector = if high == r {
        bc - gc
    } else if high == g {
        rc + 2.0 - bc
    } else {
        gc + 4.0 - rc
    };
    let h = sector * (1.0 / 6.0) + 1.0;
    let h = if h >= 1.0 { h - 1.0 } else { h } + shift;
    let h = if h >= 1.0 { h - 1.0 } else { h };
    let h = if h < 0.0 { h + 1.0 } else { h } * 6.0;
    let i = h.floor();
    let f = h - i;
    let p = ((1.0 - s) * high).clamp(0.0, 1.0);
    let q = ((1.0 - s * f) * high).clamp(0.0, 1.0);
    let t = ((s * f + (1.0 - s)) * high).clamp(0.0, 1.0);
    // A tiny negative hue rounds up to a full turn: i = 6, f = 0, which is sector 0 again.
    [
        if i < 1.0 {
            high
        } else if i < 2.0 {
            q
        } else if i < 4.0 {
            p
        } else if i < 5.0 {
            t
        } else {
            high
        },
        if i < 1.0 {
            t
        } else if i < 3.0 {
            high
        } else if i < 4.0 {
            q
        } else {
            p
        },
        if i < 2.0 {
            p
        } else if i < 3.0 {
            t
        } else if i < 5.0 {
            high
        } else if i < 6.0 {
            q
        } else {
            p
        },
    ]
}

/// Without the NaN handling of `f32::max`, which costs two more instructions.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Solarises, normalises and interleaves a row: `out` [size, 3]. `scale` is one over the deviation.
#[inline(always)]
pub fn finish(planes: [&[f32]; 3], threshold: f32, mean: [f32; 3], scale: [f32; 3], out: &mut [f32]) {
    let n = out.len() / 3;
    let [r, g, b] = planes.map(|p| &p[..n]);
    let value = |v: f32, c: usize| ((if v >= threshold { 1.0 - v } else { v }) - mean[c]) * scale[c];
    for (i, out) in out.chunks_exact_mut(3).enumerate() {
        out[0] = value(r[i], 0);
        out[1] = value(g[i], 1);
        out[2] = value(b[i], 2);
    }
}
