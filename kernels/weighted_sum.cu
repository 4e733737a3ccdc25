// Losses added up with weights: one thread, a few numbers.
#include "prelude.cuh"

// terms [count][2]: the address of a loss; its weight. Floor: 4 bytes per term.
KERNEL void __launch_bounds__(1) weighted_sum_fwd(float *y, const u64 *terms, int count) {
  double sum = 0.;
  for (int i = 0; i < count; i++) sum += (double)__uint_as_float((u32)terms[2 * i + 1]) * *(const float *)terms[2 * i];
  y[0] = (float)sum;
}

// terms [count][2]: the address of a gradient; the weight, and above it whether to add. Floor: 4 bytes per term.
KERNEL void __launch_bounds__(1) weighted_sum_bwd(const u64 *terms, const float *dy, int count) {
  for (int i = 0; i < count; i++) {
    float *dx = (float *)terms[2 * i];
    const float g = __uint_as_float((u32)terms[2 * i + 1]) * dy[0];
    *dx = terms[2 * i + 1] >> 32 ? *dx + g : g;
  }
}
