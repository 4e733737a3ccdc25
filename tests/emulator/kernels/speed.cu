// What the emulator itself costs: one operation over and over.
#include "prelude.cuh"

KERNEL void speed_nothing(int n, float *out) {}
KERNEL void speed_syncwarp(int n, float *out) {
  for (int i = 0; i < n; i++) __syncwarp();
}
KERNEL void speed_syncthreads(int n, float *out) {
  for (int i = 0; i < n; i++) __syncthreads();
}
KERNEL void speed_shuffle(int n, float *out) {
  float v = threadIdx.x;
  for (int i = 0; i < n; i++) v += __shfl_xor_sync(0xffffffffu, v, 1);
  out[threadIdx.x] = v;
}
KERNEL void speed_mma(int n, float *out) {
  float d[4] = {0.f, 0.f, 0.f, 0.f};
  const u32 a[4] = {0x3f803f80, 0, 0, 0}, b[2] = {0x3f803f80, 0};
  for (int i = 0; i < n; i++) mma_m16n8k16(d, a, b);
  out[threadIdx.x] = d[0];
}
KERNEL void speed_ldmatrix(int n, float *out) {
  SHARED(u16, s, [32 * 8]);
  for (int i = threadIdx.x; i < 256; i += blockDim.x) s[i] = 0;
  __syncthreads();
  u32 r[4] = {0, 0, 0, 0};
  for (int i = 0; i < n; i++) ldmatrix_x4(r, smem_u32(s + (threadIdx.x & 31) * 8));
  out[threadIdx.x] = r[0];
}
KERNEL void speed_global(int n, float *out) {
  for (int i = 0; i < n; i++) out[threadIdx.x] += 1.f;
}
KERNEL void speed_shared(int n, float *out) {
  SHARED(float, s, [1024]);
  s[threadIdx.x] = 0.f;
  for (int i = 0; i < n; i++) s[threadIdx.x] += 1.f;
  out[threadIdx.x] = s[threadIdx.x];
}
KERNEL void speed_broadcast(int n, float *out) {
  SHARED(float, s, [1024]);
  s[threadIdx.x] = 1.f;
  __syncthreads();
  float v = 0.f;
  for (int i = 0; i < n; i++) v += s[i & 31];
  out[threadIdx.x] = v;
}
