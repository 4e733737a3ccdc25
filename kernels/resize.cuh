// Antialiased resizing of a box of an 8-bit image, separable, columns first: src/view/resize.rs.
//
// The CPU resizes the rows first. Here columns go first, straight from the bytes: each source row is resized once to the view's width, so
// shared memory does not grow with the source. Weights are computed where they are used, for four source rows at a time, because a table
// of them would grow with the source.
#pragma once
#include "draw.cuh"

// One axis of the box and of the view.
struct Axis {
  float scale, inverse, support;
  int input;   // pixels of the box
  int offset;  // of the view in what the box becomes
  int cubic;
};
// The source pixels that one pixel of the view reads.
struct Span {
  int first, end, cubic;
  float center, inverse;
};

DEVICE Axis axis(int cubic, int input, int output, int size) {
  Axis a;
  const float radius = cubic ? 2.0f : 1.0f;
  a.scale = (float)input / (float)output;
  a.support = a.scale >= 1.0f ? radius * a.scale : radius;
  a.inverse = a.scale >= 1.0f ? 1.0f / a.scale : 1.0f;
  a.input = input, a.offset = __float2int_rn((output - size) * 0.5f), a.cubic = cubic;
  return a;
}

DEVICE Span span(const Axis &a, int index) {
  Span s;
  s.cubic = a.cubic, s.inverse = a.inverse;
  s.center = a.scale * ((float)(index + a.offset) + 0.5f);
  s.first = max((int)(s.center - a.support + 0.5f), 0);
  s.end = min((int)(s.center + a.support + 0.5f), a.input);
  return s;
}

DEVICE float weight(const Span &s, int input) {
  const float x = fabsf((((float)input - s.center) + 0.5f) * s.inverse);
  if (!s.cubic) return fmaxf(1.0f - x, 0.0f);
  const float near = (1.5f * x - 2.5f) * x * x + 1.0f, far = (((x - 5.0f) * x + 8.0f) * x - 4.0f) * -0.5f;
  return x < 1.0f ? near : x < 2.0f ? far : 0.0f;
}

// Byte `at` of a word: 2^23 + byte is exact, and cheaper than a conversion.
DEVICE float byte_of(u32 word, int at) { return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7540u | at)) - 8388608.0f; }

// sum[c] += the weighted four pixels at `p`. Reads whole words: up to 15 bytes from `p` on.
DEVICE void add_pixels(const u8 *p, const float (&w)[4], float (&sum)[3]) {
  const u32 shift = (u32)((u64)p & 3), select = 0x3210u + 0x1111u * shift;
  const u32 *word = (const u32 *)(p - shift);
  const u32 a = word[0], b = word[1], c = word[2], d = word[3];
  const u32 x = __byte_perm(a, b, select), y = __byte_perm(b, c, select), z = __byte_perm(c, d, select);
  sum[0] += w[0] * byte_of(x, 0), sum[1] += w[0] * byte_of(x, 1), sum[2] += w[0] * byte_of(x, 2);
  sum[0] += w[1] * byte_of(x, 3), sum[1] += w[1] * byte_of(y, 0), sum[2] += w[1] * byte_of(y, 1);
  sum[0] += w[2] * byte_of(y, 2), sum[1] += w[2] * byte_of(y, 3), sum[2] += w[2] * byte_of(z, 0);
  sum[0] += w[3] * byte_of(z, 1), sum[1] += w[3] * byte_of(z, 2), sum[2] += w[3] * byte_of(z, 3);
}

// `count` rows of the box to `lines` [count, width, 3]: columns x0 .. x0 + width of the view, values 0 to 255.
DEVICE void columns(const u8 *box, u64 pitch, const Axis &a, bool flip, int size, int count, int x0, int width, float *lines) {
  for (int item = threadIdx.x; item < (count + 3) / 4 * width; item += blockDim.x) {
    const int row = item / width * 4, x = item % width;
    const Span s = span(a, flip ? size - 1 - (x0 + x) : x0 + x);
    const u8 *p = box + (u64)row * pitch + 3 * s.first;
    float sum[4][3] = {}, total = 0.0f;
#pragma unroll 1  // two rounds at once would need more registers than there are
    for (int i = s.first; i < s.end; i += 4, p += 12) {
      float w[4];
#pragma unroll
      for (int k = 0; k < 4; k++) w[k] = i + k < s.end ? weight(s, i + k) : 0.0f, total += w[k];
#pragma unroll
      for (int r = 0; r < 4; r++)
        if (row + r < count) add_pixels(p + r * pitch, w, sum[r]);
    }
    const float scale = 1.0f / total;
#pragma unroll
    for (int r = 0; r < 4; r++)
      if (row + r < count)
        for (int c = 0; c < 3; c++) lines[((row + r) * width + x) * 3 + c] = sum[r][c] * scale;
  }
}
