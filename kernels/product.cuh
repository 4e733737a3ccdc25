// The tiled matrix product (GEMM) that convolutions, linear layers and the contrastive loss share: tiles in shared memory, a pipeline
// of asynchronous copies, mma.sync on bf16. In f32, which exists to verify the bf16 kernels, it uses plain multiply-adds.
//
// A block multiplies a tile A [M, K] by a tile B [N, K] in steps of BK. A tile is stored K-major (each row of M or N is ROW bytes of
// K) or MN-major (each row of K is a run of M or N). The swizzle XORs a chunk's number (16 bytes) with its row: the eight rows that one
// ldmatrix reads then lie in different banks, so no access has a bank conflict.
//
// A file that defines HOPPER gets the layout that wgmma reads (hopper.cuh): rows of 128 bytes with the 128-byte swizzle.
// docs/kernels.md walks through all of it with a drawing.
#pragma once
#ifndef HOPPER
#define HOPPER 0
#endif
#if HOPPER
#include "hopper.cuh"
#else
#include "prelude.cuh"
#endif

#define MEMBER __device__ __forceinline__

constexpr int ROW = HOPPER ? 128 : 64;  // bytes of a row of a K-major tile
constexpr int BK = ROW / sizeof(T);     // K of one step: 32 in bf16, 16 in f32, 64 on Hopper
constexpr int CHUNKS = ROW / 16;        // 16-byte chunks of a row

// K-major tile [rows of M or N][BK].
struct KMajor {
  static MEMBER u32 chunk(int row, int c) { return row * ROW + ((c ^ (HOPPER ? row & 7 : row >> 1 & 3)) << 4); }
  static MEMBER u32 at(int row, int k) { return chunk(row, k / VEC) + k % VEC * sizeof(T); }
#if HOPPER
  // wgmma descriptor of the rows from `first` on, K from k to k + 15.
  static constexpr int MN_MAJOR = 0;
  static MEMBER u64 operand(u32 tile, int first, int k) { return wgmma_desc(tile + first * ROW + k * 2, 0, 8 * ROW, 1); }
#elif BF16
  // The A fragment [16 rows from m, 16 of K from k].
  static MEMBER void load_a(u32 (&a)[4], u32 tile, int m, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4(a, tile + chunk(m + (lane & 15), k / 8 + (lane >> 4)));
  }
  // Two B fragments: rows n to n + 7 and n + 8 to n + 15.
  static MEMBER void load_b(u32 (&b)[4], u32 tile, int n, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4(b, tile + chunk(n + (lane & 7) + (lane >> 4 << 3), k / 8 + (lane >> 3 & 1)));
  }
#endif
};

// MN-major tile [BK][COLS of M or N]; on Hopper [COLS / 64][BK][64], because the 128-byte swizzle spans 64 bf16.
template <int COLS> struct MnMajor {
  static_assert(COLS * sizeof(T) >= 128, "a row has at least the eight chunks that are exchanged");
  static MEMBER u32 chunk(int k, int c) {
    return HOPPER ? (c / 8 * BK + k) * 128 + ((c % 8 ^ (k & 7)) << 4) : k * COLS * sizeof(T) + ((c ^ (k & 7)) << 4);
  }
  // chunk(k + by, c) for a `by` known at compile time. The swizzle repeats every eight rows, so a multiple of eight costs one addition.
  static MEMBER u32 below(int k, int c, int by) { return by % 8 ? chunk(k + by, c) : chunk(k, c) + chunk(by, 0); }
  static MEMBER u32 at(int col, int k) { return chunk(k, col / VEC) + col % VEC * sizeof(T); }
#if HOPPER
  static constexpr int MN_MAJOR = 1;
  static MEMBER u64 operand(u32 tile, int first, int k) { return wgmma_desc(tile + (first / 64 * BK + k) * 128, BK * 128, 8 * 128, 1); }
#elif BF16
  static MEMBER void load_a(u32 (&a)[4], u32 tile, int m, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4_trans(a, tile + chunk(k + (lane & 7) + (lane >> 4 << 3), m / 8 + (lane >> 3 & 1)));
  }
  static MEMBER void load_b(u32 (&b)[4], u32 tile, int n, int k) {
    const int lane = threadIdx.x & 31;
    ldmatrix_x4_trans(b, tile + chunk(k + (lane & 15), n / 8 + (lane >> 4)));
  }
#endif
};

