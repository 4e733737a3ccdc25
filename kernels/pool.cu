// Max pooling with stride 2, 3x3 with padding 1 or 2x2 without, and the mean over the map. Maps are [n, h, w, c].
#include "rows.cuh"

#define MINUS_INFINITY __uint_as_float(0xff800000u)

DEVICE bool inside(int i, int extent) { return i >= 0 && i < extent; }

// K x K pixels with stride 2, with padding 1 for a K of 3. Padding never wins, and a NaN always does, as in PyTorch: a value that was lost must
// surface, and fmaxf would drop it.
template <int K, int N> DEVICE void max_pool(T *y, const T *x, int n, int h, int w, int c) {
  const int high = (h + K - 2) / 2, wide = (w + K - 2) / 2, column = first_column(N);
  if (column >= c) return;
  for (int pixel = first_row(); pixel < n * high * wide; pixel += row_step()) {
    const int p = pixel / wide % high, q = pixel % wide, image = pixel / wide / high;
    float best[N];
#pragma unroll
    for (float &b : best) b = MINUS_INFINITY;
#pragma unroll
    for (int k = 0; k < K * K; k++) {
      const int i = 2 * p - (K - 2) + k / K, j = 2 * q - (K - 2) + k % K;
      if (!inside(i, h) || !inside(j, w)) continue;
      float v[N];
      load(x + at((image * h + i) * w + j, c, column), v);
#pragma unroll
      for (int e = 0; e < N; e++) best[e] = v[e] > best[e] || v[e] != v[e] ? v[e] : best[e];
    }
    store(y + at(pixel, c, column), best);
  }
}

// Two blocks per multiprocessor: ptxas would aim at more, and spill.
// Floor: 1 pass over x and y; 9 comparisons per value of y, 4 of the kernel below.
KERNEL void __launch_bounds__(THREADS, 2) max_pool_fwd(T *__restrict__ y, const T *__restrict__ x, int n, int h, int w, int c) {
  if (c % VEC == 0)
    max_pool<3, VEC>(y, x, n, h, w, c);
  else
    max_pool<3, 1>(y, x, n, h, w, c);
}
KERNEL void __launch_bounds__(THREADS, 2) max_pool_2_fwd(T *__restrict__ y, const T *__restrict__ x, int n, int h, int w, int c) {
  if (c % VEC == 0)
    max_pool<2, VEC>(y, x, n, h, w, c);
  else
    max_pool<2, 1>(y, x, n, h, w, c);
}

template <int N> DEVICE void max_pool_back(T *dx, const T *dy, const T *x, int add, int n, int h, int w, int c) {
  const int high = (h + 1) / 2, wide = (w + 1) / 2, column = first_column(N);
  if (column >= c) return;
  for (int quad = first_row(); quad < n * high * wide; quad += row_step()) {
    const int p = quad / wide % high, q = quad % wide, image = quad / wide / high;
    const int corner = (image * h + 2 * p) * w + 2 * q;
    float d[4][N] = {};
    if (add) {
#pragma unroll
      for (int k = 0; k < 4; k++)
        if (inside(2 * p + k / 2, h) && inside(2 * q + k % 2, w)) load(dx + at(corner + k / 2 * w + k % 2, c, column), d[k]);
    }
#pragma unroll 1
    for (int window = 0; window < 4; window++) {
      const int s = p + window / 2, t = q + window % 2;
      if (!inside(s, high) || !inside(t, wide)) continue;
      float best[N], g[N];
      int where[N];  // the position in the window: 3 row + column
#pragma unroll
      for (int e = 0; e < N; e++) best[e] = MINUS_INFINITY, where[e] = -1;
#pragma unroll
      for (int k = 0; k < 9; k++) {
        const int i = 2 * s - 1 + k / 3, j = 2 * t - 1 + k % 3;
        if (!inside(i, h) || !inside(j, w)) continue;
        float v[N];
        load(x + at((image * h + i) * w + j, c, column), v);
#pragma unroll
        for (int e = 0; e < N; e++) {
          const bool more = v[e] > best[e];
          best[e] = more ? v[e] : best[e];
          where[e] = more ? k : where[e];
        }
      }
      load(dy + at((image * high + s) * wide + t, c, column), g);
      // Pixel (2p, 2q) is element (1, 1) of window (p, q); in window (p, q + 1) it would be (1, -1), so it is not part of it; and so on.
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int row = k / 2 + 1 - 2 * (s - p), col = k % 2 + 1 - 2 * (t - q), here = row < 0 || col < 0 ? -2 : 3 * row + col;
#pragma unroll
        for (int e = 0; e < N; e++) d[k][e] += where[e] == here ? g[e] : 0;
      }
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (inside(2 * p + k / 2, h) && inside(2 * q + k % 2, w)) store(dx + at(corner + k / 2 * w + k % 2, c, column), d[k]);
  }
}

