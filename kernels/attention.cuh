// Shared by the attention kernels: tiles of one head in shared memory, and products whose left operand is a block of scores in registers.
//
// A tile holds tokens of one head as slabs [D / BK][rows][BK], each in the swizzled layout of `KMajor`. The same bytes serve both kinds of
// product: with tokens as M or N (q kᵀ), and with tokens as K (p v, through a transposing ldmatrix).
//
// A warp owns 16 tokens and loops over all others, COLS at a time. D is the head's size, padded with zeros.
#pragma once
#include "product.cuh"
#include "rows.cuh"

constexpr int STRIP = 16;  // tokens of a warp
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

#define NONE __uint_as_float(0xff800000u)  // less than any score

// Blocks per multiprocessor. In f32, and as the compiler builds for sm_100, two would not fit into the registers.
#if BF16 && !(__CUDA_ARCH__ >= 1000)
constexpr int BLOCKS = 2;
#else
constexpr int BLOCKS = 1;
#endif

template <int D> struct Tile {
  static constexpr int COLS = D <= 64 ? 64 : 64 / sizeof(T);  // tokens of a step: 64, or fewer where registers are short
  static constexpr int SLABS = D / BK, BYTES = COLS * D * sizeof(T);
};

// The work of a block: tokens first .. first + rows - 1 of one head of one image.
struct Block {
  int rows, first, head, image;

  // Blocks of one head are neighbours: they read the same tokens, which then come from the L2.
  MEMBER Block(int tokens, int heads, int rows) : rows(rows) {
    const int blocks = (tokens + rows - 1) / rows, pair = blockIdx.x / blocks;
    first = blockIdx.x % blocks * rows, head = pair % heads, image = pair / heads;
  }
};

// One head of one image [tokens, size] in qkv or y; its tokens lie `stride` values apart.
struct Head {
  const T *from;
  int stride, tokens, size;

  MEMBER Head(const T *rows, int parts, int part, const Block &b, int tokens, int heads, int size)
      : from(rows + (u64)b.image * tokens * parts * heads * size + (part * heads + b.head) * size), stride(parts * heads * size),
        tokens(tokens), size(size) {}

  // Copies tokens first .. first + count - 1 to a tile of `rows` tokens; zeros past the last token and past the head. WHOLE: the caller
  // knows that `size` is a multiple of VEC, so the slow path is not compiled.
  template <int D, bool WHOLE = false> MEMBER void load(u8 *tile, int rows, int first, int count) const {
    const int c = threadIdx.x & 3;
    for (int r = threadIdx.x / 4; r < count; r += blockDim.x / 4) {
      const T *row = from + (u64)(first + r) * stride;
#pragma unroll
      for (int s = 0; s < D / BK; s++) {
        const int col = s * BK + c * VEC;
        u8 *to = tile + s * rows * ROW + KMajor::chunk(r, c);
        if (WHOLE || size % VEC == 0) {
          const bool in = first + r < tokens && col < size;
          cp_async<16>(smem_u32(to), in ? row + col : from, in);
        } else {
#pragma unroll
          for (int e = 0; e < VEC; e++) ((T *)to)[e] = first + r < tokens && col + e < size ? row[col + e] : from_f32(0.f);
        }
      }
    }
  }
  // Copies the COLS tokens of a step, as many as exist, rounded up to 16.
  template <int D> MEMBER void load_step(u8 *tile, int step) const {
    constexpr int COLS = Tile<D>::COLS;
    load<D>(tile, COLS, step * COLS, min(COLS, (tokens - step * COLS + 15) / 16 * 16));
  }
};

// s = a bᵀ: the warp's 16 tokens of a tile of `rows` tokens, against the first 16 `pairs` tokens of the tile b.
template <int D> DEVICE void scores(float (&s)[1][Tile<D>::COLS / 8][4], const u8 *a, int rows, const u8 *b, int pairs) {
  clear(s);
#pragma unroll
  for (int i = 0; i < Tile<D>::SLABS; i++)
    multiply<KMajor, KMajor>(s, a + i * rows * ROW, b + i * Tile<D>::COLS * ROW, (threadIdx.x >> 5) * STRIP, 0, pairs);
}

// A 16 x 16 left operand in registers. In bf16 it is an A fragment of mma, in f32 the lane's share of two 16 x 8 accumulators.
struct Left {
#if BF16
  u32 x[4];
#else
  float x[8];
#endif
  MEMBER Left() {}
  // From the two 16 x 8 halves of a block of accumulators: their layout is that of the fragment, so no lane exchanges anything.
  MEMBER Left(const float (&l)[4], const float (&r)[4]) {
#if BF16
    x[0] = pack_bf16(l[0], l[1]), x[1] = pack_bf16(l[2], l[3]), x[2] = pack_bf16(r[0], r[1]), x[3] = pack_bf16(r[2], r[3]);
#else
#pragma unroll
    for (int e = 0; e < 4; e++) x[e] = l[e], x[4 + e] = r[e];
#endif
  }
};

// Sixteen tokens of a tile as an operand of mma. The part of the address that depends on the lane is computed once for all tokens and
// tiles. Computed per fragment it would cost as many instructions as the products.
struct Tokens16 {
#if BF16
  // Address of this lane's row and chunk 0 or 1. `along`: for a right operand summed over the head's values (q kᵀ). `across`: for one
  // summed over tokens (p v), and for a left operand. Chunks 2 and 3 differ from it in one bit.
  u32 along, across;
#else
  const u8 *rows;
#endif
  int offset;

