// C[M,N] (f32) = A[M,K] * B[N,K]^T, bf16 in, cp.async double buffering, ldmatrix, mma.sync. sm_80+.
#include "prelude.cuh"

template <int BM, int BN, int BK, int WM, int WN>
DEVICE void gemm_body(const bf16 *__restrict__ A, const bf16 *__restrict__ B, float *__restrict__ C, int M, int N, int K) {
  constexpr int LD = BK + 8;  // 16 bytes of padding per row: ldmatrix without bank conflicts
  constexpr int THREADS = (BM / WM) * (BN / WN) * 32, MI = WM / 16, NI = WN / 8;
  SHARED_DYN(smem);
  bf16 *sA = (bf16 *)smem, *sB = sA + 2 * BM * LD;
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  const int wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
#ifdef BUG_TILE
  const int m0 = blockIdx.y * (BM - 16), n0 = blockIdx.x * BN;  // tiles overlap: correct values, written twice
#else
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
#endif

  float acc[MI][NI][4];
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.f;

  auto load = [&](int stage, int k0) {
#pragma unroll
    for (int c = tid; c < BM * BK / 8; c += THREADS) {
      int r = c / (BK / 8), k = c % (BK / 8) * 8;
      bool in = m0 + r < M && k0 + k < K;
      cp_async<16>(smem_u32(sA + (stage * BM + r) * LD + k), in ? A + (u64)(m0 + r) * K + k0 + k : A, in);
    }
#pragma unroll
    for (int c = tid; c < BN * BK / 8; c += THREADS) {
      int r = c / (BK / 8), k = c % (BK / 8) * 8;
      bool in = n0 + r < N && k0 + k < K;
      cp_async<16>(smem_u32(sB + (stage * BN + r) * LD + k), in ? B + (u64)(n0 + r) * K + k0 + k : B, in);
    }
    cp_async_commit();
  };

  const int steps = (K + BK - 1) / BK;
  load(0, 0);
  for (int s = 0; s < steps; s++) {
    if (s + 1 < steps) {
      load((s + 1) & 1, (s + 1) * BK);
#ifdef BUG_WAIT
      cp_async_wait<2>();
#else
      cp_async_wait<1>();
#endif
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const bf16 *tA = sA + (s & 1) * BM * LD, *tB = sB + (s & 1) * BN * LD;
#pragma unroll
    for (int kk = 0; kk < BK; kk += 16) {
      u32 a[MI][4], b[NI][2];
#pragma unroll
      for (int i = 0; i < MI; i++) ldmatrix_x4(a[i], smem_u32(tA + (wm + i * 16 + (lane & 15)) * LD + kk + (lane >> 4) * 8));
#pragma unroll
      for (int j = 0; j < NI; j += 2) {
        u32 t[4];
        ldmatrix_x4(t, smem_u32(tB + (wn + j * 8 + (lane & 7) + (lane >> 4) * 8) * LD + kk + ((lane >> 3) & 1) * 8));
        b[j][0] = t[0], b[j][1] = t[1];
        b[j + 1][0] = t[2], b[j + 1][1] = t[3];
      }
#pragma unroll
      for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NI; j++) {
#ifdef BUG_FRAGMENT
          u32 w[4] = {a[i][0], a[i][2], a[i][1], a[i][3]};  // rows +8 and columns +8 swapped
          mma_m16n8k16(acc[i][j], w, b[j]);
#else
          mma_m16n8k16(acc[i][j], a[i], b[j]);
#endif
#ifdef BUG_INDEX
          if (kk == 0) acc[i][j + (lane == 3)][0] += 0.f;  // one past the end of the register array
#endif
        }
    }
#ifndef BUG_WAR
    __syncthreads();
#endif
  }
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int r = m0 + wm + i * 16 + lane / 4 + h * 8, c = n0 + wn + j * 8 + (lane & 3) * 2;
#ifdef BUG_OOB_WRITE
        if (r <= M && c + 1 < N)
#else
        if (r < M && c + 1 < N)
#endif
          *(float2 *)(C + (u64)r * N + c) = make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
      }
}

KERNEL void __launch_bounds__(128) gemm_mma_64(const bf16 *A, const bf16 *B, float *C, int M, int N, int K) {
  gemm_body<64, 64, 32, 32, 32>(A, B, C, M, N, K);
}
KERNEL void __launch_bounds__(256) gemm_mma_128(const bf16 *A, const bf16 *B, float *C, int M, int N, int K) {
  gemm_body<128, 128, 32, 64, 32>(A, B, C, M, N, K);
}
