//! Rows of a softmax on the CPU, vectorised. Sixteen running sums, whatever the machine, so that the bits do not depend on it.

use crate::device::exp::exp2;
use crate::device::product::LANES;
use multiversion::{multiversion, target::match_target};

/// e^x with a fused multiply-add where the machine has one. Relative error: 1.5e-7, plus 1e-7 per unit of |x|.
macro_rules! exp {
    ($x:expr) => {
        match_target! {
            "x86_64+fma" | "aarch64+neon" => exp2::<true>(($x) * std::f32::consts::LOG2_E),
            _ => exp2::<false>(($x) * std::f32::consts::LOG2_E),
        }
    };
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let mut top = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for v in whole {
        for j in 0..LANES {
            top[j] = if v[j] > top[j] { v[j] } else { top[j] };
        }
    }
    top.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

fn total(sums: [f32; LANES]) -> f64 {
    sums.iter().map(|s| *s as f64).sum()
}

/// q `[k]` = softmax((x - center) * factor); returns logsumexp and entropy, nats.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn softmax(q: &mut [f32], x: &[f32], center: &[f32], factor: f32) -> [f64; 2] {
    q.iter_mut().zip(x).zip(center).for_each(|((q, x), c)| *q = (x - c) * factor);
    let top = largest(q);
    let (mut sums, mut weighted) = ([0.0; LANES], [0.0; LANES]);
    for q in q.chunks_mut(LANES) {
        for ((q, sum), weighted) in q.iter_mut().zip(&mut sums).zip(&mut weighted) {
            let z = *q - top;
            *q = exp!(z);
            *sum += *q;
            *weighted += *q * z;
        }
    }
    let (sum, weighted) = (total(sums), total(weighted));
    let inverse = (1.0 / sum) as f32;
    q.iter_mut().for_each(|q| *q *= inverse);
    [top as f64 + sum.ln(), sum.ln() - weighted / sum]
}

/// log sum exp(x / temperature).
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn log_sum(x: &[f32], temperature: f32) -> f64 {
    let (top, inverse) = (largest(x), 1.0 / temperature);
    let mut sums = [0.0; LANES];
    for x in x.chunks(LANES) {
        x.iter().zip(&mut sums).for_each(|(x, sum)| *sum += exp!((x - top) * inverse));
    }
    top as f64 / temperature as f64 + total(sums).ln()
}

/// dx = weight * softmax(x / temperature), from its logsumexp; added to dx if `add`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn gradient(dx: &mut [f32], x: &[f32], temperature: f32, log_sum: f32, weight: f32, add: bool) {
    let inverse = 1.0 / temperature;
    for (dx, x) in dx.iter_mut().zip(x) {
        let g = weight * exp!(x * inverse - log_sum);
        *dx = if add { *dx + g } else { g };
    }
}