// The first maximum of a window, in reading order, gets its gradient. A thread computes pixels (2p, 2q) to (2p + 1, 2q + 1) of dx, which
// only windows (p, q) to (p + 1, q + 1) contain.
// Floor: 1 pass over x, dy and dx (2 if it is added to); 36 comparisons per value of dy.
KERNEL void __launch_bounds__(THREADS, 2)
    max_pool_bwd(T *__restrict__ dx, const T *__restrict__ dy, const T *__restrict__ x, int add, int n, int h, int w, int c) {
  if (c % VEC == 0)
    max_pool_back<VEC>(dx, dy, x, add, n, h, w, c);
  else
    max_pool_back<1>(dx, dy, x, add, n, h, w, c);
}

// A thread computes the pixels of one window, and on an odd map the pixels at the border that no window contains.
template <int N> DEVICE void max_pool_2_back(T *dx, const T *dy, const T *x, int add, int n, int h, int w, int c) {
  const int high = (h + 1) / 2, wide = (w + 1) / 2, column = first_column(N);
  if (column >= c) return;
  for (int quad = first_row(); quad < n * high * wide; quad += row_step()) {
    const int p = quad / wide % high, q = quad % wide, image = quad / wide / high, corner = (image * h + 2 * p) * w + 2 * q;
    const bool window = p < h / 2 && q < w / 2;
    float best[N], g[N] = {};
    int where[N];
#pragma unroll
    for (int e = 0; e < N; e++) best[e] = MINUS_INFINITY, where[e] = -1;
    if (window) {
#pragma unroll
      for (int k = 0; k < 4; k++) {
        float v[N];
        load(x + at(corner + k / 2 * w + k % 2, c, column), v);
#pragma unroll
        for (int e = 0; e < N; e++) {
          const bool more = v[e] > best[e];
          best[e] = more ? v[e] : best[e];
          where[e] = more ? k : where[e];
        }
      }
      load(dy + at((image * (h / 2) + p) * (w / 2) + q, c, column), g);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      if (!inside(2 * p + k / 2, h) || !inside(2 * q + k % 2, w)) continue;
      float d[N];
#pragma unroll
      for (int e = 0; e < N; e++) d[e] = where[e] == k ? g[e] : 0;
      store_gradient(dx + at(corner + k / 2 * w + k % 2, c, column), d, add);
    }
  }
}

// Floor: 1 pass over x, dy and dx (2 if it is added to); 4 comparisons per value of dy.
KERNEL void __launch_bounds__(THREADS, 2)
    max_pool_2_bwd(T *__restrict__ dx, const T *__restrict__ dy, const T *__restrict__ x, int add, int n, int h, int w, int c) {
  if (c % VEC == 0)
    max_pool_2_back<VEC>(dx, dy, x, add, n, h, w, c);
  else
    max_pool_2_back<1>(dx, dy, x, add, n, h, w, c);
}

template <int N, class E> DEVICE void average(E *y, const T *x, int n, int pixels, int c) {
  const int column = first_column(N);
  if (column >= c) return;
  for (int image = first_row(); image < n; image += row_step()) {
    float sum[N] = {};
#pragma unroll 4
    for (int i = 0; i < pixels; i++) {
      float v[N];
      load(x + at(image * pixels + i, c, column), v);
#pragma unroll
      for (int k = 0; k < N; k++) sum[k] += v[k];
    }
#pragma unroll
    for (float &s : sum) s /= pixels;
    store(y + at(image, c, column), sum);
  }
}

// Floor: 1 pass over x.
KERNEL void __launch_bounds__(THREADS) average_pool_fwd(T *__restrict__ y, const T *__restrict__ x, int n, int pixels, int c) {
  if (c % VEC == 0)
    average<VEC>(y, x, n, pixels, c);
  else
    average<1>(y, x, n, pixels, c);
}

// The same to f32: in evaluation these are the features.
KERNEL void __launch_bounds__(THREADS)
    average_pool_fwd_to_f32(float *__restrict__ y, const T *__restrict__ x, int n, int pixels, int c) {
  if (c % VEC == 0)
    average<VEC>(y, x, n, pixels, c);
  else
    average<1>(y, x, n, pixels, c);
}

template <int N> DEVICE void average_back(T *dx, const T *dy, int add, int n, int pixels, int c) {
  const int column = first_column(N);
  if (column >= c) return;
  for (int pixel = first_row(); pixel < n * pixels; pixel += row_step()) {
    float g[N];
    load(dy + at(pixel / pixels, c, column), g);
#pragma unroll
    for (float &e : g) e /= pixels;
    store_gradient(dx + at(pixel, c, column), g, add);
  }
}

// Floor: 1 pass over dx (2 if it is added to).
KERNEL void __launch_bounds__(THREADS)
    average_pool_bwd(T *__restrict__ dx, const T *__restrict__ dy, int add, int n, int pixels, int c) {
  if (c % VEC == 0)
    average_back<VEC>(dx, dy, add, n, pixels, c);
  else
    average_back<1>(dx, dy, add, n, pixels, c);
}
