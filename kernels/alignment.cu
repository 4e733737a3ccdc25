// y [n, pairs]: for each sample the l2 distances between pairs of its views, normalised to unit length. Differences are taken directly, in f32.
//
// x [views * n, cols], where row v * n + i is view v of sample i. `pairs` [pairs] u32 holds views a << 16 | b. A warp goes through a row
// with 4 columns per lane, in all kernels alike: so the sum has the same order whether views come from shared memory or from caches.
#include "rows.cuh"

constexpr int WARP = 32, WARPS = THREADS / WARP, AHEAD = 4;

DEVICE int lane() { return threadIdx.x % WARP; }
DEVICE int warp() { return threadIdx.x / WARP; }

// Four values of a row from column c on; beyond its end zeros.
DEVICE void load4(const float *row, int c, int cols, float (&v)[4]) {
  if (cols % 4 == 0)
    load16(row + c, v);
  else
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = c + k < cols ? row[c + k] : 0;
}
DEVICE void load4(const bf16 *row, int c, int cols, float (&v)[4]) {
  if (cols % 4 == 0) {
    const uint2 x = *(const uint2 *)(row + c);
    v[0] = low_bf16(x.x), v[1] = high_bf16(x.x), v[2] = low_bf16(x.y), v[3] = high_bf16(x.y);
  } else {
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = c + k < cols ? to_f32(row[c + k]) : 0;
  }
}

DEVICE float squares(const float (&v)[4]) { return v[0] * v[0] + v[1] * v[1] + (v[2] * v[2] + v[3] * v[3]); }

// 1 / length; a zero row stays zero, a NaN stays a NaN.
DEVICE float inverse_length(float squares) {
  const float length = sqrtf(squares);
  return length > 0 ? 1 / length : length;
}

// Rounds the product by itself (no FMA with the later difference), so that scaled values kept in shared memory give the same bits.
DEVICE void scale4(float (&v)[4], float s) {
#pragma unroll
  for (float &e : v) e = __fmul_rn(e, s);
}

// One warp: the distances of pairs first, first + 1, ... below `end`, at most AHEAD. fetch(view, c, v) gives four values of a view,
// scale(view) their factor.
template <class Fetch, class Scale>
DEVICE void distances(float *y, const u32 *pairs, int first, int end, int cols, Fetch fetch, Scale scale) {
  float sum[AHEAD] = {}, scale_a[AHEAD], scale_b[AHEAD];
  int view_a[AHEAD], view_b[AHEAD];
#pragma unroll
  for (int k = 0; k < AHEAD; k++) {
    const u32 pair = pairs[min(first + k, end - 1)];
    view_a[k] = pair >> 16, view_b[k] = pair & 0xffff;
    scale_a[k] = scale(view_a[k]), scale_b[k] = scale(view_b[k]);
  }
  for (int c = 4 * lane(); c < cols; c += 4 * WARP) {
    float a[4], b[4];
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      // Neighbouring pairs mostly share their first view.
      if (k == 0 || view_a[k] != view_a[k - 1]) {
        fetch(view_a[k], c, a);
        scale4(a, scale_a[k]);
      }
      fetch(view_b[k], c, b);
      scale4(b, scale_b[k]);
      const float d[4] = {a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3]};
      sum[k] += squares(d);
    }
  }
#pragma unroll
  for (int k = 0; k < AHEAD; k++) {
    const float total = warp_sum(sum[k]);
    if (lane() == 0 && first + k < end) y[first + k] = sqrtf(total);
  }
}

