// y = scale times the sum of a loss's parts: one block, in f64.
#include "prelude.cuh"

// Floor: values once.
KERNEL void __launch_bounds__(1024) scaled_sum(float *y, const float *values, int count, float scale) {
  double sum = 0.;
  for (int i = threadIdx.x; i < count; i += 1024) sum += values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) y[0] = (float)(sum * scale);
}
