// The product of two plain matrices on Hopper: y [rows, outputs] = x [rows, depth] w [outputs, depth]^T, what follows it included.
//
// A block stays on its multiprocessor and makes one tile of 128 x COLS after another. Its first warpgroup fetches: one thread starts two
// copies by TMA for each step of 64 values of K, as many steps ahead as there are slots. The other two multiply, 64 rows each, and write
// their part of the result while the slots fill with the next tile. No thread computes an address of an operand.
//
// A slot has two mbarriers. `full` ends a phase when both boxes are there: one arrival, which announces the bytes. `empty` ends one when
// all eight multiplying warps have seen their last wgmma on the slot end. Both sides count slots and phases over all tiles of the block.
#pragma once
#include "product_hopper.cuh"
#include "conv.cuh"

template <int COLS> struct Wide {
  static constexpr int NI = COLS / 8, STAGES = COLS == 256 ? 4 : 6;
  static constexpr int BYTES = (128 + COLS) * ROW;  // of a slot: 128 rows of x, COLS rows of w
  static constexpr int SLAB = 16 * 256;             // of a multiplying warp, for its epilogue: 16 rows of 128 values of bf16
  static constexpr int BARRIERS = STAGES * BYTES + 8 * SLAB;
};

// The slot of the next step; the parity of its phase turns with every round.
template <int STAGES> struct Ring {
  int slot = 0;
  u32 parity = 0;
  MEMBER void next() {
    slot++;
    if (slot == STAGES) slot = 0, parity ^= 1;
  }
};

// What the result is and what is done to it before it is written.
struct LinearEpilogue {
  T *y;                // [rows, outputs]
  T *pre_activation;   // like y: what the activation is given
  const float *shift;  // [outputs] or null
  const T *more;       // like y: a residual, or y itself where it is added to
  int rows, outputs;
};

// Where chunk c, of 16 bytes, of a row of a slab lies: neighbouring rows begin in other banks.
DEVICE u32 in_slab(int row, int c) { return row * 256 + ((c ^ (row & 7)) << 4); }

// Chunks of 16 bytes of a slab's rows, two rows at a time: `each(chunk of the slab, place in y, whether that exists)`.
template <class Each> DEVICE void slab_rows(u8 *slab, int lane, const LinearEpilogue &out, int row, int col, Each each) {
  const int c = lane & 15, left = col + c * 8 < out.outputs ? out.rows - row - (lane >> 4) : 0;
  u64 at = (u64)(row + (lane >> 4)) * out.outputs + col + c * 8;
#pragma unroll
  for (int r = 0; r < 16; r += 2) {
    each(slab + in_slab(r + (lane >> 4), c), at, r < left);
    at += 2 * (u64)out.outputs;
  }
}

// The number of the lane, anew by a shuffle: places made of it would else be kept in registers, beside the accumulators, from one use to the next.
DEVICE int lane_anew() { return __shfl_sync(0xffffffffu, (int)threadIdx.x & 31, (int)threadIdx.x & 31); }

// Starts to copy 16 rows of 128 values of `more` to the slab, zeros where there are none.
DEVICE void fetch_more(u8 *slab, const LinearEpilogue &out, int row, int col) {
  slab_rows(slab, lane_anew(), out, row, col, [&](u8 *chunk, u64 at, bool in) { cp_async<16>(smem_u32(chunk), out.more + at, in); });
  cp_async_commit();
}

// Writes 16 rows of 128 values, of which value(j, e) is element e of a lane's piece j of 16 x 8, through the slab.
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

// What happens to a warp's 16 rows, from `row` and `col` on, before they are written: the shift, what is added, the activation. As `epilogue`
// in conv.cuh, to the same bits.
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

// Eight, or for wide tiles sixteen tiles of rows: as many rows of x as of w are fetched for the tiles that are made at a time.
template <int COLS> DEVICE void place_of(u32 at, const LinearEpilogue &out, int &tile, int &n0) {
  place_of_tile<128, COLS, COLS / 16>(at, out.rows, out.outputs, tile, n0);
}

// All of the kernel: 384 threads, and shared memory for Wide<COLS>. Boxes of x are 128 rows, those of w COLS, of 64 values.
template <int COLS, int ACTIVATION, bool MORE, bool KEEP>
DEVICE void product_tma(const TensorMap &x, const TensorMap &w, const LinearEpilogue &out, int depth) {
  typedef Wide<COLS> S;
  SHARED_DYN(smem);
  const u32 slots = smem_u32(smem), full = slots + S::BARRIERS, empty = full + 8 * S::STAGES;
  const int steps = (depth + BK - 1) / BK;
  const u32 tiles = (out.rows + 127) / 128 * ((out.outputs + COLS - 1) / COLS);
  // The same in all lanes, which the compiler sees by the shuffle: descriptors are uniform registers.
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
  const u32 half = (warp / 4 - 1) * 64 * ROW;  // where the warpgroup's rows of x lie in a slot
  const bool speaks = (threadIdx.x & 31) == 0;
  u8 *slab = smem + S::STAGES * S::BYTES + (warp - 4) * S::SLAB;
  float acc[S::NI][4];
  for (u32 at = blockIdx.x; at < tiles; at += gridDim.x) {
    int tile, n0;
    place_of<COLS>(at, out, tile, n0);
    const int row = tile * 128 + (warp - 4) * 16;
    if (MORE && row < out.rows) fetch_more(slab, out, row, n0);
    u32 last = 0;  // `empty` of the step before
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