// acc += A B^T for one step of K. The warp owns rows m0 .. m0 + 16 MI and columns n0 .. n0 + 8 NI of the block's tile. acc[i][j] is the
// lane's share of a 16 x 8 piece: (g, q) (g, q + 1) (g + 8, q) (g + 8, q + 1) with g = lane / 4, q = lane % 4 * 2. Only the first
// 16 `pairs` columns are computed, so that a ragged tile costs no more than it holds.
template <class A, class B, int MI, int NI>
DEVICE void multiply(float (&acc)[MI][NI][4], const u8 *a, const u8 *b, int m0, int n0, int pairs = NI / 2) {
#if BF16
  const u32 tile_a = smem_u32(a), tile_b = smem_u32(b);
#pragma unroll
  for (int k = 0; k < BK; k += 16) {
    u32 x[MI][4], y[NI / 2][4];
#pragma unroll
    for (int i = 0; i < MI; i++) A::load_a(x[i], tile_a, m0 + i * 16, k);
#pragma unroll
    for (int j = 0; j < NI / 2; j++)
      if (j < pairs) B::load_b(y[j], tile_b, n0 + j * 16, k);
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int j = 0; j < NI; j++)
        if (j / 2 < pairs) {
          const u32 pair[2] = {y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]};
          mma_m16n8k16(acc[i][j], x[i], pair);
        }
  }
#else
  const int lane = threadIdx.x & 31, g = lane >> 2, q = (lane & 3) * 2;
#pragma unroll 1
  for (int k = 0; k < BK; k++) {
    float x[MI][2];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) x[i][h] = *(const float *)(a + A::at(m0 + i * 16 + g + h * 8, k));
#pragma unroll
    for (int j = 0; j < NI; j++)
      if (j / 2 < pairs)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const float y = *(const float *)(b + B::at(n0 + j * 8 + q + e, k));
#pragma unroll
          for (int i = 0; i < MI; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) acc[i][j][h * 2 + e] = fmaf(x[i][h], y, acc[i][j][h * 2 + e]);
        }
  }
#endif
}

template <int MI, int NI> DEVICE void clear(float (&acc)[MI][NI][4]) {
#pragma unroll
  for (int i = 0; i < MI; i++)
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) acc[i][j][e] = 0.f;
}

// A software pipeline over STAGES slots of BYTES each in shared memory. Each step waits for its slot, calls `begin(slot)`, starts the
// copies of the step AHEAD steps later with `load(slot, step)`, and calls `use(slot)`. The load stands between the two so that
// asynchronous products (wgmma), started by `begin`, run while threads compute addresses.
//
// One barrier per step is enough: a thread past it has finished step s - 1, so the slot of step s - (STAGES - AHEAD) may be overwritten.
// STAGES - AHEAD is 1 where `use` finishes its products, 2 where it leaves one step of them in flight. No copy is in flight at the end.
template <int STAGES, int BYTES, int AHEAD, class Load, class Begin, class Use>
DEVICE void pipeline(u8 *slots, int steps, Load load, Begin begin, Use use) {
#pragma unroll
  for (int s = 0; s < AHEAD; s++) {
    if (s < steps) load(slots + s * BYTES, s);
    cp_async_commit();
  }
  int filled = AHEAD, used = 0;
  for (int s = 0; s < steps; s++) {
    cp_async_wait<AHEAD - 1>();
#if HOPPER
    fence_proxy_async();
#endif
    __syncthreads();
    begin(slots + used * BYTES);
    if (s + AHEAD < steps) load(slots + filled * BYTES, s + AHEAD);
    cp_async_commit();
    use(slots + used * BYTES);
    filled = filled + 1 == STAGES ? 0 : filled + 1;
    used = used + 1 == STAGES ? 0 : used + 1;
  }
  cp_async_wait<0>();
  __syncthreads();
}
template <int STAGES, int BYTES, class Load, class Use> DEVICE void pipeline(u8 *slots, int steps, Load load, Use use) {
  pipeline<STAGES, BYTES, STAGES - 1>(slots, steps, load, [](const u8 *) {}, use);
}

