// Position embeddings of one patch grid, interpolated to another: y = matrix x, all f32. Small and rare, so plain sums suffice.
#include "prelude.cuh"

// One thread per value of y; the weight is the same for a whole block. Floor: matrix, x and y once; most weights are 0.
KERNEL void __launch_bounds__(64) interpolate_fwd(float *y, const float *x, const float *matrix, int outputs, int inputs, int cols) {
  const int c = blockIdx.x * 64 + threadIdx.x, o = blockIdx.y;
  if (c >= cols || o >= outputs) return;
  float sum = 0.f;
  for (int i = 0; i < inputs; i++) {
    const float w = matrix[(u64)o * inputs + i];
    if (w != 0.f) sum = fmaf(w, x[(u64)i * cols + c], sum);
  }
  y[(u64)o * cols + c] = sum;
}

// One thread per value of dx. Floor: as above.
KERNEL void __launch_bounds__(64)
    interpolate_bwd(float *dx, const float *dy, const float *matrix, int add, int outputs, int inputs, int cols) {
  const int c = blockIdx.x * 64 + threadIdx.x, i = blockIdx.y;
  if (c >= cols || i >= inputs) return;
  float sum = add ? dx[(u64)i * cols + c] : 0.f;
  for (int o = 0; o < outputs; o++) {
    const float w = matrix[(u64)o * inputs + i];
    if (w != 0.f) sum = fmaf(w, dy[(u64)o * cols + c], sum);
  }
  dx[(u64)i * cols + c] = sum;
}
