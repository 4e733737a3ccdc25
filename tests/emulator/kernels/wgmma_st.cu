// One 64x64x64 wgmma tile with operands stored by ordinary stores, unswizzled; C[64,64] = A[64,64] * B, where B is
// [64 n][64 k] (tb = 0, K-major) or [64 k][64 n] (tb = 1, MN-major). Exercises descriptors without TMA. sm_90a only.
#include "tma.cuh"

template <int TB> DEVICE void body(const bf16 *__restrict__ A, const bf16 *__restrict__ B, float *__restrict__ C) {
  SHARED(bf16, sA, [64 * 64]);
  SHARED(bf16, sB, [64 * 64]);
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  for (int i = tid; i < 64 * 64; i += 128) {
    int r = i / 64, c = i % 64;  // core matrices of 8 rows x 16 bytes, 128 bytes each; 8 of them per row of matrices
    int at = (r / 8 * 8 + c / 8) * 64 + r % 8 * 8 + c % 8;
    sA[at] = A[i];
    sB[at] = B[i];
  }
#ifndef BUG_FENCE
  fence_proxy_async();
#endif
  __syncthreads();
  float d[32];
#pragma unroll
  for (int i = 0; i < 32; i++) d[i] = 0.f;
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) {
    u64 da = wgmma_desc(smem_u32(sA) + k * 256, 128, 1024, 0);  // K-major: LBO along k, SBO along rows
    // MN-major without swizzle: SBO between core matrices along n, LBO along k
    u64 db = TB ? wgmma_desc(smem_u32(sB) + k * 2048, 1024, 128, 0) : wgmma_desc(smem_u32(sB) + k * 256, 128, 1024, 0);
    wgmma_m64n64k16<0, TB>(d, da, db, 1);
  }
  wgmma_commit();
#ifndef BUG_READ_EARLY
  wgmma_wait<0>();
#endif
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float2 *to = (float2 *)(C + (warp * 16 + lane / 4 + h * 8) * 64 + j * 8 + (lane & 3) * 2);
      *to = make_float2(d[j * 4 + h * 2], d[j * 4 + h * 2 + 1]);
    }
#ifdef BUG_READ_EARLY
  wgmma_wait<0>();
#endif
}
KERNEL void __launch_bounds__(128) wgmma_st_k(const bf16 *A, const bf16 *B, float *C) { body<0>(A, B, C); }
KERNEL void __launch_bounds__(128) wgmma_st_mn(const bf16 *A, const bf16 *B, float *C) { body<1>(A, B, C); }
