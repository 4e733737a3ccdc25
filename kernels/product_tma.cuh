// A persistent, warp-specialised matrix product on Hopper with its epilogue: y [rows, outputs] = x [rows, depth] w [outputs, depth]^T.
//
// A block stays on its multiprocessor and computes one tile of 128 x COLS after another. The first warpgroup is the producer: one
// thread starts two TMA copies per step of 64 values of K, as many steps ahead as there are slots. The two other warpgroups are the
// consumers: they multiply, 64 rows each, and write their results while the slots fill for the next tile. No thread computes an
// operand's address.
//
// A slot has two mbarriers. `full` completes a phase when both boxes have arrived: one arrival announces their bytes. `empty` completes
// one when all eight consumer warps have finished their wgmma on the slot. Both sides count slots and phases across all tiles of the block.
#pragma once
#include "product_hopper.cuh"
#include "conv.cuh"

template <int COLS> struct Wide {
  static constexpr int NI = COLS / 8, STAGES = COLS == 256 ? 4 : 6;
  static constexpr int BYTES = (128 + COLS) * ROW;  // of a slot: 128 rows of x, COLS rows of w
  static constexpr int SLAB = 16 * 256;             // bytes of a consumer warp's epilogue slab [16][128] bf16
  static constexpr int BARRIERS = STAGES * BYTES + 8 * SLAB;  // offset of the mbarriers: full [STAGES], empty [STAGES] u64
};

// The slot of the next step, and the parity of its phase, which flips each time the ring wraps.
template <int STAGES> struct Ring {
  int slot = 0;
  u32 parity = 0;
  MEMBER void next() {
    slot++;
    if (slot == STAGES) slot = 0, parity ^= 1;
  }
};

// y = activation(product + shift + more). Which parts are present is compiled into the kernel.
struct LinearEpilogue {
  T *y;                // [rows, outputs]
  T *pre_activation;   // like y: the activation's argument, which its gradient needs
  const float *shift;  // [outputs] or null: a bias
  const T *more;       // like y: a residual, or y itself to accumulate into it
  int rows, outputs;
};

// Offset of 16-byte chunk c of a slab's row, swizzled: eight neighbouring rows lie in different banks.
DEVICE u32 in_slab(int row, int c) { return row * 256 + ((c ^ (row & 7)) << 4); }

// Visits a slab two rows at a time, 16 bytes per lane: `each(chunk in the slab, element of y, whether that element exists)`.
template <class Each> DEVICE void slab_rows(u8 *slab, int lane, const LinearEpilogue &out, int row, int col, Each each) {
  const int c = lane & 15, left = col + c * 8 < out.outputs ? out.rows - row - (lane >> 4) : 0;
  u64 at = (u64)(row + (lane >> 4)) * out.outputs + col + c * 8;
#pragma unroll
  for (int r = 0; r < 16; r += 2) {
    each(slab + in_slab(r + (lane >> 4), c), at, r < left);
    at += 2 * (u64)out.outputs;
  }
}

// The lane's number, through a shuffle. The compiler cannot tell that it is the same each time, so it recomputes addresses instead of
// keeping them in registers beside the accumulators.
DEVICE int lane_anew() { return __shfl_sync(0xffffffffu, (int)threadIdx.x & 31, (int)threadIdx.x & 31); }

// Starts to copy `more` [16 rows, 128 columns] to the slab; zeros beyond the result.
DEVICE void fetch_more(u8 *slab, const LinearEpilogue &out, int row, int col) {
  slab_rows(slab, lane_anew(), out, row, col, [&](u8 *chunk, u64 at, bool in) { cp_async<16>(smem_u32(chunk), out.more + at, in); });
  cp_async_commit();
}

// Writes [16 rows, 128 columns] through the slab. value(j, e) is element e of the lane's share of the 16 x 8 piece j.
template <class Value> DEVICE void write_rows(u8 *slab, T *to, const LinearEpilogue &out, int row, int col, Value value) {
  const int lane = lane_anew();
  __syncwarp();
#pragma unroll
  for (int j = 0; j < 16; j += 2) {
    const u32 pieces[4] = {pack_bf16(value(j, 0), value(j, 1)), pack_bf16(value(j, 2), value(j, 3)),
        pack_bf16(value(j + 1, 0), value(j + 1, 1)), pack_bf16(value(j + 1, 2), value(j + 1, 3))};
    stmatrix_x4(slab + in_slab(lane & 15, j + (lane >> 4)), pieces);
  }
  __syncwarp();
  slab_rows(slab, lane, out, row, col, [&](u8 *chunk, u64 at, bool in) {
    if (in) *(uint4 *)(to + at) = *(const uint4 *)chunk;
  });
}