// Copies a K-major tile [ROWS][BK] from a matrix [rows, depth]. Rows and depth beyond the matrix become zeros.
template <int ROWS, int THREADS> struct Rows {
  static constexpr int EACH = ROWS * CHUNKS / THREADS;  // 16-byte chunks per thread and step
  static constexpr int APART = THREADS / CHUNKS;        // rows between two chunks of a thread
  const T *from;  // [rows, depth]
  int rows, depth, first;

  // Asynchronous, 16 bytes at a time: depth is a multiple of VEC.
  MEMBER void load(u8 *tile, int step) const {
    const int row = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS, k = step * BK + c * VEC;
    const u32 to = smem_u32(tile);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int r = row + i * APART;
      cp_async<16>(to + KMajor::chunk(r, c), from + (u64)(first + r) * depth + k, first + r < rows && k < depth);
    }
  }
  // One value at a time, for a depth whose rows are not aligned to 16 bytes.
  MEMBER void load_any(u8 *tile, int step) const {
    for (int e = threadIdx.x; e < ROWS * BK; e += THREADS) {
      const int r = e / BK, k = e % BK;
      const bool in = first + r < rows && step * BK + k < depth;
      *(T *)(tile + KMajor::at(r, k)) = in ? from[(u64)(first + r) * depth + step * BK + k] : from_f32(0.f);
    }
  }
};

// Reads VEC neighbours from shared memory. A 16-byte read is served eight lanes at a time. In bf16 a lane reads eight floats, so lanes
// 4 to 7 of each eight read their second half first: the eight lanes then touch different banks.
DEVICE void read_row(float (&v)[4], const float *from) { load16(from, v); }
DEVICE void read_row(float (&v)[8], const float *from) {
  const bool turned = threadIdx.x & 4;
  float first[4], second[4];
  load16(from + (turned ? 4 : 0), first);
  load16(from + (turned ? 0 : 4), second);
#pragma unroll
  for (int e = 0; e < 4; e++) v[e] = turned ? second[e] : first[e], v[e + 4] = turned ? first[e] : second[e];
}

// Transposes a warp's accumulators through shared memory, so that each lane can write 16 bytes of one row: in registers a lane holds
// only pairs. A slab is 16 rows of the warp's tile. `begin(i)` runs before slab i; `store(i, r, v)` gets VEC neighbours of its row
// r (32 / LANES) + lane / LANES, where LANES = 8 NI / VEC lanes share a row. `slab` [16][8 NI + 8] f32 belongs to the warp; the eight
// extra columns shift each row to other banks.
template <int MI, int NI, class Begin, class Store> DEVICE void by_rows(const float (&acc)[MI][NI][4], float *slab, Begin begin, Store store) {
  constexpr int LD = NI * 8 + 8, LANES = NI * 8 / VEC;
  const int lane = threadIdx.x & 31, g = lane >> 2, q = (lane & 3) * 2;
#pragma unroll
  for (int i = 0; i < MI; i++) {
    begin(i);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) *(float2 *)(slab + (g + h * 8) * LD + j * 8 + q) = make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 16 * LANES / 32; r++) {
      float v[VEC];
      read_row(v, slab + (r * (32 / LANES) + lane / LANES) * LD + lane % LANES * VEC);
      store(i, r, v);
    }
  }
}
// The same with `store(row, col, v)`, relative to the warp's first row and column.
template <int MI, int NI, class Store> DEVICE void by_rows(const float (&acc)[MI][NI][4], float *slab, Store store) {
  constexpr int LANES = NI * 8 / VEC;
  const int lane = threadIdx.x & 31;
  by_rows(acc, slab, [](int) {}, [&](int i, int r, float(&v)[VEC]) { store(i * 16 + r * (32 / LANES) + lane / LANES, lane % LANES * VEC, v); });
}
