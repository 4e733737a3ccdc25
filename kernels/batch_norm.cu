// y = relu((x - mean) / sqrt(var + eps) * gamma + beta + residual) with statistics over rows; residual and relu are optional.
#include "moments.cuh"
#include "rows.cuh"

// As in src/ops/batch_norm/mod.rs.
constexpr float EPS = 1e-5f, MOMENTUM = 0.1f;

// Kernels that merge chunks: 8 columns (32 bytes of a row) by 128 parts of the chunks.
constexpr int MERGE_COLS = 8, MERGE_PARTS = 128;

// y = scale x + shift per column. The backward recomputes y for its ReLU mask, so both directions must round alike.
template <int N>
DEVICE void load_affine(float (&scale)[N], float (&shift)[N], const float *saved, const float *gamma, const float *beta, int cols,
                        int column) {
  float mean[N];
  load(saved + column, mean);
  load(saved + cols + column, scale);
  load(beta + column, shift);
  float g[N];
  load(gamma + column, g);
#pragma unroll
  for (int i = 0; i < N; i++) scale[i] *= g[i], shift[i] = fmaf(-mean[i], scale[i], shift[i]);
}

// Sums over the parts of a block of MERGE_COLS x MERGE_PARTS threads; part 0 gets them.
DEVICE void sum_parts(double &a, double &b) {
  SHARED(double, sums, [2][MERGE_PARTS][MERGE_COLS]);
  const int c = threadIdx.x, part = threadIdx.y;
  sums[0][part][c] = a, sums[1][part][c] = b;
  for (int half = MERGE_PARTS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (part < half) sums[0][part][c] += sums[0][part + half][c], sums[1][part][c] += sums[1][part + half][c];
  }
  a = sums[0][part][c], b = sums[1][part][c];
}

template <int N> DEVICE void moments(float *partials, const T *x, int chunk, int rows, int cols) {
  const int begin = blockIdx.x * chunk, end = min(rows, begin + chunk);
  const int column = first_column(N);
  float sum[N] = {}, squares[N] = {}, origin[N] = {};
  if (column < cols) {
    load(x + at(begin, cols, column), origin);
#pragma unroll 4
    for (int r = begin + threadIdx.y; r < end; r += blockDim.y) {
      float v[N];
      load(x + at(r, cols, column), v);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const float d = v[i] - origin[i];
        sum[i] += d, squares[i] += d * d;
      }
    }
  }
  column_sums(sum, squares, cols, [&](int c, float sum, float squares) {
    float *to = partials + (u64)blockIdx.x * 2 * cols + c;
    const float n = end - begin, m2 = squares - sum * sum / n;
    to[0] = to_f32(x[at(begin, cols, c)]) + sum / n;
    to[cols] = m2 > 0 ? m2 : 0;
  });
}

// Per chunk of rows and column: mean and sum of squared deviations, shifted by the chunk's first row. The shift amplifies rounding
// by at most the number of rows of a chunk, because m2 is never below that row's own squared deviation.
// Floor: 1 pass over x; 3 operations per value.
KERNEL void __launch_bounds__(THREADS)
    batch_norm_moments(float *__restrict__ partials, const T *__restrict__ x, int chunk, int rows, int cols) {
  if (cols % VEC == 0)
    moments<VEC>(partials, x, chunk, rows, cols);
  else
    moments<1>(partials, x, chunk, rows, cols);
}

// saved = [mean, 1/std] of the batch from the chunks' moments; the running statistics follow.
// Floor: 1 pass over the partials.
KERNEL void __launch_bounds__(MERGE_COLS *MERGE_PARTS)
    batch_norm_merge(float *saved, float *running_mean, float *running_var, const float *partials, int chunks, int chunk, int rows,
                     int cols) {
  const int c = blockIdx.x * MERGE_COLS + threadIdx.x;
  Merged m = {};
  if (c < cols) m = merge(partials, chunks, chunk, rows, cols, c, threadIdx.y, MERGE_PARTS);
  sum_parts(m.sum, m.squares);
  if (c < cols && threadIdx.y == 0) {
    const double mean = mean_of(m), m2 = m2_of(m);
    saved[c] = mean;
    saved[cols + c] = 1 / sqrt(m2 / rows + EPS);
    running_mean[c] += MOMENTUM * ((float)mean - running_mean[c]);
    running_var[c] += MOMENTUM * ((float)(m2 / (rows - 1)) - running_var[c]);
  }
}

