// dx += dy.
#include "rows.cuh"

template <int N> DEVICE void add_to(T *dx, const T *dy) {
  float g[N];
  load(dy, g);
  store_gradient(dx, g, 1);
}

// Any shape: it is one row of n values. Floor: 3 passes over n.
KERNEL void __launch_bounds__(THREADS) add_bwd(T *__restrict__ dx, const T *__restrict__ dy, int rows, int cols) {
  const u64 n = (u64)rows * cols, first = (u64)blockIdx.x * blockDim.x + threadIdx.x, step = (u64)gridDim.x * blockDim.x;
  for (u64 i = first; i < n / VEC; i += step) add_to<VEC>(dx + i * VEC, dy + i * VEC);
  for (u64 i = n / VEC * VEC + first; i < n; i += step) add_to<1>(dx + i, dy + i);
}
