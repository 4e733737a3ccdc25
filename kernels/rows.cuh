// Helpers of kernels over a matrix [rows, cols] whose threads each take some columns of some rows; src/device/rows.rs launches them.
//
// A thread takes a group of N columns at once: VEC of them (16 bytes of T) where the width is a multiple of that, else one;
// kernels choose by `cols % VEC == 0`.
// threadIdx.x counts groups, threadIdx.y rows; blockIdx.y counts tiles of groups, blockIdx.x chunks of rows as each kernel divides them.
#pragma once
#include "prelude.cuh"

// Most threads of a block.
constexpr int THREADS = 256;

// N neighbouring values; N > 1: aligned to 16 bytes.
template <class E, int N> DEVICE void load(const E *p, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = to_f32(*p);
  } else {
    constexpr int W = 16 / sizeof(E);
#pragma unroll
    for (int i = 0; i < N; i += W) {
      float part[W];
      load16(p + i, part);
#pragma unroll
      for (int j = 0; j < W; j++) v[i + j] = part[j];
    }
  }
}
DEVICE void store1(float *p, float v) { *p = v; }
DEVICE void store1(bf16 *p, float v) { *p = f32_to_bf16(v); }
template <class E, int N> DEVICE void store(E *p, const float (&v)[N]) {
  if constexpr (N == 1) {
    store1(p, v[0]);
  } else {
    constexpr int W = 16 / sizeof(E);
#pragma unroll
    for (int i = 0; i < N; i += W) {
      float part[W];
#pragma unroll
      for (int j = 0; j < W; j++) part[j] = v[i + j];
      store16(p + i, part);
    }
  }
}

// Writes a gradient, or adds it to the one that is there.
template <class E, int N> DEVICE void store_gradient(E *p, float (&v)[N], int add) {
  if (add) {
    float old[N];
    load(p, old);
#pragma unroll
    for (int i = 0; i < N; i++) v[i] += old[i];
  }
  store(p, v);
}

// The first column of this thread's group of n; may lie beyond the last column.
DEVICE int first_column(int n) { return (blockIdx.y * blockDim.x + threadIdx.x) * n; }
// A thread takes rows first_row, first_row + step, ... where rows are independent.
DEVICE int first_row() { return blockIdx.x * blockDim.y + threadIdx.y; }
DEVICE int row_step() { return gridDim.x * blockDim.y; }

// Index of element (row, column), in 64 bits: rows x cols may exceed 2^31.
DEVICE u64 at(int row, int cols, int column) { return (u64)row * cols + column; }

// Sums a and b over the block's rows, in order, and calls f(column, sum of a, sum of b) for each column of the block's tile, in one
// thread each. All threads call it.
template <int N, class F> DEVICE void column_sums(const float (&a)[N], const float (&b)[N], int cols, F f) {
  SHARED(float, part, [2][N][THREADS]);
  const int wide = blockDim.x, high = blockDim.y, thread = threadIdx.y * wide + threadIdx.x;
#pragma unroll
  for (int i = 0; i < N; i++) part[0][i][thread] = a[i], part[1][i][thread] = b[i];
  __syncthreads();
  for (int k = thread; k < N * wide; k += wide * high) {
    const int i = k / wide, x = k % wide, column = (blockIdx.y * wide + x) * N + i;
    if (column >= cols) continue;
    float sum_a = 0, sum_b = 0;
    for (int y = 0; y < high; y++) sum_a += part[0][i][y * wide + x], sum_b += part[1][i][y * wide + x];
    f(column, sum_a, sum_b);
  }
}
