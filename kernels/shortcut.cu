// The parameter-free shortcut of a ResNet block that halves the map and doubles the channels (He et al. 2015, option A): every other
// pixel of x [n, h, w, c], with c / 2 zero channels before and after, in y [n, h / 2, w / 2, 2 c].
#include "rows.cuh"

// N neighbouring columns from `column` on of the c that begin at p, and zeros where there are none. Where N divides half of c,
// they are all there or none is.
template <int N> DEVICE void some(const T *p, int column, int c, float (&v)[N]) {
  if (c / 2 % N == 0) {
    if (column >= 0 && column < c) load(p + column, v);
  } else {
#pragma unroll
    for (int e = 0; e < N; e++)
      if (column + e >= 0 && column + e < c) v[e] = to_f32(p[column + e]);
  }
}

template <int N> DEVICE void forward(T *y, const T *x, int n, int h, int w, int c) {
  const int column = first_column(N), high = (h + 1) / 2, wide = (w + 1) / 2;
  if (column >= 2 * c) return;
  for (int r = first_row(); r < n * high * wide; r += row_step()) {
    const int line = r / wide, j = r - line * wide, image = line / high, i = line - image * high;
    float v[N] = {};
    some(x + ((u64)(image * h + 2 * i) * w + 2 * j) * c, column - c / 2, c, v);
    store(y + at(r, 2 * c, column), v);
  }
}

// Floor: a quarter of x, and y.
KERNEL void __launch_bounds__(THREADS) shortcut_fwd(T *__restrict__ y, const T *__restrict__ x, int n, int h, int w, int c) {
  if (2 * c % VEC == 0) forward<VEC>(y, x, n, h, w, c);
  else forward<1>(y, x, n, h, w, c);
}

template <int N> DEVICE void backward(T *dx, const T *dy, int add, int n, int h, int w, int c) {
  const int column = first_column(N), step = add ? 2 : 1;
  if (column >= c) return;
  const int half_high = (h + 1) / 2, half_wide = (w + 1) / 2, high = add ? half_high : h, wide = add ? half_wide : w;
  for (int r = first_row(); r < n * high * wide; r += row_step()) {
    const int line = r / wide, j = (r - line * wide) * step, image = line / high, i = (line - image * high) * step;
    float g[N] = {};
    if (i % 2 == 0 && j % 2 == 0) {
      const T *from = dy + ((u64)(image * half_high + i / 2) * half_wide + j / 2) * (2 * c) + c / 2;
      some(from, column, c, g);
    }
    store_gradient(dx + ((u64)(image * h + i) * w + j) * c + column, g, add);
  }
}

// dx = dy where a pixel stays and zero elsewhere, which is not touched if it is added to.
// Floor: half of dy, and dx once, or a quarter of it twice if it is added to.
KERNEL void __launch_bounds__(THREADS)
    shortcut_bwd(T *__restrict__ dx, const T *__restrict__ dy, int add, int n, int h, int w, int c) {
  if (c % VEC == 0) backward<VEC>(dx, dy, add, n, h, w, c);
  else backward<1>(dx, dy, add, n, h, w, c);
}
