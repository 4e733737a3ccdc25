// The mean of tokens first .. first + count - 1 of each sample, x [n, t, d] to y [n, d], and its gradient.
#include "rows.cuh"

template <int N, class X, class Y> DEVICE void mean(Y *y, const X *x, int n, int t, int d, int first, int count) {
  const int column = first_column(N);
  if (column >= d) return;
  for (int i = first_row(); i < n; i += row_step()) {
    float sum[N];
    const X *from = x + at(i, t, first) * d + column;
    load(from, sum);
#pragma unroll 4
    for (int k = 1; k < count; k++) {
      float v[N];
      load(from + (u64)k * d, v);
#pragma unroll
      for (int e = 0; e < N; e++) sum[e] += v[e];
    }
#pragma unroll
    for (int e = 0; e < N; e++) sum[e] /= count;
    store(y + at(i, d, column), sum);
  }
}
template <class X, class Y> DEVICE void mean_of(Y *y, const X *x, int n, int t, int d, int first, int count) {
  if (d % VEC == 0) mean<VEC>(y, x, n, t, d, first, count);
  else mean<1>(y, x, n, t, d, first, count);
}

// Floor: those tokens of x, and y, once.
KERNEL void __launch_bounds__(THREADS)
    tokens_mean_fwd(T *__restrict__ y, const T *__restrict__ x, int n, int t, int d, int first, int count) {
  mean_of(y, x, n, t, d, first, count);
}
// The same with a result in f32. Floor: those tokens of x, and y, once.
KERNEL void __launch_bounds__(THREADS)
    tokens_mean_fwd_to_f32(float *__restrict__ y, const T *__restrict__ x, int n, int t, int d, int first, int count) {
  mean_of(y, x, n, t, d, first, count);
}
// The same from x in f32. Floor: those tokens of x, and y, once.
KERNEL void __launch_bounds__(THREADS)
    tokens_mean_fwd_f32(float *__restrict__ y, const float *__restrict__ x, int n, int t, int d, int first, int count) {
  mean_of(y, x, n, t, d, first, count);
}

template <int N> DEVICE void backward(T *dx, const T *dy, int add, int n, int t, int d, int first, int count) {
  const int column = first_column(N), tokens = add ? count : t, offset = add ? first : 0;
  if (column >= d) return;
  for (int r = first_row(); r < n * tokens; r += row_step()) {
    const int i = r / tokens, token = r - i * tokens + offset;
    float g[N] = {};
    if (token >= first && token < first + count) {
      load(dy + at(i, d, column), g);
#pragma unroll
      for (int e = 0; e < N; e++) g[e] /= count;
    }
    store_gradient(dx + at(i, t, token) * d + column, g, add);
  }
}

// dx [n, t, d] = dy / count for those tokens and zero for the others, which are not touched if it is added to.
// Floor: dx once, or those tokens twice if it is added to.
KERNEL void __launch_bounds__(THREADS)
    tokens_mean_bwd(T *__restrict__ dx, const T *__restrict__ dy, int add, int n, int t, int d, int first, int count) {
  if (d % VEC == 0) backward<VEC>(dx, dy, add, n, t, d, first, count);
  else backward<1>(dx, dy, add, n, t, d, first, count);
}
