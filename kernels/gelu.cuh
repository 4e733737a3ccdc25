// GELU(x) = x Phi(x) with the exact normal distribution, as in src/device/gelu.rs: Abramowitz and Stegun 7.1.26, erf within 1.5e-7.
#pragma once
#include "prelude.cuh"

// Phi(x), and e = exp(-x^2 / 2), which the slope needs.
DEVICE float normal_below(float x, float &e) {
  const float t = __fdividef(1.f, fmaf(0.3275911f * 0.70710678f, fabsf(x), 1.f));
  e = __expf(-0.5f * x * x);
  const float p = fmaf(fmaf(fmaf(fmaf(1.0614054f, t, -1.4531521f), t, 1.4214138f), t, -0.28449674f), t, 0.2548296f);
  const float tail = 0.5f * p * t * e;
  return x < 0.f ? tail : 1.f - tail;
}
DEVICE float gelu(float x) {
  float e;
  return x * normal_below(x, e);
}
// Phi(x) + x phi(x).
DEVICE float gelu_slope(float x) {
  float e;
  const float below = normal_below(x, e);
  return fmaf(x * 0.3989423f, e, below);
}
