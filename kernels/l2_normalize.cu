// Rows to unit length, and the gradient. One warp per row; it reads its row twice, the second time from the cache.
#include "rows.cuh"

constexpr int ROWS = THREADS / 32;
constexpr float SMALLEST = 1e-12f;  // a row of zeros counts as this long

template <int N> DEVICE void forward(T *y, float *inverse, const T *x, int cols) {
  const int lane = threadIdx.x & 31;
  float squares = 0.f;
  for (int c = lane * N; c < cols; c += 32 * N) {
    float v[N];
    load(x + c, v);
#pragma unroll
    for (float e : v) squares = fmaf(e, e, squares);
  }
  const float length = sqrtf(warp_sum(squares)), scale = 1.f / (length < SMALLEST ? SMALLEST : length);
  for (int c = lane * N; c < cols; c += 32 * N) {
    float v[N];
    load(x + c, v);
#pragma unroll
    for (float &e : v) e *= scale;
    store(y + c, v);
  }
  if (lane == 0) *inverse = scale;
}

// Floor: x and y once.
KERNEL void __launch_bounds__(THREADS) l2_normalize_fwd(T *__restrict__ y, float *__restrict__ inverse, const T *__restrict__ x, int rows, int cols) {
  const int row = blockIdx.x * ROWS + (threadIdx.x >> 5);
  if (row >= rows) return;
  if (cols % VEC == 0) forward<VEC>(y + at(row, cols, 0), inverse + row, x + at(row, cols, 0), cols);
  else forward<1>(y + at(row, cols, 0), inverse + row, x + at(row, cols, 0), cols);
}

template <int N> DEVICE void backward(T *dx, const T *dy, const T *y, float inverse, int add, int cols) {
  const int lane = threadIdx.x & 31;
  float along = 0.f;
  for (int c = lane * N; c < cols; c += 32 * N) {
    float g[N], v[N];
    load(dy + c, g);
    load(y + c, v);
#pragma unroll
    for (int e = 0; e < N; e++) along = fmaf(g[e], v[e], along);
  }
  along = warp_sum(along);
  if (inverse >= 1.f / SMALLEST) along = 0.f;  // it was only scaled
  for (int c = lane * N; c < cols; c += 32 * N) {
    float g[N], v[N];
    load(dy + c, g);
    load(y + c, v);
#pragma unroll
    for (int e = 0; e < N; e++) g[e] = (g[e] - v[e] * along) * inverse;
    store_gradient(dx + c, g, add);
  }
}

// dx = (dy - y (y . dy)) / |x|. Floor: dy, y and dx once (dx twice if it is added to).
KERNEL void __launch_bounds__(THREADS)
    l2_normalize_bwd(T *__restrict__ dx, const T *__restrict__ dy, const T *__restrict__ y, const float *__restrict__ inverse, int add, int rows,
                     int cols) {
  const int row = blockIdx.x * ROWS + (threadIdx.x >> 5);
  if (row >= rows) return;
  const u64 i = at(row, cols, 0);
  if (cols % VEC == 0) backward<VEC>(dx + i, dy + i, y + i, inverse[row], add, cols);
  else backward<1>(dx + i, dy + i, y + i, inverse[row], add, cols);
}