// saved = [mean, 1/std] of the running statistics, for evaluation.
// Floor: 2 passes over [2, cols].
KERNEL void __launch_bounds__(THREADS)
    batch_norm_running(float *saved, const float *running_mean, const float *running_var, int cols) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= cols) return;
  saved[c] = running_mean[c];
  saved[cols + c] = 1 / sqrtf(running_var[c] + EPS);
}

template <int N>
DEVICE void apply(T *y, const T *x, const T *residual, const float *saved, const float *gamma, const float *beta, int relu,
                  int rows, int cols) {
  const int column = first_column(N);
  if (column >= cols) return;
  float scale[N], shift[N];
  load_affine(scale, shift, saved, gamma, beta, cols, column);
#pragma unroll 2
  for (int r = first_row(); r < rows; r += row_step()) {
    float v[N], add[N] = {};
    load(x + at(r, cols, column), v);
    if (residual) load(residual + at(r, cols, column), add);
#pragma unroll
    for (int i = 0; i < N; i++) {
      v[i] = fmaf(v[i], scale[i], shift[i]) + add[i];
      if (relu && v[i] < 0) v[i] = 0;
    }
    store(y + at(r, cols, column), v);
  }
}

// Floor: 1 pass over x, y and, if there is one, the residual.
KERNEL void __launch_bounds__(THREADS)
    batch_norm_fwd(T *__restrict__ y, const T *__restrict__ x, const T *__restrict__ residual, const float *__restrict__ saved,
                   const float *__restrict__ gamma, const float *__restrict__ beta, int relu, int rows, int cols) {
  if (cols % VEC == 0)
    apply<VEC>(y, x, residual, saved, gamma, beta, relu, rows, cols);
  else
    apply<1>(y, x, residual, saved, gamma, beta, relu, rows, cols);
}

// The mask of the ReLU. With a residual it is read from the output y; without one y is recomputed from x, which is read anyway.
struct Mask {
  bool from_x;
  const T *y;  // null: the output is not asked
};
template <int N>
DEVICE void cut(float (&g)[N], const float (&x)[N], const float (&scale)[N], const float (&shift)[N], Mask mask, u64 i) {
  if (mask.from_x) {
#pragma unroll
    for (int k = 0; k < N; k++) g[k] = fmaf(x[k], scale[k], shift[k]) > 0 ? g[k] : 0;
  } else if (mask.y) {
    float y[N];
    load(mask.y + i, y);
#pragma unroll
    for (int k = 0; k < N; k++) g[k] = y[k] > 0 ? g[k] : 0;
  }
}

template <int N>
DEVICE void backward_sums(float *partials, const T *dy, const T *x, const T *y, const float *saved, const float *gamma,
                          const float *beta, int relu, int chunk, int rows, int cols) {
  const int begin = blockIdx.x * chunk, end = min(rows, begin + chunk);
  const Mask mask = {relu && !y, y};
  const int column = first_column(N);
  float sum[N] = {}, slope[N] = {};
  if (column < cols) {
    float mean[N], rstd[N], scale[N], shift[N];
    load(saved + column, mean);
    load(saved + cols + column, rstd);
    load_affine(scale, shift, saved, gamma, beta, cols, column);
#pragma unroll 2
    for (int r = begin + threadIdx.y; r < end; r += blockDim.y) {
      float g[N], v[N];
      load(dy + at(r, cols, column), g);
      load(x + at(r, cols, column), v);
      cut(g, v, scale, shift, mask, at(r, cols, column));
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += g[i], slope[i] += g[i] * ((v[i] - mean[i]) * rstd[i]);
    }
  }
  column_sums(sum, slope, cols, [&](int c, float sum, float slope) {
    float *to = partials + (u64)blockIdx.x * 2 * cols + c;
    to[0] = sum, to[cols] = slope;
  });
}