// A block keeps the views of its sample, scaled, in shared memory: [views, cols rounded up to 4] f32.
template <class E> DEVICE void staged(float *y, const E *x, const u32 *pairs, int n, int views, int cols, int count) {
  SHARED_DYN(dynamic);
  float *kept = (float *)dynamic;
  const int sample = blockIdx.x, pitch = (cols + 3) / 4 * 4;
  for (int v = warp(); v < views; v += WARPS) {
    const E *row = x + at(v * n + sample, cols, 0);
    float sum = 0;
#pragma unroll 4
    for (int c = 4 * lane(); c < cols; c += 4 * WARP) {
      float e[4];
      load4(row, c, cols, e);
      sum += squares(e);
      store16(kept + v * pitch + c, e);
    }
    const float s = inverse_length(warp_sum(sum));
    for (int c = 4 * lane(); c < cols; c += 4 * WARP) {
      float e[4];
      load16(kept + v * pitch + c, e);
      scale4(e, s);
      store16(kept + v * pitch + c, e);
    }
  }
  __syncthreads();
  for (int first = AHEAD * warp(); first < count; first += AHEAD * WARPS)
    distances(
        y + at(sample, count, 0), pairs, first, count, cols, [&](int v, int c, float(&e)[4]) { load16(kept + v * pitch + c, e); },
        [](int) { return 1.0f; });
}

// Floor: 1 pass over x; 5 operations per value and pair. Four blocks per multiprocessor: ptxas would rather spill than use 33 registers.
KERNEL void __launch_bounds__(THREADS, 4)
    alignment_fwd(float *__restrict__ y, const T *__restrict__ x, const u32 *__restrict__ pairs, int n, int views, int cols, int count) {
  staged(y, x, pairs, n, views, cols, count);
}
// The same of f32 features.
KERNEL void __launch_bounds__(THREADS, 4)
    alignment_fwd_f32(float *__restrict__ y, const float *__restrict__ x, const u32 *__restrict__ pairs, int n, int views, int cols,
                      int count) {
  staged(y, x, pairs, n, views, cols, count);
}

// Samples whose views do not fit into shared memory: first 1 / length of each row of x, a warp each.
template <class E> DEVICE void lengths(float *inverse, const E *x, int rows, int cols) {
  const int row = blockIdx.x * WARPS + warp();
  if (row >= rows) return;
  float sum = 0;
#pragma unroll 4
  for (int c = 4 * lane(); c < cols; c += 4 * WARP) {
    float e[4];
    load4(x + at(row, cols, 0), c, cols, e);
    sum += squares(e);
  }
  const float s = inverse_length(warp_sum(sum));
  if (lane() == 0) inverse[row] = s;
}

// Floor: 1 pass over x.
KERNEL void __launch_bounds__(THREADS) alignment_lengths(float *__restrict__ inverse, const T *__restrict__ x, int rows, int cols) {
  lengths(inverse, x, rows, cols);
}
KERNEL void __launch_bounds__(THREADS)
    alignment_lengths_f32(float *__restrict__ inverse, const float *__restrict__ x, int rows, int cols) {
  lengths(inverse, x, rows, cols);
}

// Then the distances, AHEAD * WARPS pairs of one sample per block. Views that its warps share come from the L1.
template <class E> DEVICE void wide(float *y, const E *x, const float *inverse, const u32 *pairs, int n, int cols, int count) {
  const int tiles = (count + AHEAD * WARPS - 1) / (AHEAD * WARPS), sample = blockIdx.x / tiles;
  const int first = AHEAD * (blockIdx.x % tiles * WARPS + warp());
  if (first >= count) return;
  distances(
      y + at(sample, count, 0), pairs, first, count, cols,
      [&](int v, int c, float(&e)[4]) { load4(x + at(v * n + sample, cols, 0), c, cols, e); },
      [&](int v) { return inverse[v * n + sample]; });
}

// Floor: 1 pass over x; 7 operations per value and pair.
KERNEL void __launch_bounds__(THREADS)
    alignment_wide(float *__restrict__ y, const T *__restrict__ x, const float *__restrict__ inverse, const u32 *__restrict__ pairs, int n,
                   int cols, int count) {
  wide(y, x, inverse, pairs, n, cols, count);
}
KERNEL void __launch_bounds__(THREADS)
    alignment_wide_f32(float *__restrict__ y, const float *__restrict__ x, const float *__restrict__ inverse,
                       const u32 *__restrict__ pairs, int n, int cols, int count) {
  wide(y, x, inverse, pairs, n, cols, count);
}
