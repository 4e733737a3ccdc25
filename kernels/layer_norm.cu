// y = (x - mean) / sqrt(var + eps) * weight + bias with statistics over the columns of a row, and its gradients.
//
// A row of up to 1024 columns lies in the registers of a warp: groups of VEC columns, group i of a lane at (32 i + lane) VEC.
#include "rows.cuh"

DEVICE int group_column(int i) { return (i * 32 + (threadIdx.x & 31)) * VEC; }

// One row in V groups per lane.
template <int V, class X, class Y>
DEVICE void normalise(Y *y, float *saved, const X *x, const float *weight, const float *bias, int cols, float eps) {
  float v[V][VEC], sum = 0.f, squares = 0.f;
#pragma unroll
  for (int i = 0; i < V; i++)
    if (group_column(i) < cols) {
      load(x + group_column(i), v[i]);
#pragma unroll
      for (int e = 0; e < VEC; e++) sum += v[i][e];
    }
  const float mean = warp_sum(sum) / cols;
#pragma unroll
  for (int i = 0; i < V; i++)
    if (group_column(i) < cols) {
#pragma unroll
      for (int e = 0; e < VEC; e++) v[i][e] -= mean, squares = fmaf(v[i][e], v[i][e], squares);
    }
  const float rstd = 1.f / sqrtf(warp_sum(squares) / cols + eps);
#pragma unroll
  for (int i = 0; i < V; i++)
    if (group_column(i) < cols) {
      float w[VEC], b[VEC];
      load(weight + group_column(i), w);
      load(bias + group_column(i), b);
#pragma unroll
      for (int e = 0; e < VEC; e++) v[i][e] = fmaf(v[i][e] * rstd, w[e], b[e]);
      store(y + group_column(i), v[i]);
    }
  if ((threadIdx.x & 31) == 0) saved[0] = mean, saved[1] = rstd;
}

// One row of any length: three sweeps over it, of which the later find it in the cache.
template <class X, class Y>
DEVICE void normalise_any(Y *y, float *saved, const X *x, const float *weight, const float *bias, int cols, float eps) {
  const int lane = threadIdx.x & 31;
  float sum = 0.f, squares = 0.f;
  for (int c = lane; c < cols; c += 32) sum += to_f32(x[c]);
  const float mean = warp_sum(sum) / cols;
  for (int c = lane; c < cols; c += 32) squares = fmaf(to_f32(x[c]) - mean, to_f32(x[c]) - mean, squares);
  const float rstd = 1.f / sqrtf(warp_sum(squares) / cols + eps);
  for (int c = lane; c < cols; c += 32) store1(y + c, fmaf((to_f32(x[c]) - mean) * rstd, weight[c], bias[c]));
  if (lane == 0) saved[0] = mean, saved[1] = rstd;
}

template <class X, class Y>
DEVICE void forward(Y *y, float *saved, const X *x, const float *weight, const float *bias, int rows, int cols, float eps) {
  const int row = blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5);
  if (row >= rows) return;
  x += at(row, cols, 0), y += at(row, cols, 0), saved += 2 * (u64)row;
  const int each = (cols + 31) / 32;
  if (cols % VEC != 0 || each > 32) normalise_any(y, saved, x, weight, bias, cols, eps);
  else if (each <= 8) normalise<8 / VEC>(y, saved, x, weight, bias, cols, eps);
  else if (each <= 16) normalise<16 / VEC>(y, saved, x, weight, bias, cols, eps);
  else if (each <= 24) normalise<24 / VEC>(y, saved, x, weight, bias, cols, eps);
  else normalise<32 / VEC>(y, saved, x, weight, bias, cols, eps);
}

// saved [rows, 2]: mean and 1 / sqrt(var + eps). One warp per row.
// Floor: x and y once.
KERNEL void __launch_bounds__(THREADS)
    layer_norm_fwd(T *__restrict__ y, float *__restrict__ saved, const T *__restrict__ x, const float *__restrict__ weight,
                   const float *__restrict__ bias, int rows, int cols, float eps) {
  forward(y, saved, x, weight, bias, rows, cols, eps);
}

// The same with a result in f32. Floor: x and y once.
KERNEL void __launch_bounds__(THREADS)
    layer_norm_fwd_to_f32(float *__restrict__ y, float *__restrict__ saved, const T *__restrict__ x, const float *__restrict__ weight,
                          const float *__restrict__ bias, int rows, int cols, float eps) {
  forward(y, saved, x, weight, bias, rows, cols, eps);
}

