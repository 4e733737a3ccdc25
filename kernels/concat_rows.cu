// Concatenates matrices along their rows: y[first ..] = x, and back. 16 bytes at once where both addresses are aligned.
#include "rows.cuh"

template <int N> DEVICE void copy(T *to, const T *from, int add, int i) {
  float v[N];
  load(from + i, v);
  store_gradient(to + i, v, add);
}

DEVICE void copy(T *to, const T *from, int add, bool aligned, int len) {
  const int vectors = aligned ? len / VEC : 0, thread = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
  for (int i = thread; i < vectors; i += step) copy<VEC>(to, from, add, i * VEC);
  for (int i = vectors * VEC + thread; i < len; i += step) copy<1>(to, from, add, i);
}

// Floor: one read and one write of x.
KERNEL void __launch_bounds__(THREADS) concat_rows_fwd(T *y, const T *x, int first, int len) { copy(y + first, x, 0, first % VEC == 0, len); }

// Floor: one read of dy, one write of dx, and one read of it if it is added to.
KERNEL void __launch_bounds__(THREADS) concat_rows_bwd(T *dx, const T *dy, int add, int first, int len) {
  copy(dx, dy + first, add, first % VEC == 0, len);
}
