//! A block of scores on the CPU: softmax in the forward, its gradient in the backward.

use crate::device::exp::exp2;
use crate::device::product::LANES;
use multiversion::{multiversion, target::match_target};

/// Reduces sixteen values to one by halving: the order is fixed, whatever the machine.
#[inline(always)]
fn fold(mut v: [f32; LANES], of: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for j in 0..half {
            v[j] = of(v[j], v[j + half]);
        }
    }
    v[0]
}

/// Scores `[rows, stride]`, of whose columns `tokens` count, become exp(scale * (s - max of the row)). `inverse` `[rows]` gets 1 over each
/// row's sum, `log_sums` `[rows]` its log sum exp(scale * s). Sixteen running sums, whatever the machine, so that the bits do not depend on it.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn softmax(s: &mut [f32], stride: usize, tokens: usize, scale: f32, inverse: &mut [f32], log_sums: &mut [f32]) {
    let scale2 = scale * std::f32::consts::LOG2_E;
    for ((s, inverse), log_sum) in s.chunks_exact_mut(stride).zip(inverse.iter_mut()).zip(log_sums.iter_mut()) {
        s[tokens..].fill(f32::NEG_INFINITY);
        let mut top = [f32::NEG_INFINITY; LANES];
        for s in s.as_chunks::<LANES>().0 {
            for j in 0..LANES {
                top[j] = if s[j] > top[j] { s[j] } else { top[j] };
            }
        }
        let top = fold(top, |a, b| if a > b { a } else { b });
        let mut sums = [0.0; LANES];
        for s in s.as_chunks_mut::<LANES>().0 {
            for j in 0..LANES {
                s[j] = match_target! {
                    "x86_64+fma" | "aarch64+neon" => exp2::<true>((s[j] - top) * scale2),
                    _ => exp2::<false>((s[j] - top) * scale2),
                };
                sums[j] += s[j];
            }
        }
        (*inverse, *log_sum) = (fold(sums, |a, b| a + b), scale * top);
    }
    // In a loop of its own: a call to `ln` in the loop above would spill its vector registers.
    for (inverse, log_sum) in inverse.iter_mut().zip(log_sums).take(s.len() / stride) {
        *log_sum += inverse.ln();
        *inverse = 1.0 / *inverse;
    }
}

/// `s` and `dp` are `[rows, stride]`. Scores in `s` become probabilities p; gradients of the probabilities in `dp` become those of the scores,
/// p * (dp - delta).
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+avx2+fma", "x86_64+avx2+fma"))]
pub fn softmax_back(s: &mut [f32], dp: &mut [f32], stride: usize, scale: f32, delta: &[f32], log_sums: &[f32]) {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    for (((s, dp), delta), log_sum) in s.chunks_exact_mut(stride).zip(dp.chunks_exact_mut(stride)).zip(delta).zip(log_sums) {
        for (s, dp) in s.as_chunks_mut::<LANES>().0.iter_mut().zip(dp.as_chunks_mut::<LANES>().0) {
            for j in 0..LANES {
                s[j] = match_target! {
                    "x86_64+fma" | "aarch64+neon" => exp2::<true>((s[j] * scale - log_sum) * LOG2_E),
                    _ => exp2::<false>((s[j] * scale - log_sum) * LOG2_E),
                };
                dp[j] = s[j] * (dp[j] - delta);
            }
        }
    }
}
