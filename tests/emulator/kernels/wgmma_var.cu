// One 64x64x64 tile by every swizzle (W bytes), B K-major [n][k] or MN-major [k][n], A from shared memory or registers;
// TMA in, TMA out, named barrier. Conformance test for ptx.cuh; sm_90a only.
#include "tma.cuh"

template <int W, int MN, int RS>
DEVICE void body(const TensorMap *mapA, const TensorMap *mapB, const TensorMap *mapC, const bf16 *__restrict__ A) {
  SHARED_DYN(smem);
  SHARED(u64, bar, [1]);
  constexpr u32 MODE = W == 128 ? 1 : W == 64 ? 2 : 3, E = W / 2;
  const u32 sA = smem_u32(smem), sB = sA + 8192, sC = sA + 16384, mb = smem_u32(bar);
  const int tid = threadIdx.x, lane = tid & 31, row = tid / 32 * 16 + lane / 4, col = (lane & 3) * 2;
  if (tid == 0) {
    mbar_init(mb, 1);
    mbar_init_fence();
    mbar_arrive_expect_tx(mb, 16384);
    for (u32 i = 0; i < 64 / E; i++) {
      tma_load_2d(sA + i * 64 * W, mapA, mb, i * E, 0);
      tma_load_2d(sB + i * 64 * W, mapB, mb, i * E, 0);
    }
  }
  bar_sync(1, 128);
  mbar_wait(mb, 0);
  float d[32];
  u32 a[4][4];
  if (RS)
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int i = 0; i < 4; i++) a[k][i] = *(const u32 *)(A + (row + (i & 1) * 8) * 64 + k * 16 + col + (i >> 1) * 8);
  wgmma_fence();
#pragma unroll
  for (u32 k = 0; k < 4; k++) {
    u32 at = k * 32 / W * 64 * W + k * 32 % W;
    u64 db = MN ? wgmma_desc(sB + k * 16 * W, 64 * W, 8 * W, MODE) : wgmma_desc(sB + at, 16, 8 * W, MODE);
    if (RS) wgmma_m64n64k16_rs<MN>(d, a[k], db, k > 0);
    else wgmma_m64n64k16<0, MN>(d, wgmma_desc(sA + at, 16, 8 * W, MODE), db, k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  float *C = (float *)(smem + 16384);
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float2 *to = (float2 *)(C + (row + h * 8) * 64 + j * 8 + col);
      *to = make_float2(d[j * 4 + h * 2], d[j * 4 + h * 2 + 1]);
    }
#ifndef BUG_STORE_FENCE
  fence_proxy_async();
#endif
  bar_sync(1, 128);
  if (tid == 0) {
    tma_store_2d(mapC, sC, 0, 0);
    bulk_commit();
    bulk_wait_read<0>();
  }
}
KERNEL void __launch_bounds__(128) var_128_k(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<128, 0, 0>(&a, &b, &c, A);
}
KERNEL void __launch_bounds__(128) var_64_k(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<64, 0, 0>(&a, &b, &c, A);
}
KERNEL void __launch_bounds__(128) var_32_k(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<32, 0, 0>(&a, &b, &c, A);
}
KERNEL void __launch_bounds__(128) var_128_mn(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<128, 1, 0>(&a, &b, &c, A);
}
KERNEL void __launch_bounds__(128) var_64_mn(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<64, 1, 0>(&a, &b, &c, A);
}
KERNEL void __launch_bounds__(128) var_32_mn(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<32, 1, 0>(&a, &b, &c, A);
}
KERNEL void __launch_bounds__(128) var_128_k_rs(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<128, 0, 1>(&a, &b, &c, A);
}
KERNEL void __launch_bounds__(128) var_64_mn_rs(
    GRID_CONSTANT TensorMap a, GRID_CONSTANT TensorMap b, GRID_CONSTANT TensorMap c, const bf16 *A) {
  body<64, 1, 1>(&a, &b, &c, A);
}
