// Sums of n floats, one per block: warp shuffles, one shared slot per warp.
#include "prelude.cuh"

KERNEL void __launch_bounds__(256) reduce_sum(const float *__restrict__ x, u32 n, float *__restrict__ out) {
  SHARED(float, part, [32]);
  const u32 tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  float s = 0.f;
  for (u32 i = (blockIdx.x * blockDim.x + tid) * 4; i < n; i += gridDim.x * blockDim.x * 4) {
    if (i + 3 < n) {
#ifdef BUG_ALIGN
      float4 v = *(const float4 *)(x + i + 1);
#else
      float4 v = *(const float4 *)(x + i);
#endif
      s += (v.x + v.y) + (v.z + v.w);
    } else {
#ifdef BUG_OOB_READ
      for (u32 k = i; k <= n; k++) s += x[k];
#else
      for (u32 k = i; k < n; k++) s += x[k];
#endif
    }
  }
  for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
  if (lane == 0) part[warp] = s;
#ifndef BUG_MISSING_SYNC
  __syncthreads();
#endif
#ifdef BUG_DIVERGENT
  if (lane < 20) {
#endif
  if (warp == 0) {
    s = lane < blockDim.x / 32 ? part[lane] : 0.f;
    for (int o = 16; o > 0; o >>= 1) s += __shfl_xor_sync(0xffffffffu, s, o);
    if (lane == 0) out[blockIdx.x] = s;
  }
#ifdef BUG_DIVERGENT
  }
  __syncthreads();
#endif
}
