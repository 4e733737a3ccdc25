// C[M,N] (f32) = A[M,K] * B[N,K]^T on Hopper: TMA (128B swizzle) -> mbarrier ring -> wgmma. sm_90a only.
// Warpgroup 0 produces, warpgroups 1 and 2 each own 64 of the 128 rows.
#include "tma.cuh"

KERNEL void __launch_bounds__(384, 1) gemm_wgmma_128(
    GRID_CONSTANT TensorMap mapA, GRID_CONSTANT TensorMap mapB, float *__restrict__ C, int M, int N, int K) {
  constexpr int BM = 128, BN = 128, BK = 64, STAGES = 4;
  constexpr u32 BYTES = (BM + BN) * BK * 2;
  SHARED_DYN(smem);  // STAGES x (A 16 KB, B 16 KB), then the barriers
  const u32 base = smem_u32(smem), full = base + STAGES * BYTES, empty = full + STAGES * 8;
  const int tid = threadIdx.x, wg = tid >> 7, steps = (K + BK - 1) / BK;
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  if (tid == 0) {
    for (int s = 0; s < STAGES; s++) {
      mbar_init(full + s * 8, 1);
      mbar_init(empty + s * 8, 2);
    }
    mbar_init_fence();
  }
  __syncthreads();
  if (wg == 0) {
    setmaxnreg_dec<40>();
    if (tid == 0) {
      for (int k = 0; k < steps; k++) {
        int s = k % STAGES;
#ifndef BUG_EMPTY
        mbar_wait(empty + s * 8, ((k / STAGES) & 1) ^ 1);
#endif
#ifdef BUG_TX
        mbar_arrive_expect_tx(full + s * 8, BYTES / 2);
#else
        mbar_arrive_expect_tx(full + s * 8, BYTES);
#endif
        tma_load_2d(base + s * BYTES, &mapA, full + s * 8, k * BK, m0);
        tma_load_2d(base + s * BYTES + BM * BK * 2, &mapB, full + s * 8, k * BK, n0);
      }
    }
  } else {
    setmaxnreg_inc<232>();
    float d[16][4];
#pragma unroll
    for (int i = 0; i < 64; i++) d[i / 4][i % 4] = 0.f;
    const u32 rows = (wg - 1) * 64 * BK * 2;
    for (int k = 0; k < steps; k++) {
      int s = k % STAGES;
      mbar_wait(full + s * 8, (k / STAGES) & 1);
      u32 a = base + s * BYTES + rows, b = base + s * BYTES + BM * BK * 2;
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < BK / 16; kk++)
#ifdef BUG_DESC
        wgmma_k16<0, 0>(d, wgmma_desc(a + kk * 32, 16, 512, 1), wgmma_desc(b + kk * 32, 16, 1024, 1));
#else
        wgmma_k16<0, 0>(d, wgmma_desc(a + kk * 32, 16, 1024, 1), wgmma_desc(b + kk * 32, 16, 1024, 1));
#endif
      wgmma_commit();
#ifdef BUG_WGWAIT
      wgmma_wait<1>();
#else
      wgmma_wait<0>();
#endif
      if ((tid & 127) == 0) mbar_arrive(empty + s * 8);
    }
#ifdef BUG_WGWAIT
    wgmma_wait<0>();
#endif
    const int lane = tid & 31, warp = (tid >> 5) & 3;
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int r = m0 + (wg - 1) * 64 + warp * 16 + lane / 4 + h * 8, c = n0 + j * 8 + (lane & 3) * 2;
        if (r < M && c + 1 < N) *(float2 *)(C + (u64)r * N + c) = make_float2(d[j][h * 2], d[j][h * 2 + 1]);
      }
  }
}
