// y = GELU(x) as a pass of its own; behind a product the epilogue applies it. dx = dy GELU'(x).
#include "gelu.cuh"
#include "rows.cuh"

template <int N> DEVICE void forward(T *y, const T *x) {
  float v[N];
  load(x, v);
#pragma unroll
  for (float &e : v) e = gelu(e);
  store(y, v);
}

// Any shape: it is one row of n values. Floor: 2 passes over n.
KERNEL void __launch_bounds__(THREADS) gelu_fwd(T *__restrict__ y, const T *__restrict__ x, int rows, int cols) {
  const u64 n = (u64)rows * cols, first = (u64)blockIdx.x * blockDim.x + threadIdx.x, step = (u64)gridDim.x * blockDim.x;
  for (u64 i = first; i < n / VEC; i += step) forward<VEC>(y + i * VEC, x + i * VEC);
  for (u64 i = n / VEC * VEC + first; i < n; i += step) forward<1>(y + i, x + i);
}

template <int N> DEVICE void backward(T *dx, const T *dy, const T *x, int add) {
  float g[N], v[N];
  load(dy, g);
  load(x, v);
#pragma unroll
  for (int k = 0; k < N; k++) g[k] *= gelu_slope(v[k]);
  store_gradient(dx, g, add);
}

// Floor: 3 passes over n, 4 if the gradient is added to.
KERNEL void __launch_bounds__(THREADS)
    gelu_bwd(T *__restrict__ dx, const T *__restrict__ dy, const T *__restrict__ x, int add, int rows, int cols) {
  const u64 n = (u64)rows * cols, first = (u64)blockIdx.x * blockDim.x + threadIdx.x, step = (u64)gridDim.x * blockDim.x;
  for (u64 i = first; i < n / VEC; i += step) backward<VEC>(dx + i * VEC, dy + i * VEC, x + i * VEC, add);
  for (u64 i = n / VEC * VEC + first; i < n; i += step) backward<1>(dx + i, dy + i, x + i, add);
}
