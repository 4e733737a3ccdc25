// What each collective gives each lane, and each copy each byte: written out to be compared.
#include "prelude.cuh"

KERNEL void shuffles(u32 *out) {
  const u32 t = threadIdx.x, all = 0xffffffffu, v = 100 + t;
  u32 *o = out + t * 16;
  o[0] = __shfl_sync(all, v, 5);
  o[1] = __shfl_sync(all, v, 3, 8);
  o[2] = __shfl_up_sync(all, v, 3);
  o[3] = __shfl_up_sync(all, v, 3, 16);
  o[4] = __shfl_down_sync(all, v, 7);
  o[5] = __shfl_down_sync(all, v, 7, 16);
  o[6] = __shfl_xor_sync(all, v, 9);
  o[7] = __shfl_xor_sync(all, v, 9, 8);
  const double d = __shfl_xor_sync(all, (double)v + 0.25, 1);
  o[8] = (u32)(d * 4.0);
  o[9] = __ballot_sync(all, t % 3 == 0);
  o[10] = __any_sync(all, t == 40) + 2 * __all_sync(all, t < 32) + 4 * __any_sync(all, t == 4);
  o[11] = __match_any_sync(all, t / 10);
  o[12] = __reduce_add_sync(all, v);
  o[13] = __reduce_min_sync(all, v) * 1000 + __reduce_max_sync(all, v);
  o[14] = (u32)(__reduce_min_sync(all, (int)t - 7) + __reduce_max_sync(all, -(int)t) * 100);
  o[15] = t < 16 ? __shfl_xor_sync(0xffffu, v, 1) : 0u;
}
KERNEL void sums(const float *x, float *out) {
  const int t = threadIdx.x;
  const float v = x[t];
  const float sum = block_sum(v), largest = block_max(v);
  const double precise = block_sum((double)v);
  out[t * 4] = sum;
  out[t * 4 + 1] = largest;
  out[t * 4 + 2] = (float)precise;
  out[t * 4 + 3] = warp_sum(v);
}
// Fragments of a 16 x 16 (or two 8 x 8) matrix of u16, whose element (r, c) is 16 r + c.
KERNEL void fragments(u32 *out) {
  SHARED(u16, s, [16 * 16]);
  const int t = threadIdx.x;
  for (int i = t; i < 256; i += 32) s[i] = (u16)i;
  __syncwarp();
  const u32 row = smem_u32(s + (t & 15) * 16 + (t >> 4) * 8);
  u32 a[4], b[2];
  ldmatrix_x4(a, row);
  for (int i = 0; i < 4; i++) out[t * 12 + i] = a[i];
  ldmatrix_x4_trans(a, row);
  for (int i = 0; i < 4; i++) out[t * 12 + 4 + i] = a[i];
  ldmatrix_x2(b, row);
  for (int i = 0; i < 2; i++) out[t * 12 + 8 + i] = b[i];
  ldmatrix_x2_trans(b, row);
  for (int i = 0; i < 2; i++) out[t * 12 + 10 + i] = b[i];
}
// d = a b + d of registers that the host fills: a 4, b 2, d 4 words per lane.
KERNEL void one_mma(const u32 *ab, float *d) {
  const int t = threadIdx.x;
  u32 a[4], b[2];
  float c[4];
  for (int i = 0; i < 4; i++) a[i] = ab[t * 6 + i], c[i] = d[t * 4 + i];
  for (int i = 0; i < 2; i++) b[i] = ab[t * 6 + 4 + i];
  mma_m16n8k16(c, a, b);
  for (int i = 0; i < 4; i++) d[t * 4 + i] = c[i];
}
// Copies of 4, 8 and 16 bytes, the odd ones filled with zeros.
KERNEL void copies(const u32 *in, u32 *out) {
  SHARED(u32, s, [32 * 7]);
  const int t = threadIdx.x;
  const bool even = t % 2 == 0;
  cp_async<4>(smem_u32(s + t), in + t, even);
  cp_async<8>(smem_u32(s + 32 + 2 * t), in + 2 * t, even);
  cp_async_commit();
  cp_async<16>(smem_u32(s + 96 + 4 * t), even ? in + 4 * t : (const u32 *)0, even);
  cp_async_commit();
  cp_async_wait<1>();
  for (int i = 0; i < 3; i++) out[t * 7 + i] = s[i == 0 ? t : 32 + 2 * t + i - 1];
  cp_async_wait<0>();
  for (int i = 0; i < 4; i++) out[t * 7 + 3 + i] = s[96 + 4 * t + i];
}
KERNEL void conversions(const float *x, u32 *out) {
  const int t = threadIdx.x;
  const float v = x[t];
  u32 *o = out + t * 8;
  o[0] = f32_to_bf16(v).bits;
  o[1] = pack_bf16(v, 1.f);
  o[2] = (u32)__float2int_rn(v);
  o[3] = (u32)__float2int_rd(v);
  o[4] = __float2uint_rz(v);
  o[5] = __umulhi(__float_as_uint(v), 0x12345678u);
  o[6] = (u32)(__umul64hi((u64)o[5] << 32, 1000ull) + __popc(t) * 100 + __clz(t) * 10000);
  o[7] = __funnelshift_l(o[0], o[5], 7) ^ __brev(t) ^ __byte_perm(o[0], o[5], 0x5410);
}
