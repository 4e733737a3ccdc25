// The weight-normalised last layer of DINO's head, after its product: y = u / |v| per column, where u = x . v, and its gradients.
#include "rows.cuh"

constexpr int ROWS = THREADS / 32;

// inverse [k] = 1 / |v|, v [k, c]. One warp per row of v. Floor: v once.
KERNEL void __launch_bounds__(THREADS) weight_norm_lengths(float *__restrict__ inverse, const float *__restrict__ v, int k, int c) {
  const int row = blockIdx.x * ROWS + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (row >= k) return;
  v += at(row, c, 0);
  float squares = 0.f;
  if (c % 4 == 0) {
    for (int i = lane * 4; i < c; i += 128) {
      float x[4];
      load16(v + i, x);
#pragma unroll
      for (float e : x) squares = fmaf(e, e, squares);
    }
  } else {
    for (int i = lane; i < c; i += 32) squares = fmaf(v[i], v[i], squares);
  }
  squares = warp_sum(squares);
  if (lane == 0) inverse[row] = 1.f / sqrtf(squares);
}

template <int N> DEVICE void forward(T *y, const T *u, const float *inverse, int rows, int k) {
  const int column = first_column(N);
  if (column >= k) return;
  float scale[N];
  load(inverse + column, scale);
#pragma unroll 2
  for (int r = first_row(); r < rows; r += row_step()) {
    float v[N];
    load(u + at(r, k, column), v);
#pragma unroll
    for (int e = 0; e < N; e++) v[e] *= scale[e];
    store(y + at(r, k, column), v);
  }
}

// Floor: u and y once.
KERNEL void __launch_bounds__(THREADS)
    weight_norm_fwd(T *__restrict__ y, const T *__restrict__ u, const float *__restrict__ inverse, int rows, int k) {
  if (k % VEC == 0) forward<VEC>(y, u, inverse, rows, k);
  else forward<1>(y, u, inverse, rows, k);
}

template <int N>
DEVICE void backward(T *du, float *partial, const T *dy, const T *u, const float *inverse, int add, int chunk, int rows, int k) {
  const int begin = blockIdx.x * chunk, end = min(rows, begin + chunk);
  const int column = first_column(N);
  float along[N] = {};
  if (column < k) {
    float scale[N];
    load(inverse + column, scale);
    for (int r = begin + threadIdx.y; r < end; r += blockDim.y) {
      float g[N], v[N];
      load(dy + at(r, k, column), g);
      load(u + at(r, k, column), v);
#pragma unroll
      for (int e = 0; e < N; e++) along[e] = fmaf(g[e], v[e], along[e]), g[e] *= scale[e];
      if (du) store_gradient(du + at(r, k, column), g, add);
    }
  }
  column_sums(along, along, k, [&](int c, float sum, float) { partial[(u64)blockIdx.x * k + c] = sum; });
}

// du = dy / |v|, which may be null, and partial [chunks, k]: the sums of dy u over the rows of a chunk.
// Floor: dy, u and du once.
KERNEL void __launch_bounds__(THREADS, 2)
    weight_norm_bwd(T *__restrict__ du, float *__restrict__ partial, const T *__restrict__ dy, const T *__restrict__ u,
                    const float *__restrict__ inverse, int add, int chunk, int rows, int k) {
  if (k % VEC == 0) backward<VEC>(du, partial, dy, u, inverse, add, chunk, rows, k);
  else backward<1>(du, partial, dy, u, inverse, add, chunk, rows, k);
}

// dv = - v (sum of dy u) / |v|^3. One warp per row of v. Floor: v and dv once (dv twice if it is added to).
KERNEL void __launch_bounds__(THREADS)
    weight_norm_bwd_v(float *__restrict__ dv, const float *__restrict__ partial, const float *__restrict__ v,
                      const float *__restrict__ inverse, int add, int chunks, int k, int c) {
  const int row = blockIdx.x * ROWS + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (row >= k) return;
  float along = 0.f;
  for (int i = lane; i < chunks; i += 32) along += partial[(u64)i * k + row];
  along = warp_sum(along);
  const float one = inverse[row], scale = -along * one * one * one;
  v += at(row, c, 0), dv += at(row, c, 0);
  if (c % 4 == 0) {
    for (int i = lane * 4; i < c; i += 128) {
      float x[4];
      load16(v + i, x);
#pragma unroll
      for (float &e : x) e *= scale;
      store_gradient(dv + i, x, add);
    }
  } else {
    for (int i = lane; i < c; i += 32) {
      float x[1] = {v[i] * scale};
      store_gradient(dv + i, x, add);
    }
  }
}
