// The product on Hopper: the tiles, copies and epilogue of product.cuh around wgmma instead of mma.sync.
//
// A block of two warpgroups makes 128 x 128, each 64 rows, and two blocks share a multiprocessor: while one waits at its barrier, begins or
// writes its result, the other's products keep the tensor cores busy. Or it makes 128 x 256 alone there, which needs fewer bytes of shared
// memory and of the L2 per product. All threads copy, with the same gathers as the portable kernels. TMA
// would spare them the addresses, about 100 of the 160 instructions of a step, and takes a map from the driver for every tensor.
#pragma once
#define HOPPER 1
#include "product.cuh"

// Adds the products of steps 0 .. steps - 1 to acc, of which a warpgroup makes 64 rows of 8 NI columns. `load(slot, step)` starts to copy both
// tiles, A with 128 rows first; the copies of a later step begin while the tensor cores work. With UNDER_WAY 1 a step's products are waited for
// in the next step: a block that has a multiprocessor to itself leaves the tensor cores no gap at its barrier, for a slot more.
template <class A, class B, int STAGES, int UNDER_WAY, int NI, class Load>
DEVICE void multiply_warpgroups(float (&acc)[1][NI][4], u8 *slots, int steps, Load load) {
  // The same in all lanes, which the compiler sees by the shuffle: descriptors are uniform registers.
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