// The same from x in f32. Floor: x and y once.
KERNEL void __launch_bounds__(THREADS)
    layer_norm_fwd_f32(float *__restrict__ y, float *__restrict__ saved, const float *__restrict__ x, const float *__restrict__ weight,
                       const float *__restrict__ bias, int rows, int cols, float eps) {
  forward(y, saved, x, weight, bias, rows, cols, eps);
}

constexpr int WARPS = 4;

// dx = rstd (dy w - mean(dy w) - xhat mean(dy w xhat)), and the sums of dy xhat and dy over a block's rows: partial [chunks, 2, cols].
// Each warp takes every fourth row of the chunk; then their sums are added in the warps' order.
template <int V>
DEVICE void backward(T *dx, float *partial, const T *dy, const T *x, const float *saved, const float *weight, int add, int chunk,
                     int rows, int cols) {
  SHARED(float, part, [2][V * VEC * 32]);
  const int warp = threadIdx.x >> 5, begin = blockIdx.x * chunk, end = min(rows, begin + chunk);
  float dw[V][VEC] = {}, db[V][VEC] = {};
  for (int r = begin + warp; r < end; r += WARPS) {
    const float mean = saved[2 * (u64)r], rstd = saved[2 * (u64)r + 1];
    float g[V][VEC], v[V][VEC], flat = 0.f, slope = 0.f;
#pragma unroll
    for (int i = 0; i < V; i++)
      if (group_column(i) < cols) {
        load(dy + at(r, cols, group_column(i)), g[i]);
        load(x + at(r, cols, group_column(i)), v[i]);
      }
#pragma unroll
    for (int i = 0; i < V; i++)
      if (group_column(i) < cols) {
        float w[VEC];
        load(weight + group_column(i), w);
#pragma unroll
        for (int e = 0; e < VEC; e++) {
          v[i][e] = (v[i][e] - mean) * rstd;
          dw[i][e] = fmaf(g[i][e], v[i][e], dw[i][e]);
          db[i][e] += g[i][e];
          g[i][e] *= w[e];
          flat += g[i][e];
          slope = fmaf(g[i][e], v[i][e], slope);
        }
      }
    if (!dx) continue;
    flat = warp_sum(flat) / cols, slope = warp_sum(slope) / cols;
#pragma unroll
    for (int i = 0; i < V; i++)
      if (group_column(i) < cols) {
#pragma unroll
        for (int e = 0; e < VEC; e++) g[i][e] = rstd * (g[i][e] - flat - v[i][e] * slope);
        store_gradient(dx + at(r, cols, group_column(i)), g[i], add);
      }
  }
  for (int turn = 0; turn < WARPS; turn++) {
    if (turn == warp) {
#pragma unroll
      for (int i = 0; i < V; i++)
        if (group_column(i) < cols) {
          if (turn > 0) {
            float before[VEC];
            load(part[0] + group_column(i), before);
#pragma unroll
            for (int e = 0; e < VEC; e++) dw[i][e] += before[e];
            load(part[1] + group_column(i), before);
#pragma unroll
            for (int e = 0; e < VEC; e++) db[i][e] += before[e];
          }
          store(part[0] + group_column(i), dw[i]);
          store(part[1] + group_column(i), db[i]);
        }
    }
    __syncthreads();
  }
  float *to = partial + (u64)blockIdx.x * 2 * cols;
  for (int c = threadIdx.x; c < cols; c += 32 * WARPS) to[c] = part[0][c], to[cols + c] = part[1][c];
}

