// A Hopper card's peak rate, as in measure.cu: wgmma on operands in shared memory.
#include "hopper.cuh"

// Two warpgroups of a block multiply 64 x 64 by 64 x 128 `rounds` times: 2097152 rounds floating point operations and no memory but shared.
KERNEL void __launch_bounds__(256, 2) measure_wgmma(float *out, int rounds) {
  SHARED_DYN(smem);  // a of both warpgroups [2][8 KB], b [16 KB]
  // Numbers of all bits in (-1, 1): a card is faster, and cooler, with zeros.
  for (u32 i = threadIdx.x; i < 8192; i += 256) {
    const u32 x = (i + 1) * 2654435761u;
    ((u32 *)smem)[i] = pack_bf16((float)(x & 0xffff) * (1.f / 32768.f) - 1.f, (float)(x >> 16) * (1.f / 32768.f) - 1.f);
  }
  fence_proxy_async();
  __syncthreads();
  float d[16][4];
#pragma unroll
  for (int i = 0; i < 64; i++) d[i / 4][i % 4] = 0.f;
  const u32 b = smem_u32(smem) + 16384, a = smem_u32(smem) + __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) * 8192;
  for (int round = 0; round < rounds; round++) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++) wgmma_k16<0, 0>(d, wgmma_desc(a + k * 32, 0, 1024, 1), wgmma_desc(b + k * 32, 0, 1024, 1));
    wgmma_commit();
    wgmma_wait<0>();
  }
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 64; i++) sum += d[i / 4][i % 4];
  out[blockIdx.x * 256 + threadIdx.x] = sum;
}
