// y = max(x, 0); a NaN stays a NaN. dx = dy where y > 0.
#include "rows.cuh"

// Any shape: it is one row of n values. 16 bytes at once and the rest one by one.
DEVICE u64 first_value() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
DEVICE u64 value_step() { return (u64)gridDim.x * blockDim.x; }

template <int N> DEVICE void forward(T *y, const T *x) {
  float v[N];
  load(x, v);
#pragma unroll
  for (float &e : v) e = e < 0 ? 0 : e;
  store(y, v);
}

// Floor: 2 passes over n.
KERNEL void __launch_bounds__(THREADS) relu_fwd(T *__restrict__ y, const T *__restrict__ x, int rows, int cols) {
  const u64 n = (u64)rows * cols;
  for (u64 i = first_value(); i < n / VEC; i += value_step()) forward<VEC>(y + i * VEC, x + i * VEC);
  for (u64 i = n / VEC * VEC + first_value(); i < n; i += value_step()) forward<1>(y + i, x + i);
}

template <int N> DEVICE void backward(T *dx, const T *dy, const T *y, int add) {
  float g[N], out[N];
  load(dy, g);
  load(y, out);
#pragma unroll
  for (int k = 0; k < N; k++) g[k] = out[k] > 0 ? g[k] : 0;
  store_gradient(dx, g, add);
}

// Floor: 3 passes over n, 4 if the gradient is added to.
KERNEL void __launch_bounds__(THREADS)
    relu_bwd(T *__restrict__ dx, const T *__restrict__ dy, const T *__restrict__ y, int add, int rows, int cols) {
  const u64 n = (u64)rows * cols;
  for (u64 i = first_value(); i < n / VEC; i += value_step()) backward<VEC>(dx + i * VEC, dy + i * VEC, y + i * VEC, add);
  for (u64 i = n / VEC * VEC + first_value(); i < n; i += value_step()) backward<1>(dx + i, dy + i, y + i, add);
}
