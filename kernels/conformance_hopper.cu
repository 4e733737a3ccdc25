// What conformance.cu is for ptx.cuh, for hopper.cuh: the products of wgmma, whose tiles arrive byte by byte as the test has laid them out.
#include "hopper.cuh"

// out [128 threads][64 registers] = a [64, 64] b [64, 128], in four steps of K. With ACROSS, rows of both tiles run along M and N: pieces of
// 64 lie 8 KB apart.
template <int ACROSS> DEVICE void multiply_laid_out(float *out, const u32 *a, const u32 *b) {
  SHARED_DYN(smem);  // a [8 KB], b [16 KB]
  for (int i = threadIdx.x; i < 6144; i += 128) ((u32 *)smem)[i] = i < 2048 ? a[i] : b[i - 2048];
  fence_proxy_async();
  __syncthreads();
  float d[16][4];
#pragma unroll
  for (int i = 0; i < 64; i++) d[i / 4][i % 4] = 0.f;
  const u32 at = smem_u32(smem);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 step = at + k * (ACROSS ? 2048 : 32);
    wgmma_k16<ACROSS, ACROSS>(d, wgmma_desc(step, 8192, 1024, 1), wgmma_desc(step + 8192, 8192, 1024, 1));
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < 64; i++) out[threadIdx.x * 64 + i] = d[i / 4][i % 4];
}

KERNEL void __launch_bounds__(128) conformance_wgmma_along(float *out, const u32 *a, const u32 *b) { multiply_laid_out<0>(out, a, b); }
KERNEL void __launch_bounds__(128) conformance_wgmma_across(float *out, const u32 *a, const u32 *b) { multiply_laid_out<1>(out, a, b); }
