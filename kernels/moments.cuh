// Means and variances of columns from the moments of chunks of rows.
//
// partials [chunks, 2, cols] holds means and sums of squared deviations; each chunk has `chunk` rows, the last one the rest. They are
// merged in f64 as deviations from the first mean. This equals the pairwise update of Chan et al. (1979), without its divisions.
#pragma once
#include "prelude.cuh"

struct Merged {
  double rows, sum, squares;  // of the deviations from `origin`
  float origin;
};

DEVICE double mean_of(const Merged &m) { return m.origin + m.sum / m.rows; }
// The sum of squared deviations from the mean.
DEVICE double m2_of(const Merged &m) {
  const double m2 = m.squares - m.sum * m.sum / m.rows;
  return m2 > 0 ? m2 : 0;
}

// Chunks first, first + step, ... of one column.
DEVICE Merged merge(const float *partials, int chunks, int chunk, int rows, int cols, int column, int first, int step) {
  Merged m = {(double)rows, 0, 0, partials[column]};
#pragma unroll 8
  for (int i = first; i < chunks; i += step) {
    const float *p = partials + (u64)i * 2 * cols + column;
    const double n = i + 1 < chunks ? chunk : rows - i * chunk, d = (double)p[0] - m.origin;
    m.sum += n * d;
    m.squares += p[cols] + n * d * d;
  }
  return m;
}