// Per chunk of rows the sums of g and g xhat, with g = dy masked by the ReLU. `y` is null unless there are a residual and a ReLU. Two
// blocks per multiprocessor: ptxas would aim at more, and spill.
// Floor: 1 pass over dy, x and, with a residual, y; 4 operations per value.
KERNEL void __launch_bounds__(THREADS, 2)
    batch_norm_bwd_sums(float *__restrict__ partials, const T *__restrict__ dy, const T *__restrict__ x, const T *__restrict__ y,
                        const float *__restrict__ saved, const float *__restrict__ gamma, const float *__restrict__ beta, int relu,
                        int chunk, int rows, int cols) {
  if (cols % VEC == 0)
    backward_sums<VEC>(partials, dy, x, y, saved, gamma, beta, relu, chunk, rows, cols);
  else
    backward_sums<1>(partials, dy, x, y, saved, gamma, beta, relu, chunk, rows, cols);
}

// sums = [sum of g, sum of g xhat] of all chunks; they are the gradients of beta and gamma, where those are wanted.
// Floor: 1 pass over the partials.
KERNEL void __launch_bounds__(MERGE_COLS *MERGE_PARTS)
    batch_norm_bwd_merge(float *sums, float *dgamma, float *dbeta, const float *partials, int add_gamma, int add_beta, int chunks,
                         int cols) {
  const int c = blockIdx.x * MERGE_COLS + threadIdx.x;
  double sum = 0, slope = 0;
  if (c < cols) {
#pragma unroll 8
    for (int i = threadIdx.y; i < chunks; i += MERGE_PARTS) {
      const float *p = partials + (u64)i * 2 * cols + c;
      sum += p[0], slope += p[cols];
    }
  }
  sum_parts(sum, slope);
  if (c < cols && threadIdx.y == 0) {
    sums[c] = sum, sums[cols + c] = slope;
    if (dbeta) dbeta[c] = add_beta ? dbeta[c] + (float)sum : (float)sum;
    if (dgamma) dgamma[c] = add_gamma ? dgamma[c] + (float)slope : (float)slope;
  }
}

template <int N>
DEVICE void backward(T *dx, T *dresidual, const T *dy, const T *x, const T *y, const float *saved, const float *sums,
                     const float *gamma, const float *beta, int add_x, int add_residual, int relu, int rows, int cols) {
  const Mask mask = {relu && !y, y};
  const int column = first_column(N);
  if (column >= cols) return;
  float scale[N], shift[N], b[N], c[N];
  load_affine(scale, shift, saved, gamma, beta, cols, column);
  {
    float mean[N], rstd[N], sum[N], slope[N];
    load(saved + column, mean);
    load(saved + cols + column, rstd);
    load(sums + column, sum);
    load(sums + cols + column, slope);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const float s = slope[i] / rows * rstd[i];
      b[i] = -scale[i] * s;
      c[i] = scale[i] * (s * mean[i] - sum[i] / rows);
    }
  }
  for (int r = first_row(); r < rows; r += row_step()) {
    float g[N], v[N];
    load(dy + at(r, cols, column), g);
    load(x + at(r, cols, column), v);
    cut(g, v, scale, shift, mask, at(r, cols, column));
    if (dx) {
#pragma unroll
      for (int i = 0; i < N; i++) v[i] = scale[i] * g[i] + b[i] * v[i] + c[i];
      store_gradient(dx + at(r, cols, column), v, add_x);
    }
    if (dresidual) store_gradient(dresidual + at(r, cols, column), g, add_residual);
  }
}

// dx = a g + b x + c per column: the derivative through the batch's statistics, with a, b and c from the two sums. dresidual = g. Null
// pointers: not wanted.
// Floor: 1 pass over dy, x, each gradient (2 if it is added to) and, with a residual, y.
KERNEL void __launch_bounds__(THREADS)
    batch_norm_bwd(T *__restrict__ dx, T *__restrict__ dresidual, const T *__restrict__ dy, const T *__restrict__ x,
                   const T *__restrict__ y, const float *__restrict__ saved, const float *__restrict__ sums,
                   const float *__restrict__ gamma, const float *__restrict__ beta, int add_x, int add_residual, int relu,
                   int rows, int cols) {
  if (cols % VEC == 0)
    backward<VEC>(dx, dresidual, dy, x, y, saved, sums, gamma, beta, add_x, add_residual, relu, rows, cols);
  else
    backward<1>(dx, dresidual, dy, x, y, saved, sums, gamma, beta, add_x, add_residual, relu, rows, cols);
}
