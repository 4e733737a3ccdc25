// Losses over the correlations of columns: Barlow Twins and VICReg. The products are those of conv.cu and conv_bwd_w.cu.
#include "rows.cuh"

// Two sums per column over all rows: f(row, a, b) adds to this thread's N columns; first and second [MOST] get the totals, by the
// column's position in the block. All threads call it.
constexpr int MOST = 128;  // columns of a block

template <int N, class F> DEVICE void over_rows(float (&first)[MOST], float (&second)[MOST], int rows, int cols, F f) {
  float a[N] = {}, b[N] = {};
  if (first_column(N) < cols)
    for (int row = threadIdx.y; row < rows; row += blockDim.y) f(row, a, b);
  const int begin = blockIdx.y * blockDim.x * N;
  column_sums(a, b, cols, [&](int c, float sum_a, float sum_b) { first[c - begin] = sum_a, second[c - begin] = sum_b; });
  __syncthreads();
}

template <int N> DEVICE void normalise(T *y, float *std, const T *x, int scaled, int rows, int cols, float eps) {
  SHARED(float, means, [MOST]);
  SHARED(float, squares, [MOST]);
  SHARED(float, unused, [MOST]);
  const int column = first_column(N), place = threadIdx.x * N;
  over_rows<N>(means, unused, rows, cols, [&](int row, float(&sum)[N], float(&)[N]) {
    float v[N];
    load(x + at(row, cols, column), v);
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] += v[i];
  });
  const float n = rows;
  over_rows<N>(squares, unused, rows, cols, [&](int row, float(&sum)[N], float(&)[N]) {
    float v[N];
    load(x + at(row, cols, column), v);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float d = v[i] - means[place + i] / n;
      sum[i] = fmaf(d, d, sum[i]);
    }
  });
  if (column >= cols) return;
  float mean[N], inverse[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float s = sqrtf(squares[place + i] / (scaled ? n : n - 1) + eps);
    mean[i] = means[place + i] / n, inverse[i] = scaled ? 1 / s : 1;
    if (threadIdx.y == 0) std[column + i] = s;
  }
  for (int row = threadIdx.y; row < rows; row += blockDim.y) {
    float v[N];
    load(x + at(row, cols, column), v);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = (v[i] - mean[i]) * inverse[i];
    store(y + at(row, cols, column), v);
  }
}

// Columns minus their mean, and divided by their standard deviation if `scaled`. Floor: 2 passes over rows x cols; two more hit the cache.
KERNEL void __launch_bounds__(THREADS) decorrelation_columns(T *y, float *std, const T *x, int scaled, int rows, int cols, float eps) {
  if (cols % VEC == 0) normalise<VEC>(y, std, x, scaled, rows, cols, eps);
  else normalise<1>(y, std, x, scaled, rows, cols, eps);
}

// From c = n C: dL/dC in both orientations, the weights of the two backward products, and each tile's part of the loss. A block takes a
// tile of 32 x 32.
// Floor: c once, the weights once.
KERNEL void __launch_bounds__(THREADS)
    barlow_twins_loss_fwd(T *of_a, T *of_b, float *losses, const float *c, int rows, int cols, float lambda) {
  SHARED(float, tile, [32][33]);
  const int first = blockIdx.y * 32, other = blockIdx.x * 32;
  float loss = 0;
  for (int y = threadIdx.y; y < 32; y += 8) {
    const int i = first + y, j = other + threadIdx.x;
    if (i >= cols || j >= cols) continue;
    const float v = c[at(i, cols, j)] / rows, apart = i == j ? v - 1 : v, factor = i == j ? 1 : lambda;
    loss = fmaf(factor * apart, apart, loss);
    tile[y][threadIdx.x] = 2 * factor * apart;
    of_a[at(i, cols, j)] = from_f32(2 * factor * apart);
  }
  __syncthreads();
  for (int y = threadIdx.y; y < 32; y += 8) {
    const int i = other + y, j = first + threadIdx.x;
    if (i < cols && j < cols) of_b[at(i, cols, j)] = from_f32(tile[threadIdx.x][y]);
  }
  SHARED(float, part, [THREADS]);
  part[threadIdx.y * 32 + threadIdx.x] = loss;
  __syncthreads();
  if (threadIdx.y > 0) return;
  for (int y = 1; y < 8; y++) loss += part[y * 32 + threadIdx.x];
  loss = warp_sum(loss);
  if (threadIdx.x == 0) losses[blockIdx.y * gridDim.x + blockIdx.x] = loss;
}