  MEMBER Tokens16(const u8 *tile) : offset(0) {
#if BF16
    const int lane = threadIdx.x & 31;
    along = smem_u32(tile) + KMajor::chunk((lane & 7) + (lane >> 4 << 3), lane >> 3 & 1);
    across = smem_u32(tile) + KMajor::chunk(lane & 15, lane >> 4);
#else
    rows = tile;
#endif
  }
  // The tokens `bytes` further on in shared memory.
  MEMBER Tokens16 further(int bytes) const {
    Tokens16 other = *this;
    other.offset += bytes;
    return other;
  }
  // Moves on to the next sixteen tokens.
  MEMBER void next() {
#if BF16
    along += 16 * ROW, across += 16 * ROW;
#else
    rows += 16 * ROW;
#endif
  }
#if BF16
  // The address of values 16 k to 16 k + 15 of the head. The tile lies in slabs of `slab` bytes, each ROW bytes wide.
  MEMBER u32 at(u32 row, int slab, int k) const { return (k % 2 ? row ^ 32 : row) + offset + k / 2 * slab; }
#endif
};

#if BF16
// s += a bᵀ over values 16 k to 16 k + 15 of the head, for a fragment a; s is 16 x 16, in two halves.
DEVICE void score_16(float (&l)[4], float (&r)[4], const u32 (&a)[4], const Tokens16 &b, int slab, int k) {
  u32 y[4];
  ldmatrix_x4(y, b.at(b.along, slab, k));
  const u32 low[2] = {y[0], y[1]}, high[2] = {y[2], y[3]};
  mma_m16n8k16(l, a, low);
  mma_m16n8k16(r, a, high);
}
#endif

// acc += a b for the 16 tokens that the columns of `a` are; `slab`: bytes of a slab of b.
template <int SLABS> DEVICE void weigh_16(float (&acc)[SLABS][1][BK / 8][4], const Left &a, const Tokens16 &b, int slab) {
#if BF16
#pragma unroll
  for (int n = 0; n < SLABS * 2; n++) {
    u32 y[4];
    ldmatrix_x4_trans(y, b.at(b.across, slab, n));
    const u32 low[2] = {y[0], y[1]}, high[2] = {y[2], y[3]};
    mma_m16n8k16(acc[n / 2][0][n % 2 * 2], a.x, low);
    mma_m16n8k16(acc[n / 2][0][n % 2 * 2 + 1], a.x, high);
  }
#else
  const int lane = threadIdx.x & 31, q = (lane & 3) * 2;
#pragma unroll
  for (int j = 0; j < 2; j++)
#pragma unroll 1
    for (int from = 0; from < 4; from++)
#pragma unroll
      for (int k = 0; k < 2; k++) {
        float x[2];
#pragma unroll
        for (int h = 0; h < 2; h++) x[h] = __shfl_sync(0xffffffffu, a.x[j * 4 + h * 2 + k], (lane & 28) + from);
#pragma unroll
        for (int s = 0; s < SLABS; s++)
#pragma unroll
          for (int n = 0; n < BK / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const float y = *(const float *)(b.rows + b.offset + s * slab + KMajor::at(j * 8 + from * 2 + k, n * 8 + q + e));
#pragma unroll
              for (int h = 0; h < 2; h++) acc[s][0][n][h * 2 + e] = fmaf(x[h], y, acc[s][0][n][h * 2 + e]);
            }
      }
#endif
}

// acc += p b: a block of scores p in registers, and the tile b of the tokens that are p's columns.
template <int SLABS, int NI> DEVICE void weigh(float (&acc)[SLABS][1][BK / 8][4], const float (&p)[1][NI][4], const u8 *b, int pairs) {
  const Tokens16 tokens(b);
#pragma unroll
  for (int j = 0; j < NI / 2; j++)
    if (j < pairs) weigh_16(acc, Left(p[0][2 * j], p[0][2 * j + 1]), tokens.further(j * 16 * ROW), NI * 8 * ROW);
}

// Two neighbours of a row.
DEVICE void store_pair(float *to, float low, float high) { *(float2 *)to = make_float2(low, high); }
DEVICE void store_pair(bf16 *to, float low, float high) { *(u32 *)to = pack_bf16(low, high); }

template <int SLABS> DEVICE void clear(float (&acc)[SLABS][1][BK / 8][4]) {
#pragma unroll
  for (int s = 0; s < SLABS; s++) clear(acc[s]);
}

// Writes the warp's 16 rows, times `scale`, to tokens from `first` on. `to` is token 0 of the head. `slabs` [warps][16][...] f32 is scratch
// for the transposition of by_rows. WHOLE: as in `Head::load`.
template <bool WHOLE = false, int SLABS>
DEVICE void write_strip(const float (&acc)[SLABS][1][BK / 8][4], float scale, u8 *slabs, T *to, const Head &like, int first, int add) {
  const int warp = threadIdx.x >> 5;
  float *slab = (float *)slabs + warp * 16 * (BK + 8);
#pragma unroll
  for (int s = 0; s < SLABS; s++)
    by_rows(acc[s], slab, [&](int row, int col, float (&v)[VEC]) {
      row += first + warp * STRIP, col += s * BK;
      if (row >= like.tokens) return;
      T *at = to + (u64)row * like.stride + col;
#pragma unroll
      for (int e = 0; e < VEC; e++) v[e] *= scale;
      if (WHOLE || like.size % VEC == 0) {
        if (col < like.size) store_gradient(at, v, add);
      } else {
#pragma unroll
        for (int e = 0; e < VEC; e++)
          if (col + e < like.size) at[e] = from_f32(add ? to_f32(at[e]) + v[e] : v[e]);
      }
    });
}
