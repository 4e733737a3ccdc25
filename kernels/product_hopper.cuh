// The product on Hopper: the tiles, copies and epilogue of product.cuh around wgmma instead of mma.sync.
//
// A block has two warpgroups, each with 64 of the tile's 128 rows. Tiles of 128 x 128 run two blocks on a multiprocessor: while one waits
// at a barrier or writes its result, the other keeps the tensor cores busy. A tile of 128 x 256 has the multiprocessor to itself and moves
// fewer bytes of shared memory and L2 per FLOP.
//
// All threads copy, with the gathers of the portable kernels. TMA would save the addresses, about 100 of the 160 instructions that a
// warp issues per step, but takes a tensor map from the driver for every tensor (product_tma.cuh does so for linear layers).
#pragma once
#define HOPPER 1
#include "product.cuh"

// acc += A B^T over all steps; acc is the warpgroup's [64 rows, 8 NI columns]. `load(slot, step)` starts the copies of both tiles: A, 128
// rows, then B, 8 NI rows. They run while the tensor cores work. UNDER_WAY 1 waits for a step's products only in the next step, at the
// price of one slot: a block alone on its multiprocessor then leaves the tensor cores no gap at its barrier.
template <class A, class B, int STAGES, int UNDER_WAY, int NI, class Load>
DEVICE void multiply_warpgroups(float (&acc)[1][NI][4], u8 *slots, int steps, Load load) {
  // The shuffle tells the compiler that all lanes hold the same value, so descriptors stay in uniform registers.
  const int rows = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0) * 64;
  auto begin = [&](const u8 *slot) {
    const u32 a = smem_u32(slot), b = a + 128 * ROW;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < BK; k += 16) wgmma_k16<A::MN_MAJOR, B::MN_MAJOR>(acc[0], A::operand(a, rows, k), B::operand(b, 0, k));
    wgmma_commit();
  };
  pipeline<STAGES, (128 + NI * 8) * ROW, STAGES - 1 - UNDER_WAY>(slots, steps, load, begin, [](const u8 *) { wgmma_wait<UNDER_WAY>(); });
  if (UNDER_WAY) {
    wgmma_wait<0>();
    __syncthreads();
  }
}
