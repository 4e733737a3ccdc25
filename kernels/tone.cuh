// The operations on the colours of single pixels: src/view/tone.rs.
#pragma once
#include "draw.cuh"

DEVICE float luma(const float (&v)[3]) { return v[0] * 0.2989f + v[1] * 0.587f + v[2] * 0.114f; }

// factor * v + (1 - factor) * reference, kept within [0, 1].
DEVICE void blend(float (&v)[3], float factor, float reference) {
  const float rest = (float)(1.0 - (double)factor) * reference;
  for (int c = 0; c < 3; c++) v[c] = __saturatef(v[c] * factor + rest);
}

// Turns the hue by `shift` in [-0.5, 0.5] turns, through HSV. Values outside [0, 1] go as on the CPU.
DEVICE void turn(float (&v)[3], float shift) {
  const float r = v[0], g = v[1], b = v[2];
  const float high = fmaxf(fmaxf(r, g), b), low = fminf(fminf(r, g), b), range = high - low;
  const float s = range / (high == low || high == 0.0f ? 1.0f : high);
  const float inverse = 1.0f / (high == low ? 1.0f : range);
  const float rc = (high - r) * inverse, gc = (high - g) * inverse, bc = (high - b) * inverse;
  float h = high == r ? bc - gc : high == g ? rc + 2.0f - bc : gc + 4.0f - rc;
  h = h * (1.0f / 6.0f) + 1.0f;
  h = (h >= 1.0f ? h - 1.0f : h) + shift;
  h = h >= 1.0f ? h - 1.0f : h;
  h = (h < 0.0f ? h + 1.0f : h) * 6.0f;
  const float i = floorf(h), f = h - i;
  const float p = __saturatef((1.0f - s) * high);
  const float q = __saturatef((1.0f - s * f) * high);
  const float t = __saturatef((s * f + (1.0f - s)) * high);
  // A tiny negative hue rounds up to a full turn: i = 6, f = 0, which is sector 0 again.
  v[0] = i < 1.0f ? high : i < 2.0f ? q : i < 4.0f ? p : i < 5.0f ? t : high;
  v[1] = i < 1.0f ? t : i < 3.0f ? high : i < 4.0f ? q : p;
  v[2] = i < 2.0f ? p : i < 3.0f ? t : i < 5.0f ? high : i < 6.0f ? q : p;
}

// Steps from..to of the jitter on a thread's pixels. `mean` is the mean of the gray image, which only contrast needs.
template <int N> DEVICE void jitter(float (&v)[N][3], const Drawn &d, int from, int to, float mean) {
  for (int step = from; step < to; step++) {
    const int tone = d.steps[step];
    const float factor = d.factor[tone];
    if (tone == HUE) {
#pragma unroll
      for (int i = 0; i < N; i++) turn(v[i], factor);
    } else {
#pragma unroll
      for (int i = 0; i < N; i++) blend(v[i], factor, tone == CONTRAST ? mean : tone == SATURATION ? luma(v[i]) : 0.0f);
    }
  }
}
