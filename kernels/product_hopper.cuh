// The product on Hopper: the tiles, copies and way out of product.cuh around wgmma instead of mma.sync.
//
// A block of two warpgroups makes 128 x 128, each 64 rows, and two blocks share a multiprocessor: while one waits at its barrier, begins or
// writes its result, the other's products keep the tensor cores busy. All threads copy, with the same gathers as the portable kernels. TMA
// would spare them the addresses, about 100 of the 160 instructions of a step, and takes a map from the driver for every tensor.
#pragma once
#define HOPPER 1
#include "product.cuh"

// Adds the products of steps 0 .. steps - 1 to acc, of which a warpgroup makes 64 rows. `load(slot, step)` starts to copy both tiles, A first,
// each 128 rows or columns; the next step's copies begin while the tensor cores work.
template <class A, class B, int STAGES, class Load> DEVICE void multiply_warpgroups(float (&acc)[1][16][4], u8 *slots, int steps, Load load) {
  constexpr int HALF = 128 * ROW;
  // The same in all lanes, which the compiler sees by the shuffle: descriptors are uniform registers.
  const int rows = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0) * 64;
  auto begin = [&](const u8 *slot) {
    const u32 a = smem_u32(slot), b = a + HALF;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < BK; k += 16) wgmma_k16<A::ACROSS, B::ACROSS>(acc[0], A::operand(a, rows, k), B::operand(b, 0, k));
    wgmma_commit();
  };
  pipeline<STAGES, 2 * HALF>(slots, steps, load, begin, [](const u8 *) { wgmma_wait<0>(); });
}