template <int N>
DEVICE void through_columns(T *dx, const float *dloss, const T *back, const T *unit, const float *std, int add, int rows, int cols,
                            float scale) {
  SHARED(float, means, [MOST]);
  SHARED(float, alongs, [MOST]);
  const int column = first_column(N), place = threadIdx.x * N;
  over_rows<N>(means, alongs, rows, cols, [&](int row, float(&mean)[N], float(&along)[N]) {
    float g[N], u[N];
    load(back + at(row, cols, column), g), load(unit + at(row, cols, column), u);
#pragma unroll
    for (int i = 0; i < N; i++) mean[i] += g[i], along[i] = fmaf(g[i], u[i], along[i]);
  });
  if (column >= cols) return;
  float factor[N], mean[N], along[N];
  load(std + column, factor);
  const float n = rows, whole = scale * dloss[0] / n;
#pragma unroll
  for (int i = 0; i < N; i++) factor[i] = whole / factor[i], mean[i] = means[place + i] / n, along[i] = alongs[place + i] / n;
  for (int row = threadIdx.y; row < rows; row += blockDim.y) {
    float g[N], u[N];
    load(back + at(row, cols, column), g), load(unit + at(row, cols, column), u);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = factor[i] * (g[i] - mean[i] - u[i] * along[i]);
    store_gradient(dx + at(row, cols, column), g, add);
  }
}

// The gradient through the normalisation; back / n is the gradient of the normalised columns. Floor: 3 passes over rows x cols; two more
// hit the cache.
KERNEL void __launch_bounds__(THREADS)
    barlow_twins_loss_bwd(T *dx, const float *dloss, const T *back, const T *unit, const float *std, int add, int rows, int cols, float scale) {
  if (cols % VEC == 0) through_columns<VEC>(dx, dloss, back, unit, std, add, rows, cols, scale);
  else through_columns<1>(dx, dloss, back, unit, std, add, rows, cols, scale);
}

// One row of dcov from c = (n - 1) cov, and the row's loss. Off the diagonal is the covariance term, on it the variance term relu(1 - std).
// dcov is the weight of the backward product with the centred columns. Floor: c once, the weights once.
KERNEL void __launch_bounds__(THREADS)
    vicreg_loss_fwd(T *dcov, float *losses, const float *c, const float *std, int rows, int cols, float variance,
                    float covariance) {
  const int i = blockIdx.x;
  const float inverse = 1.f / (rows - 1), hinge = fmaxf(1 - std[i], 0.f);
  float sum = 0;
  for (int j = threadIdx.x; j < cols; j += THREADS) {
    const float v = c[at(i, cols, j)] * inverse;
    if (j != i) sum = fmaf(v, v, sum);
    const float diagonal = hinge > 0 ? -variance * inverse / std[i] : 0;
    dcov[at(i, cols, j)] = from_f32(j == i ? diagonal : 4 * covariance * inverse * v);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) losses[i] = covariance * sum + variance * hinge;
}

DEVICE int row_of_warp() { return blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5); }

// The invariance term: `invariance` times the squared distance of paired rows, a warp each. Floor: a and b once.
KERNEL void __launch_bounds__(THREADS) vicreg_loss_invariance(float *losses, const T *a, const T *b, int rows, int cols, float invariance) {
  const int row = row_of_warp(), lane = threadIdx.x & 31;
  if (row >= rows) return;
  float sum = 0;
  for (int c = lane; c < cols; c += 32) {
    const float d = to_f32(a[at(row, cols, c)]) - to_f32(b[at(row, cols, c)]);
    sum = fmaf(d, d, sum);
  }
  sum = warp_sum(sum);
  if (lane == 0) losses[row] = invariance * sum;
}

template <int N>
DEVICE void gradient(T *dx, const T *back, const T *x, const T *other, int add, int cols, float dloss, float invariance) {
  for (int c = (threadIdx.x & 31) * N; c < cols; c += 32 * N) {
    float g[N], v[N], o[N];
    load(back + c, g), load(x + c, v), load(other + c, o);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = dloss * (g[i] + invariance * (v[i] - o[i]));
    store_gradient(dx + c, g, add);
  }
}

// dx = dloss (back + invariance (x - other)), a warp per row. Floor: 4 passes over rows x cols.
KERNEL void __launch_bounds__(THREADS)
    vicreg_loss_bwd(T *dx, const float *dloss, const T *back, const T *x, const T *other, int add, int rows, int cols, float invariance) {
  const int row = row_of_warp();
  if (row >= rows) return;
  const u64 from = at(row, cols, 0);
  if (cols % VEC == 0) gradient<VEC>(dx + from, back + from, x + from, other + from, add, cols, dloss[0], invariance);
  else gradient<1>(dx + from, back + from, x + from, other + from, add, cols, dloss[0], invariance);
}
