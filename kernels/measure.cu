// A card's peak rates, which the benchmarks divide by: memory copies, reads from the L2, tensor-core products.
#include "prelude.cuh"

// words of 16 bytes. With none it is the cheapest launch there is.
KERNEL void __launch_bounds__(256) measure_copy(u32 *__restrict__ to, const u32 *__restrict__ from, u32 words) {
  const u32 step = gridDim.x * 256;
#pragma unroll 4
  for (u32 i = blockIdx.x * 256 + threadIdx.x; i < words; i += step) ((uint4 *)to)[i] = ((const uint4 *)from)[i];
}

// Reads `words` of 16 bytes `passes` times. A block reads other words in each pass, so its L1 does not help. Each thread writes the XOR of
// all that it read, so that the compiler keeps the reads.
KERNEL void __launch_bounds__(256) measure_read(u32 *out, const u32 *from, u32 words, int passes) {
  const u32 first = blockIdx.x * 256 + threadIdx.x, step = gridDim.x * 256;
  u32 x = 0;
  for (int pass = 0; pass < passes; pass++) {
    const u32 shift = (u32)pass * (gridDim.x / 2 + 1) * 256 % words;
#pragma unroll 8
    for (u32 i = first; i < words; i += step) {
      const u32 at = i + shift;
      const uint4 v = ((const uint4 *)from)[at < words ? at : at - words];
      x ^= v.x ^ v.y ^ v.z ^ v.w;
    }
  }
  out[first] = x;
}

// 8 independent chains of m16n8k16 per warp, `rounds` long: 32768 rounds floating point operations and no memory.
KERNEL void __launch_bounds__(256) measure_mma(float *out, int rounds) {
  const float x = (float)(threadIdx.x % 32) * 0.0625f - 1.0f;
  const u32 a[4] = {pack_bf16(x, 0.5f), pack_bf16(-x, 0.25f), pack_bf16(0.75f, x), pack_bf16(-0.5f, -x)};
  const u32 b[2] = {pack_bf16(0.125f, x), pack_bf16(x, -0.25f)};
  float d[8][4];
#pragma unroll
  for (int i = 0; i < 32; i++) d[i / 4][i % 4] = (float)i;  // the compiler would merge equal chains
  for (int round = 0; round < rounds; round++)
#pragma unroll
    for (int chain = 0; chain < 8; chain++) mma_m16n8k16(d[chain], a, b);
  float sum = 0;
#pragma unroll
  for (int chain = 0; chain < 8; chain++) sum += d[chain][0] + d[chain][1] + d[chain][2] + d[chain][3];
  out[blockIdx.x * 256 + threadIdx.x] = sum;
}
