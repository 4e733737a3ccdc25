// Stochastic depth: y = residual + factor x, where the factor of a sample of a view is 0 with probability `rate`, else 1 / (1 - rate).
#include "random.cuh"
#include "rows.cuh"

// The factor of group i, which is view i / m of sample i % m. `first` is the stream number of the first view: purpose, view and layer. Each
// further view adds 256.
DEVICE float factor_of(const u32 *keys, int i, int m, u32 seed_low, u32 seed_high, u32 first, float rate) {
  const u32 *key = keys + 2 * (i % m);
  u32 words[4];
  philox(Stream{{seed_low, seed_high}, key[1], key[0], first + i / m * 256}, 0, words);
  return uniform(words[0]) < rate ? 0.f : 1.f / (1.f - rate);
}

// Values of a group per block, 64 per thread. A multiple of VEC, so that 16-byte accesses stay aligned.
constexpr int PART = 64 * THREADS;

template <int N> DEVICE void piece(T *y, const T *x, const T *residual, float factor, int add) {
  float v[N], r[N] = {};
  load(x, v);
  if (residual) load(residual, r);
#pragma unroll
  for (int e = 0; e < N; e++) v[e] = fmaf(v[e], factor, r[e]);
  store_gradient(y, v, add);
}

DEVICE void scale(T *y, const T *x, const T *residual, const u32 *keys, int add, int m, int len, int parts, u32 seed_low, u32 seed_high,
                  u32 first, float rate) {
  SHARED(float, shared, [1]);
  const int group = blockIdx.x / parts, begin = blockIdx.x % parts * PART, end = min(len, begin + PART);
  if (threadIdx.x == 0) shared[0] = factor_of(keys, group, m, seed_low, seed_high, first, rate);
  __syncthreads();
  const float factor = shared[0];
  const u64 start = at(group, len, 0);
  y += start, x += start;
  if (residual) residual += start;
  if (len % VEC == 0) {
    for (int i = begin + threadIdx.x * VEC; i < end; i += THREADS * VEC) piece<VEC>(y + i, x + i, residual ? residual + i : 0, factor, add);
  } else {
    for (int i = begin + threadIdx.x; i < end; i += THREADS) piece<1>(y + i, x + i, residual ? residual + i : 0, factor, add);
  }
}

// Floor: x, y and the residual, which may be null, once.
KERNEL void __launch_bounds__(THREADS)
    drop_path_fwd(T *__restrict__ y, const T *__restrict__ x, const T *__restrict__ residual, const u32 *__restrict__ keys, int m, int len,
                  int parts, u32 seed_low, u32 seed_high, u32 first, float rate) {
  scale(y, x, residual, keys, 0, m, len, parts, seed_low, seed_high, first, rate);
}

// dx = factor dy. Floor: dy and dx once (dx twice if it is added to).
KERNEL void __launch_bounds__(THREADS)
    drop_path_bwd(T *__restrict__ dx, const T *__restrict__ dy, const u32 *__restrict__ keys, int add, int m, int len, int parts,
                  u32 seed_low, u32 seed_high, u32 first, float rate) {
  scale(dx, dy, 0, keys, add, m, len, parts, seed_low, seed_high, first, rate);
}
