// Gradient of a linear layer's bias: the sum of dy over its rows. The products are those of conv.cu.
#include "prelude.cuh"

// Sums of dy over rows: partial [blocks of `run` rows, cols]. Floor: dy once. A block sums 32 columns: 8 warps take every eighth row, then add up in order.
KERNEL void __launch_bounds__(256) linear_bwd_b(float *partial, const T *dy, int rows, int cols, int run) {
  SHARED(float, part, [8 * 32]);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, c = blockIdx.x * 32 + lane;
  const int first = blockIdx.y * run, end = min(first + run, rows);
  float sum = 0.f;
  if (c < cols)
    for (int r = first + warp; r < end; r += 8) sum += to_f32(dy[(u64)r * cols + c]);
  part[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= cols) return;
  for (int w = 1; w < 8; w++) sum += part[w * 32 + lane];
  partial[(u64)blockIdx.y * cols + c] = sum;
}

// db [cols] from the parts, in their order, in f64.
KERNEL void __launch_bounds__(256) linear_bwd_b_sum(float *db, const float *partial, int add, int parts, int cols) {
  const int c = blockIdx.x * 256 + threadIdx.x;
  if (c >= cols) return;
  double sum = 0.;
  for (int p = 0; p < parts; p++) sum += partial[(u64)p * cols + c];
  db[c] = add ? db[c] + (float)sum : (float)sum;
}
