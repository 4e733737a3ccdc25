// An image without augmentation, resized to Pillow's bytes: src/view/pillow.rs. Weights are fixed-point with 22 fractional bits. Columns
// come first; pixels are rounded to 8 bits after the columns and again after the rows.
//
// Weights are computed where they are used, in f64: this is one view among many.
#pragma once
#include "draw.cuh"

// The source places and weights of one place of an axis.
struct Place {
  int first, count;
  double center, inverse, sum;
};

DEVICE double filtered(bool cubic, double x) {
  x = fabs(x);
  if (!cubic) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 : 0.0;
}

DEVICE double raw_weight(const Place &s, bool cubic, int i) { return filtered(cubic, (s.first + i - s.center + 0.5) * s.inverse); }

// Place `at` of an axis resized from `from` to `to` pixels.
DEVICE Place place_of(bool cubic, int from, int to, int at) {
  Place s;
  const double scale = (double)from / to, wide = scale > 1.0 ? scale : 1.0, support = cubic ? 2.0 * wide : wide;
  s.center = (at + 0.5) * scale, s.inverse = 1.0 / wide, s.sum = 0.0;
  s.first = max((int)(s.center - support + 0.5), 0);
  s.count = min((int)(s.center + support + 0.5), from) - s.first;
  for (int i = 0; i < s.count; i++) s.sum += raw_weight(s, cubic, i);
  return s;
}

DEVICE int fixed_weight(const Place &s, bool cubic, int i) {
  const double weight = raw_weight(s, cubic, i) / s.sum * 4194304.0;
  return (int)(weight < 0.0 ? weight - 0.5 : weight + 0.5);
}

DEVICE int byte_of(int sum) { return min(max(sum >> 22, 0), 255); }

// The view [size, size, 3] in y, from an image [height, width, 3] that becomes to_height x to_width.
DEVICE void plain(T *y, const Policy &p, const u8 *pixels, int height, int width, int to_height, int to_width) {
  const int HALF = 1 << 21, size = p.size;
  const bool cubic = p.cubic != 0;
  const int top = __double2int_rn((to_height - size) * 0.5), left = __double2int_rn((to_width - size) * 0.5);
  for (int at = threadIdx.x; at < size * size; at += blockDim.x) {
    const Place rows = place_of(cubic, height, to_height, top + at / size), columns = place_of(cubic, width, to_width, left + at % size);
    int total[3] = {HALF, HALF, HALF};
    for (int i = 0; i < rows.count; i++) {
      const u8 *line = pixels + ((u64)(rows.first + i) * width + columns.first) * 3;
      int sum[3] = {HALF, HALF, HALF};
      for (int j = 0; j < columns.count; j++) {
        const int weight = fixed_weight(columns, cubic, j);
        for (int c = 0; c < 3; c++) sum[c] += line[3 * j + c] * weight;
      }
      const int weight = fixed_weight(rows, cubic, i);
      for (int c = 0; c < 3; c++) total[c] += byte_of(sum[c]) * weight;
    }
    for (int c = 0; c < 3; c++) y[at * 3 + c] = from_f32((byte_of(total[c]) * (1.0f / 255.0f) - p.mean[c]) * p.scale[c]);
  }
}
