//! GELU(x) = x Φ(x) with the exact normal distribution (erf, not tanh), and its slope Φ(x) + x φ(x).
//!
//! Φ(-|x|) = exp(-x²/2) p(t) / 2 with t = 1 / (1 + 0.3275911 |x| / sqrt 2) (Abramowitz and Stegun 7.1.26), whose erf is within
//! 1.5e-7, and within 5e-7 with the rounding of f32. The lower tail has no difference of near numbers. The kernels use the same.

use super::exp::exp2;
use multiversion::multiversion;

/// Φ(x) and exp(-x²/2).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let e = exp2::<false>(-0.5 * std::f32::consts::LOG2_E * (x * x));
    let p = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    let tail = 0.5 * p * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

/// x Φ(x).
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// y = GELU(y), on one thread.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn apply(y: &mut [f32]) {
    for y in y {
        *y = gelu(*y);
    }
}

/// dx = dy GELU'(x), added to dx if `add`, on one thread.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn backward(dx: &mut [f32], dy: &[f32], x: &[f32], add: bool) {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    for ((dx, dy), &x) in dx.iter_mut().zip(dy).zip(x) {
        let (below, e) = normal(x);
        let g = dy * (below + x * DENSITY * e);
        *dx = if add { *dx + g } else { g };
    }
}
