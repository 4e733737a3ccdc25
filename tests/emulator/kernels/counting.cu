// Accesses whose counts are known by hand.
#include "prelude.cuh"

KERNEL void access_patterns(const float *in, float *out) {
  SHARED(float, s, [32 * 33]);
  SHARED_DYN(dynamic);
  const int t = threadIdx.x;
  float a = in[t];
  float b = in[t * 8];
  float c = in[1 + t];
  float4 v = *(const float4 *)(in + 4 * t);
  for (int i = 0; i < 32; i++) s[t * 32 + i] = a;
  __syncthreads();
  float d = 0.f;
  for (int i = 0; i < 32; i++) d += s[i * 32 + t];
  for (int i = 0; i < 32; i++) d += s[7];
  float4 *w = (float4 *)dynamic;
  w[t] = v;
  if (t < 8) w[t + 32] = v;
  __syncthreads();
  d += w[t].x;
  d += __shfl_xor_sync(0xffffffffu, d, 1);
  out[t] = a + b + c + d;
}
KERNEL void matrix_patterns(const bf16 *in, float *out) {
  SHARED(bf16, good, [16 * 24]);
  SHARED(bf16, bad, [16 * 64]);
  const int t = threadIdx.x;
  cp_async<16>(smem_u32(good + t / 2 * 24 + t % 2 * 8), in + t * 8, true);
  cp_async<16>(smem_u32(bad + t / 2 * 64 + t % 2 * 8), in + t * 8, t < 16);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  u32 a[4], b[4];
  ldmatrix_x4(a, smem_u32(good + (t & 15) * 24 + (t >> 4) * 8));
  ldmatrix_x4(b, smem_u32(bad + (t & 15) * 64 + (t >> 4) * 8));
  float d[4] = {0.f, 0.f, 0.f, 0.f};
  u32 c[2] = {b[0], b[1]};
  mma_m16n8k16(d, a, c);
  mma_m16n8k16(d, a, c);
  for (int i = 0; i < 4; i++) out[t * 4 + i] = d[i];
}
