// The collapse watch: the standard deviation of unit-length rows per column, averaged over columns, times sqrt(cols).
#include "moments.cuh"

constexpr int THREADS = 256;

// Per chunk of rows and column the mean and the sum of squared deviations of unit-length rows; a zero row stays zero.
// Shared memory: one float per row of a chunk. Floor: 1 pass over x.
KERNEL void __launch_bounds__(THREADS) feature_std_moments(float *partials, const T *x, int chunk, int rows, int cols) {
  SHARED_DYN(dynamic);
  float *inverse = (float *)dynamic;  // [chunk]
  const int begin = blockIdx.x * chunk, n = min(chunk, rows - begin);
  x += (u64)begin * cols;
  for (int r = threadIdx.x / 32; r < n; r += THREADS / 32) {
    float squares = 0;
    for (int c = threadIdx.x % 32; c < cols; c += 32) {
      const float v = to_f32(x[(u64)r * cols + c]);
      squares += v * v;
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) inverse[r] = squares > 0 ? 1 / sqrtf(squares) : 0;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < cols; c += THREADS) {
    double sum = 0, squares = 0;
#pragma unroll 4
    for (int r = 0; r < n; r++) {
      const double u = to_f32(x[(u64)r * cols + c]) * inverse[r];
      sum += u, squares += u * u;
    }
    const double m2 = squares - sum * sum / n;
    float *to = partials + (u64)blockIdx.x * 2 * cols + c;
    to[0] = sum / n, to[cols] = m2 > 0 ? m2 : 0;
  }
}

// One block. Floor: 1 pass over the partials.
KERNEL void __launch_bounds__(1024) feature_std_fwd(float *y, const float *partials, int chunks, int chunk, int rows, int cols) {
  double sum = 0;
  for (int c = threadIdx.x; c < cols; c += blockDim.x) sum += sqrt(m2_of(merge(partials, chunks, chunk, rows, cols, c, 0, 1)) / rows);
  sum = block_sum(sum);
  if (threadIdx.x == 0) *y = sum / sqrt((double)cols);
}