// Rows of at most 256, 512, 768 and 1024 columns. dx may be null. Blocks per multiprocessor: as many as the registers of a row, its
// gradient and both sums allow.
// Floor: x, dy and dx once (dx twice if it is added to); partial is 8 cols bytes for each chunk of at least 8 rows.
KERNEL void __launch_bounds__(32 * WARPS, 6)
    layer_norm_bwd_8(T *__restrict__ dx, float *__restrict__ partial, const T *__restrict__ dy, const T *__restrict__ x,
                     const float *__restrict__ saved, const float *__restrict__ weight, int add, int chunk, int rows, int cols) {
  backward<8 / VEC>(dx, partial, dy, x, saved, weight, add, chunk, rows, cols);
}
// Floor: as before.
KERNEL void __launch_bounds__(32 * WARPS, 4)
    layer_norm_bwd_16(T *__restrict__ dx, float *__restrict__ partial, const T *__restrict__ dy, const T *__restrict__ x,
                      const float *__restrict__ saved, const float *__restrict__ weight, int add, int chunk, int rows, int cols) {
  backward<16 / VEC>(dx, partial, dy, x, saved, weight, add, chunk, rows, cols);
}
// Floor: as before.
KERNEL void __launch_bounds__(32 * WARPS, 3)
    layer_norm_bwd_24(T *__restrict__ dx, float *__restrict__ partial, const T *__restrict__ dy, const T *__restrict__ x,
                      const float *__restrict__ saved, const float *__restrict__ weight, int add, int chunk, int rows, int cols) {
  backward<24 / VEC>(dx, partial, dy, x, saved, weight, add, chunk, rows, cols);
}
// Floor: as before.
KERNEL void __launch_bounds__(32 * WARPS, 2)
    layer_norm_bwd_32(T *__restrict__ dx, float *__restrict__ partial, const T *__restrict__ dy, const T *__restrict__ x,
                      const float *__restrict__ saved, const float *__restrict__ weight, int add, int chunk, int rows, int cols) {
  backward<32 / VEC>(dx, partial, dy, x, saved, weight, add, chunk, rows, cols);
}

// Rows of any length: the whole block takes one after the other and keeps its sums in `partial`, where each thread has columns of
// its own. Floor: x, dy and dx once; it also reads x and dy twice and partial with every row, from the cache.
KERNEL void __launch_bounds__(32 * WARPS)
    layer_norm_bwd_any(T *__restrict__ dx, float *__restrict__ partial, const T *__restrict__ dy, const T *__restrict__ x,
                       const float *__restrict__ saved, const float *__restrict__ weight, int add, int chunk, int rows, int cols) {
  const int begin = blockIdx.x * chunk, end = min(rows, begin + chunk);
  float *dw = partial + (u64)blockIdx.x * 2 * cols, *db = dw + cols;
  for (int r = begin; r < end; r++) {
    const float mean = saved[2 * (u64)r], rstd = saved[2 * (u64)r + 1];
    float flat = 0.f, slope = 0.f;
    for (int c = threadIdx.x; c < cols; c += 32 * WARPS) {
      const float g = to_f32(dy[at(r, cols, c)]), v = (to_f32(x[at(r, cols, c)]) - mean) * rstd;
      dw[c] = r == begin ? g * v : fmaf(g, v, dw[c]);
      db[c] = r == begin ? g : db[c] + g;
      flat = fmaf(g, weight[c], flat);
      slope = fmaf(g * weight[c], v, slope);
    }
    flat = block_sum(flat) / cols, slope = block_sum(slope) / cols;
    if (!dx) continue;
    for (int c = threadIdx.x; c < cols; c += 32 * WARPS) {
      const float g = to_f32(dy[at(r, cols, c)]), v = (to_f32(x[at(r, cols, c)]) - mean) * rstd;
      float d[1] = {rstd * (g * weight[c] - flat - v * slope)};
      store_gradient(dx + at(r, cols, c), d, add);
    }
  }
}

// dweight and dbias [cols] from the chunks, in f64: a block has 32 columns, eight threads for each take every eighth chunk.
// Floor: partial once.
KERNEL void __launch_bounds__(256)
    layer_norm_bwd_sum(float *dweight, float *dbias, const float *partial, int add_weight, int add_bias, int chunks, int cols) {
  SHARED(double, part, [2][8][32]);
  const int lane = threadIdx.x & 31, row = threadIdx.x >> 5, c = blockIdx.x * 32 + lane;
  double dw = 0, db = 0;
  if (c < cols) {
#pragma unroll 4
    for (int i = row; i < chunks; i += 8) dw += partial[(u64)i * 2 * cols + c], db += partial[((u64)i * 2 + 1) * cols + c];
  }
  part[0][row][lane] = dw, part[1][row][lane] = db;
  __syncthreads();
  if (row > 0 || c >= cols) return;
  for (int i = 1; i < 8; i++) dw += part[0][i][lane], db += part[1][i][lane];
  if (dweight) dweight[c] = add_weight ? dweight[c] + (float)dw : (float)dw;
  if (dbias) dbias[c] = add_bias ? dbias[c] + (float)db : (float)db;
}
