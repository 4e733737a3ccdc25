// Included by every kernel: conversions, 16-byte accesses and reductions in a fixed order, with the types and the PTX.
#pragma once
#include "ptx.cuh"

// --- conversions: loads and stores are T, arithmetic is float ---------------------------------------------------------------

DEVICE float bf16_to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return bf16_to_f32(x); }

#if BF16
DEVICE T from_f32(float x) { return f32_to_bf16(x); }
#else
DEVICE T from_f32(float x) { return x; }
#endif

// The two bf16 of a register.
DEVICE float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_bf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

// --- 16 bytes at once: p is aligned to 16 bytes ------------------------------------------------------------------------------

// Values of T in 16 bytes: 4 or 8.
constexpr int VEC = 16 / sizeof(T);

DEVICE void unpack16(float4 x, float (&v)[4]) { v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w; }
DEVICE void unpack16(uint4 x, float (&v)[8]) {
  v[0] = low_bf16(x.x), v[1] = high_bf16(x.x), v[2] = low_bf16(x.y), v[3] = high_bf16(x.y);
  v[4] = low_bf16(x.z), v[5] = high_bf16(x.z), v[6] = low_bf16(x.w), v[7] = high_bf16(x.w);
}
DEVICE float4 pack16(const float (&v)[4]) { return make_float4(v[0], v[1], v[2], v[3]); }
DEVICE uint4 pack16(const float (&v)[8]) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}
DEVICE void load16(const float *p, float (&v)[4]) {
  const float4 x = *(const float4 *)p;
  unpack16(x, v);
}
DEVICE void load16(const bf16 *p, float (&v)[8]) {
  const uint4 x = *(const uint4 *)p;
  unpack16(x, v);
}
DEVICE void store16(float *p, const float (&v)[4]) { *(float4 *)p = pack16(v); }
DEVICE void store16(bf16 *p, const float (&v)[8]) { *(uint4 *)p = pack16(v); }

// 16 bytes of T, as they are in memory.
#if BF16
typedef uint4 Vec16;
#else
typedef float4 Vec16;
#endif

// --- sums and maxima in an order that only the shape decides; every thread gets the result -----------------------------------

// Over a whole warp. V: float, double, int, u32, u64.
template <class V> DEVICE V warp_sum(V v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
template <class V> DEVICE V warp_max(V v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    V other = __shfl_xor_sync(0xffffffffu, v, o);
    v = other > v ? other : v;
  }
  return v;
}

// Over a block of one dimension whose threads are a multiple of 32. All threads call it; two barriers.
template <class V> DEVICE V block_sum(V v) {
  SHARED(V, part, [32]);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  v = warp_sum(v);
  if (lane == 0) part[warp] = v;
  __syncthreads();
  v = warp_sum(lane < blockDim.x >> 5 ? part[lane] : V(0));
  __syncthreads();  // before the next call writes `part`
  return v;
}
template <class V> DEVICE V block_max(V v) {
  SHARED(V, part, [32]);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  v = warp_max(v);
  if (lane == 0) part[warp] = v;
  __syncthreads();
  v = warp_max(part[lane < blockDim.x >> 5 ? lane : 0]);
  __syncthreads();  // before the next call writes `part`
  return v;
}
