// The mean distance of paired rows, scaled to unit length: direct differences in f32. One block per pair.
#include "rows.cuh"

// Calls f(c) for each group of N columns of this thread; c is the group's first column.
template <int N, class F> DEVICE void columns(int cols, F f) {
  for (int c = threadIdx.x * N; c < cols; c += THREADS * N) f(c);
}

// A row of zeros stays zero.
DEVICE float inverse_length(float squares) {
  const float length = sqrtf(squares);
  return length > 0 ? 1 / length : length;
}

template <int N> DEVICE void forward(float *saved, const T *a, const T *b, int n, int cols) {
  float aa = 0, bb = 0, sum = 0;
  columns<N>(cols, [&](int c) {
    float x[N], y[N];
    load(a + c, x), load(b + c, y);
#pragma unroll
    for (int i = 0; i < N; i++) aa = fmaf(x[i], x[i], aa), bb = fmaf(y[i], y[i], bb);
  });
  const float ia = inverse_length(block_sum(aa)), ib = inverse_length(block_sum(bb));
  columns<N>(cols, [&](int c) {
    float x[N], y[N];
    load(a + c, x), load(b + c, y);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float d = __fmul_rn(x[i], ia) - __fmul_rn(y[i], ib);
      sum = fmaf(d, d, sum);
    }
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) saved[blockIdx.x] = sqrtf(sum), saved[n + blockIdx.x] = ia, saved[2 * n + blockIdx.x] = ib;
}

// saved [3, n]: distance, 1/|a|, 1/|b|.
// Floor: 2 passes over n x cols; the second read of a row hits the cache.
KERNEL void __launch_bounds__(THREADS) distance_fwd(float *saved, const T *a, const T *b, int n, int cols) {
  const u64 row = at(blockIdx.x, cols, 0);
  if (cols % VEC == 0) forward<VEC>(saved, a + row, b + row, n, cols);
  else forward<1>(saved, a + row, b + row, n, cols);
}

// With unit vectors u (own side) and v: the gradient is apart (u - v) - along u. The second term is the projection of l2_normalize.
struct Factors {
  float apart, along;
};
DEVICE Factors factors(float scale, float distance, float own, float other) {
  if (distance == 0) return {0, 0};
  // u . (u - v) = (|u|^2 - |v|^2 + |u - v|^2) / 2, where a length is 1, or 0 of a row of zeros.
  const float factor = scale * own / distance;
  return {factor, factor * 0.5f * ((own > 0 ? 1.f : 0.f) - (other > 0 ? 1.f : 0.f) + distance * distance)};
}

template <int N>
DEVICE void backward(T *da, T *db, const T *a, const T *b, int add_a, int add_b, int cols, float ia, float ib, Factors fa, Factors fb) {
  columns<N>(cols, [&](int c) {
    float x[N], y[N], g[N];
    load(a + c, x), load(b + c, y);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = __fmul_rn(x[i], ia), y[i] = __fmul_rn(y[i], ib);
    if (da) {
#pragma unroll
      for (int i = 0; i < N; i++) g[i] = fa.apart * (x[i] - y[i]) - fa.along * x[i];
      store_gradient(da + c, g, add_a);
    }
    if (db) {
#pragma unroll
      for (int i = 0; i < N; i++) g[i] = fb.apart * (y[i] - x[i]) - fb.along * y[i];
      store_gradient(db + c, g, add_b);
    }
  });
}

// Either gradient may be null.
// Floor: 2 passes over n x cols and one for each gradient, 2 if it is added to.
KERNEL void __launch_bounds__(THREADS)
    distance_bwd(T *da, T *db, const float *dy, const T *a, const T *b, const float *saved, int add_a, int add_b, int n, int cols) {
  const int pair = blockIdx.x;
  const float scale = dy[0] / n, distance = saved[pair], ia = saved[n + pair], ib = saved[2 * n + pair];
  const Factors fa = factors(scale, distance, ia, ib), fb = factors(scale, distance, ib, ia);
  const u64 row = at(pair, cols, 0);
  T *to_a = da ? da + row : da, *to_b = db ? db + row : db;
  if (cols % VEC == 0) backward<VEC>(to_a, to_b, a + row, b + row, add_a, add_b, cols, ia, ib, fa, fb);
  else backward<1>(to_a, to_b, a + row, b + row, add_a, add_b, cols, ia, ib, fa, fb);
}
