// Micro-benchmarks of the simulator itself.
#include "prelude.cuh"
KERNEL void bench_syncwarp(int n) { for (int i = 0; i < n; i++) __syncwarp(); }
KERNEL void bench_syncthreads(int n) { for (int i = 0; i < n; i++) __syncthreads(); }
KERNEL void bench_shfl(int n, float *out) { float v = threadIdx.x; for (int i = 0; i < n; i++) v += __shfl_xor_sync(0xffffffffu, v, 1); if (v == -1.f) out[0] = v; }
KERNEL void bench_mma(int n, float *out) {
  float d[4] = {0, 0, 0, 0}; u32 a[4] = {0x3f803f80, 0, 0, 0}, b[2] = {0x3f803f80, 0};
  for (int i = 0; i < n; i++) mma_m16n8k16(d, a, b);
  if (d[0] == -1.f) out[0] = d[0];
}
KERNEL void bench_ldmatrix(int n, float *out) {
  SHARED(u16, s, [32 * 8]);
  for (int i = threadIdx.x; i < 256; i += blockDim.x) s[i] = 0;
  __syncthreads();
  u32 r[4] = {0, 0, 0, 0};
  for (int i = 0; i < n; i++) ldmatrix_x4(r, smem_u32(s + (threadIdx.x & 31) * 8));
  if (r[0] == 12345) out[0] = 0.f;
}
KERNEL void bench_mem(const float *x, float *out, int n) {  // 1 load and 1 store per iteration and thread
  float s = 0.f;
  for (int i = 0; i < n; i++) { s += x[(threadIdx.x + i) & 1023]; out[threadIdx.x] = s; }
}
KERNEL void bench_nothing(int n) {}
