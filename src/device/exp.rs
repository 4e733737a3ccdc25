//! An exponential that the compiler can vectorise inside a loop.

/// 2^x with a relative error of 1.2e-7: 2^(nearest integer) times a polynomial (Cephes' exp2f) of the rest. Below -126 it is 2^-126; a NaN
/// stays a NaN. `FUSED` uses fused multiply-adds; without the instruction these would be library calls, so it is false there.
#[inline(always)]
pub fn exp2<const FUSED: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12582912.0; // 1.5 * 2^23: adding it leaves an integer in the lowest bits
    let fma = |a: f32, b: f32, c: f32| if FUSED { a.mul_add(b, c) } else { a * b + c };
    let x = if x < -126.0 { -126.0 } else { x };
    let near = x + ROUND;
    let left = x - (near - ROUND);
    let mut p = 1.535_336_2e-4;
    for c in [1.339_887_5e-3, 9.618_437e-3, 5.550_332_6e-2, 0.240_226_48, std::f32::consts::LN_2, 1.0] {
        p = fma(p, left, c);
    }
    p * f32::from_bits((near.to_bits() << 23).wrapping_add(0x3F80_0000))
}