// The epilogue of a warp's 16 rows, from `row` and `col` on. Gives the bits of `epilogue` in conv.cuh.
template <int NI, int ACTIVATION, bool MORE, bool KEEP>
DEVICE void linear_epilogue(float (&acc)[NI][4], u8 *slab, const LinearEpilogue &out, int row, int col) {
  const int lane = lane_anew(), q = (lane & 3) * 2;
#pragma unroll
  for (int first = 0; first < NI; first += 16) {
    const int left = col + first * 8;
    if (row >= out.rows || left >= out.outputs) return;
    u32 more[8][4];
    if (MORE) {
      if (first > 0) {
        __syncwarp();
        fetch_more(slab, out, row, left);
      }
      cp_async_wait<0>();
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 8; j++) ldmatrix_x4(more[j], smem_u32(slab + in_slab(lane & 15, j * 2 + (lane >> 4))));
    }
#pragma unroll
    for (int j = 0; j < 16; j++) {
      const int c = left + j * 8 + q;
      const float2 shift = out.shift && c < out.outputs ? *(const float2 *)(out.shift + c) : make_float2(0.f, 0.f);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float &v = acc[first + j][e];
        v += e % 2 ? shift.y : shift.x;
        if (MORE) v += e % 2 ? high_bf16(more[j / 2][j % 2 * 2 + e / 2]) : low_bf16(more[j / 2][j % 2 * 2 + e / 2]);
        if (ACTIVATION == RELU) v = v < 0.f ? 0.f : v;
      }
    }
    if (KEEP) write_rows(slab, out.pre_activation, out, row, left, [&](int j, int e) { return acc[first + j][e]; });
    write_rows(slab, out.y, out, row, left, [&](int j, int e) { return ACTIVATION == GELU ? gelu(acc[first + j][e]) : acc[first + j][e]; });
  }
}

// Groups of COLS / 16 row tiles (8 or 16): tiles in flight then share about as many rows of x as of w.
template <int COLS> DEVICE void place_of(u32 at, const LinearEpilogue &out, int &tile, int &n0) {
  place_of_tile<128, COLS, COLS / 16>(at, out.rows, out.outputs, tile, n0);
}

// The whole kernel: 384 threads, shared memory as Wide<COLS> lays it out. TMA boxes are [128, 64] of x and [COLS, 64] of w.
template <int COLS, int ACTIVATION, bool MORE, bool KEEP>
DEVICE void product_tma(const TensorMap &x, const TensorMap &w, const LinearEpilogue &out, int depth) {
  typedef Wide<COLS> S;
  SHARED_DYN(smem);
  const u32 slots = smem_u32(smem), full = slots + S::BARRIERS, empty = full + 8 * S::STAGES;
  const int steps = (depth + BK - 1) / BK;
  const u32 tiles = (out.rows + 127) / 128 * ((out.outputs + COLS - 1) / COLS);
  // The shuffle tells the compiler that all lanes hold the same value, so descriptors stay in uniform registers.
  const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0);
  if (threadIdx.x == 0) {
    tma_prefetch_desc(&x);
    tma_prefetch_desc(&w);
    for (int s = 0; s < S::STAGES; s++) {
      mbar_init(full + 8 * s, 1);
      mbar_init(empty + 8 * s, 8);
    }
    mbar_init_fence();
  }
  __syncthreads();

  Ring<S::STAGES> ring;
  if (warp < 4) {
    setmaxnreg_dec<24>();
    if (threadIdx.x > 0) return;
    for (u32 at = blockIdx.x; at < tiles; at += gridDim.x) {
      int tile, n0;
      place_of<COLS>(at, out, tile, n0);
      for (int step = 0; step < steps; step++) {
        const u32 slot = slots + ring.slot * S::BYTES, bar = full + 8 * ring.slot;
        mbar_wait(empty + 8 * ring.slot, ring.parity ^ 1);
        mbar_arrive_expect_tx(bar, S::BYTES);
        tma_load_2d(slot, &x, bar, step * BK, tile * 128);
        tma_load_2d(slot + 128 * ROW, &w, bar, step * BK, n0);
        ring.next();
      }
    }
    return;
  }

  setmaxnreg_inc<240>();
  const u32 half = (warp / 4 - 1) * 64 * ROW;  // offset of the warpgroup's rows of x in a slot
  const bool speaks = (threadIdx.x & 31) == 0;
  u8 *slab = smem + S::STAGES * S::BYTES + (warp - 4) * S::SLAB;
  float acc[S::NI][4];
  for (u32 at = blockIdx.x; at < tiles; at += gridDim.x) {
    int tile, n0;
    place_of<COLS>(at, out, tile, n0);
    const int row = tile * 128 + (warp - 4) * 16;
    if (MORE && row < out.rows) fetch_more(slab, out, row, n0);
    u32 last = 0;  // `empty` mbarrier of the previous step's slot, freed once its wgmma is done
    for (int step = 0; step < steps; step++) {
      const u32 a = slots + ring.slot * S::BYTES + half, b = slots + ring.slot * S::BYTES + 128 * ROW;
      mbar_wait(full + 8 * ring.slot, ring.parity);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < BK; k += 16) wgmma_k16<0, 0>(acc, KMajor::operand(a, 0, k), KMajor::operand(b, 0, k), step > 0 || k > 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (speaks && step > 0) mbar_arrive(last);
      last = empty + 8 * ring.slot;
      ring.next();
    }
    wgmma_wait<0>();
    if (speaks) mbar_arrive(last);
    linear_epilogue<S::NI, ACTIVATION, MORE, KEEP>(acc, slab, out, row, n0);
    __syncwarp();
  }
}
