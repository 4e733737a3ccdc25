// Softmax cross-entropy of logits [rows, classes] with labels [n]; row r has the label of sample r mod n. One warp per row.
#include "rows.cuh"

DEVICE int row_of_warp() { return blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5); }

// Sum of exponentials relative to the largest logit so far, and whether a logit beats the label's. The logits are read once: where a larger one
// comes, the sum shrinks.
template <int N> DEVICE void reduce(float &top, float &sum, bool &beaten, const T *x, int label, float own, int classes) {
  for (int c = (threadIdx.x & 31) * N; c < classes; c += 32 * N) {
    float v[N], most = top;
    load(x + c, v);
#pragma unroll
    for (int i = 0; i < N; i++) most = fmaxf(most, v[i]);
    sum *= expf(top - most), top = most;
#pragma unroll
    for (int i = 0; i < N; i++) sum += expf(v[i] - top), beaten |= v[i] > own || (v[i] == own && c + i < label);
  }
}

// saved [3, rows]: -ln softmax(x)[label], ln sum exp(x), 1 where the largest logit is the label's (of equal ones the first).
// A label that is no class gives NaN. Floor: 1 pass over rows x classes.
KERNEL void __launch_bounds__(THREADS)
    cross_entropy_fwd(float *saved, const T *logits, const u32 *labels, int rows, int n, int classes) {
  const int row = row_of_warp();
  if (row >= rows) return;
  const T *x = logits + at(row, classes, 0);
  const u32 label = labels[row % n];
  const bool known = label < (u32)classes;
  const float own = known ? to_f32(x[label]) : 0;
  // Finite, so that a lane without logits subtracts no infinities.
  float top = -3e38f, sum = 0;
  bool beaten = !known;
  if (classes % VEC == 0) reduce<VEC>(top, sum, beaten, x, label, own, classes);
  else reduce<1>(top, sum, beaten, x, label, own, classes);
  const float most = warp_max(top);
  const float log_sum = most + logf(warp_sum(sum * expf(top - most)));
  const bool any = warp_max(beaten ? 1.f : 0.f) > 0;
  if (threadIdx.x % 32 != 0) return;
  saved[row] = known ? log_sum - own : __uint_as_float(0x7fc00000u);
  saved[rows + row] = log_sum, saved[2 * rows + row] = any ? 0 : 1;
}

template <int N>
DEVICE void backward(T *dx, const T *x, int add, int label, int classes, float scale, float log_sum) {
  for (int c = (threadIdx.x & 31) * N; c < classes; c += 32 * N) {
    float v[N], g[N];
    load(x + c, v);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = scale * (expf(v[i] - log_sum) - (c + i == label ? 1.f : 0.f));
    store_gradient(dx + c, g, add);
  }
}

// dlogits = dloss / rows (softmax(x) - onehot(label)).
// Floor: 2 passes over rows x classes, 3 if the gradient is added to.
KERNEL void __launch_bounds__(THREADS) cross_entropy_bwd(T *dlogits, const float *dloss, const T *logits, const u32 *labels, const float *saved,
                                                         int add, int rows, int n, int classes) {
  const int row = row_of_warp();
  if (row >= rows) return;
  const u64 from = at(row, classes, 0);
  const float scale = dloss[0] / rows, log_sum = saved[rows + row];
  const int label = labels[row % n];
  if (classes % VEC == 0) backward<VEC>(dlogits + from, logits + from, add, label, classes, scale, log_sum);
  else backward<1>(dlogits + from, logits + from, add, label, classes, scale, log_sum);
}
