// The product on Hopper: the tiles, copies and way out of product.cuh around wgmma instead of mma.sync.
//
// A block of two warpgroups makes 128 x 128, each 64 rows, and two blocks share a multiprocessor: while one waits at its barrier, begins or
// writes its result, the other's products keep the tensor cores busy. All threads copy, with the same gathers as the portable kernels. TMA
// would spare them the addresses, about 100 of the 160 instructions of a step, and takes a map from the driver for every tensor.
#pragma once
#include "hopper.cuh"
#include "product.cuh"

#if BF16

// A fragment of A or B for wgmma: rows `first` and on of a tile, values k to k + 15 of K.
template <class Tile> struct Operand;
template <> struct Operand<Along> {
  static constexpr int ACROSS = 0;
  static MEMBER u64 at(u32 tile, int first, int k) { return wgmma_desc(tile + first * ROW + k * 2, 0, 8 * ROW, 1); }
};
template <int COLS> struct Operand<Across<COLS>> {
  static constexpr int ACROSS = 1;
  static MEMBER u64 at(u32 tile, int first, int k) { return wgmma_desc(tile + (first / 64 * BK + k) * 128, BK * 128, 8 * 128, 1); }
};

// Adds the products of steps 0 .. steps - 1 to acc, of which a warpgroup makes 64 rows. `load(slot, step)` starts to copy both tiles, A first,
// each 128 rows or columns. One barrier per step: past it every thread's copies for the step have arrived and nobody multiplies what was
// in the slot before, which is filled again while the tensor cores work. Ends with nothing under way.
template <class A, class B, int STAGES, class Load> DEVICE void multiply_warpgroups(float (&acc)[1][16][4], u8 *slots, int steps, Load load) {
  constexpr int HALF = 128 * ROW, BYTES = 2 * HALF;
  // The same in all lanes, which the compiler sees by the shuffle: descriptors are uniform registers.
  const int rows = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0) * 64;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) load(slots + s * BYTES, s);
    cp_async_commit();
  }
  int filled = STAGES - 1, used = 0;
  for (int s = 0; s < steps; s++) {
    cp_async_wait<STAGES - 2>();
    fence_proxy_async();
    __syncthreads();
    const u32 a = smem_u32(slots + used * BYTES), b = a + HALF;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < BK; k += 16)
      wgmma_m64n128k16<Operand<A>::ACROSS, Operand<B>::ACROSS>(acc[0], Operand<A>::at(a, rows, k), Operand<B>::at(b, 0, k));
    wgmma_commit();
    if (s + STAGES - 1 < steps) load(slots + filled * BYTES, s + STAGES - 1);
    cp_async_commit();
    wgmma_wait<0>();
    filled = filled + 1 == STAGES ? 0 : filled + 1;
    used = used + 1 == STAGES ? 0 : used + 1;
  }
  cp_async_wait<0>();
  __syncthreads();
}

#endif
