// The end of a step: the step's numbers go into a row of the log, then the step counts up. One block.
#include "rows.cuh"

// values: the addresses of `cols` floats. Floor: 2 passes over them.
KERNEL void __launch_bounds__(THREADS) log_step(u32 *step, float *log, const u64 *values, int rows, int cols) {
  float *row = log + at(*step % rows, cols, 0);
  for (int i = threadIdx.x; i < cols; i += blockDim.x) row[i] = *(const float *)values[i];
  __syncthreads();  // all have read the step
  if (threadIdx.x == 0) *step += 1;
}
