// As conformance.cu, for hopper.cuh. The tiles of wgmma arrive byte by byte as the test has laid them out.
#include "hopper.cuh"

// out [128 threads][64 registers] = a [64, 64] b [64, 128], in four steps of K. With MN_MAJOR, rows of both tiles run along M and N: pieces of
// 64 lie 8 KB apart.
template <int MN_MAJOR> DEVICE void multiply_laid_out(float *out, const u32 *a, const u32 *b) {
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
    const u32 step = at + k * (MN_MAJOR ? 2048 : 32);
    wgmma_k16<MN_MAJOR, MN_MAJOR>(d, wgmma_desc(step, 8192, 1024, 1), wgmma_desc(step + 8192, 8192, 1024, 1));
  }
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < 64; i++) out[threadIdx.x * 64 + i] = d[i / 4][i % 4];
}

KERNEL void __launch_bounds__(128) conformance_wgmma_k_major(float *out, const u32 *a, const u32 *b) { multiply_laid_out<0>(out, a, b); }
KERNEL void __launch_bounds__(128) conformance_wgmma_mn_major(float *out, const u32 *a, const u32 *b) { multiply_laid_out<1>(out, a, b); }

// out [128 threads][128 registers] = a [64, 64] b [64, 256], rows along K; the first product takes d for nothing, whatever it holds.
KERNEL void __launch_bounds__(128) conformance_wgmma_wide(float *out, const u32 *a, const u32 *b) {
  SHARED_DYN(smem);  // a [8 KB], b [32 KB]
  for (int i = threadIdx.x; i < 10240; i += 128) ((u32 *)smem)[i] = i < 2048 ? a[i] : b[i - 2048];
  fence_proxy_async();
  __syncthreads();
  float d[32][4];
#pragma unroll
  for (int i = 0; i < 128; i++) d[i / 4][i % 4] = 1e9f;
  const u32 at = smem_u32(smem);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) wgmma_k16<0, 0>(d, wgmma_desc(at + k * 32, 0, 1024, 1), wgmma_desc(at + 8192 + k * 32, 0, 1024, 1), k > 0);
  wgmma_commit();
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < 128; i++) out[threadIdx.x * 128 + i] = d[i / 4][i % 4];
}

// out [rounds][64 rows, 128 bytes]: boxes of the map as they arrive, each 64 rows below the last, through one slot.
KERNEL void __launch_bounds__(128) conformance_tma(u32 *out, GRID_CONSTANT TensorMap map, int column, int row, int rounds) {
  SHARED_DYN(smem);
  SHARED(u64, bars, [2]);
  const u32 full = smem_u32(bars), empty = full + 8;
  if (threadIdx.x == 0) {
    mbar_init(full, 1);
    mbar_init(empty, 4);
    mbar_init_fence();
  }
  __syncthreads();
  for (int round = 0; round < rounds; round++) {
    if (threadIdx.x == 0) {
      mbar_wait(empty, round & 1 ^ 1);
      mbar_arrive_expect_tx(full, 8192);
      tma_load_2d(smem_u32(smem), &map, full, column, row + 64 * round);
    }
    __syncwarp();
    mbar_wait(full, round & 1);
    for (int i = threadIdx.x; i < 2048; i += 128) out[round * 2048 + i] = ((const u32 *)smem)[i];
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbar_arrive(empty);
  }
}

// out [32 rows, 16 bytes]: four matrices from registers r [32 lanes, 4], row 8 i + j of them at row rows[8 i + j].
KERNEL void __launch_bounds__(32) conformance_stmatrix(u32 *out, const u32 *r, const u32 *rows) {
  SHARED(u32, held, [128]);
  u32 mine[4];
  for (int i = 0; i < 4; i++) mine[i] = r[threadIdx.x * 4 + i];
  stmatrix_x4((u8 *)held + rows[threadIdx.x] * 16, mine);
  __syncwarp();
  for (int i = 0; i < 4; i++) out[i * 32 + threadIdx.x] = held[i * 32 + threadIdx.x];
}
