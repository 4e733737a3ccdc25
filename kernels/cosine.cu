// The mean cosine of paired rows. One warp per row.
#include "rows.cuh"

DEVICE int row_of_warp() { return blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5); }

template <int N> DEVICE void lengths(float &aa, float &bb, float &ab, const T *a, const T *b, int cols) {
  for (int c = (threadIdx.x & 31) * N; c < cols; c += 32 * N) {
    float x[N], y[N];
    load(a + c, x), load(b + c, y);
#pragma unroll
    for (int i = 0; i < N; i++) aa = fmaf(x[i], x[i], aa), bb = fmaf(y[i], y[i], bb), ab = fmaf(x[i], y[i], ab);
  }
}

// saved [3, rows]: cosine, 1/|a|, 1/|b|; a row of zeros counts as 1e-12 long.
// Floor: 2 passes over rows x cols.
KERNEL void __launch_bounds__(THREADS) cosine_fwd(float *saved, const T *a, const T *b, int rows, int cols) {
  const int row = row_of_warp();
  if (row >= rows) return;
  float aa = 0, bb = 0, ab = 0;
  if (cols % VEC == 0) lengths<VEC>(aa, bb, ab, a + at(row, cols, 0), b + at(row, cols, 0), cols);
  else lengths<1>(aa, bb, ab, a + at(row, cols, 0), b + at(row, cols, 0), cols);
  aa = 1 / fmaxf(sqrtf(warp_sum(aa)), 1e-12f), bb = 1 / fmaxf(sqrtf(warp_sum(bb)), 1e-12f), ab = warp_sum(ab);
  if (threadIdx.x % 32 == 0) saved[row] = ab * aa * bb, saved[rows + row] = aa, saved[2 * rows + row] = bb;
}

template <int N> DEVICE void backward(T *da, const T *a, const T *b, int add, int cols, float scale, float along, float across) {
  for (int c = (threadIdx.x & 31) * N; c < cols; c += 32 * N) {
    float v[N], o[N], g[N];
    load(a + c, v), load(b + c, o);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = scale * (o[i] * across - v[i] * along);
    store_gradient(da + c, g, add);
  }
}

// da = dy / (rows |a|) (b / |b| - cosine a / |a|).
// Floor: 3 passes over rows x cols, 4 if the gradient is added to.
KERNEL void __launch_bounds__(THREADS)
    cosine_bwd(T *da, const float *dy, const T *a, const T *b, const float *saved, int add, int rows, int cols) {
  const int row = row_of_warp();
  if (row >= rows) return;
  const float inverse = saved[rows + row], across = saved[2 * rows + row];
  const float scale = dy[0] / rows * inverse, along = inverse * saved[row];
  const u64 from = at(row, cols, 0);
  if (cols % VEC == 0) backward<VEC>(da + from, a + from, b + from, add, cols, scale, along, across);
  else backward<1>(da + from, a + from, b + from, add, cols, scale, along, across);
}
