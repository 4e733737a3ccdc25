// What attention's kernels share: tiles of one head in shared memory, and products whose left side is a block of scores in registers.
//
// A tile holds tokens of one head as slabs of [rows][ROW bytes], BK values of the head each, in the layout of `Along`. The same bytes are
// an operand of both kinds of product: with its tokens as M or N (scores), or as K (what is summed over tokens).
//
// A warp has 16 tokens of its own and meets all others COLS at a time. D is the size of a head, filled up with zeros.
#pragma once
#include "product.cuh"
#include "rows.cuh"

constexpr int STRIP = 16;  // tokens of a warp
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

template <int D> struct Tile {
  static constexpr int COLS = D <= 64 ? 64 : 64 / sizeof(T);  // tokens of a step: 64, or what registers allow
  static constexpr int SLABS = D / BK, BYTES = COLS * D * sizeof(T);
};

// What a block is for: the same head of one image, tokens first .. first + rows - 1.
struct Block {
  int rows, first, head, image;

  // Blocks of one head beside each other: they read the same tokens.
  MEMBER Block(int tokens, int heads) {
    rows = blockDim.x / 32 * STRIP;
    const int blocks = (tokens + rows - 1) / rows, pair = blockIdx.x / blocks;
    first = blockIdx.x % blocks * rows, head = pair % heads, image = pair / heads;
  }
};

// One head of one image: its tokens lie `stride` values apart.
struct Head {
  const T *from;
  int stride, tokens, size;

  MEMBER Head(const T *rows, int parts, int part, const Block &b, int tokens, int heads, int size)
      : from(rows + (u64)b.image * tokens * parts * heads * size + (part * heads + b.head) * size), stride(parts * heads * size),
        tokens(tokens), size(size) {}

  // Copies tokens first .. first + count - 1 to a tile of `rows` tokens; zeros past the last token and past the head.
  template <int D> MEMBER void load(u8 *tile, int rows, int first, int count) const {
    const int c = threadIdx.x & 3;
    for (int r = threadIdx.x / 4; r < count; r += blockDim.x / 4) {
      const T *row = from + (u64)(first + r) * stride;
#pragma unroll
      for (int s = 0; s < D / BK; s++) {
        const int col = s * BK + c * VEC;
        u8 *to = tile + s * rows * ROW + Along::chunk(r, c);
        if (size % VEC == 0) {
          const bool in = first + r < tokens && col < size;
          cp_async<16>(smem_u32(to), in ? row + col : from, in);
        } else {
#pragma unroll
          for (int e = 0; e < VEC; e++) ((T *)to)[e] = first + r < tokens && col + e < size ? row[col + e] : from_f32(0.f);
        }
      }
    }
  }
  // Tokens of the step that begins at `first`, in steps of 16.
  template <int D> MEMBER void load_step(u8 *tile, int step) const {
    constexpr int COLS = Tile<D>::COLS;
    load<D>(tile, COLS, step * COLS, min(COLS, (tokens - step * COLS + 15) / 16 * 16));
  }
};

// scores = a bᵀ for the strip of this warp in a tile of `rows` tokens, and the first 16 `pairs` tokens of the tile b.
template <int D> DEVICE void scores(float (&s)[1][Tile<D>::COLS / 8][4], const u8 *a, int rows, const u8 *b, int pairs) {
  clear(s);
#pragma unroll
  for (int i = 0; i < Tile<D>::SLABS; i++)
    multiply<Along, Along>(s, a + i * rows * ROW, b + i * Tile<D>::COLS * ROW, (threadIdx.x >> 5) * STRIP, 0, pairs);
}

// acc += p b for a block of scores p in registers, and the tile b of the tokens that p's columns are.
template <int D, int NI> DEVICE void weigh(float (&acc)[Tile<D>::SLABS][1][BK / 8][4], const float (&p)[1][NI][4], const u8 *b, int pairs) {
  constexpr int SLABS = Tile<D>::SLABS, SLAB = NI * 8 * ROW;
  const int lane = threadIdx.x & 31;
#if BF16
  const u32 tile = smem_u32(b);
#pragma unroll
  for (int j = 0; j < NI / 2; j++)
    if (j < pairs) {
      const float(&l)[4] = p[0][2 * j], (&h)[4] = p[0][2 * j + 1];
      const u32 a[4] = {pack_bf16(l[0], l[1]), pack_bf16(l[2], l[3]), pack_bf16(h[0], h[1]), pack_bf16(h[2], h[3])};
#pragma unroll
      for (int s = 0; s < SLABS; s++)
#pragma unroll
        for (int n = 0; n < BK / 16; n++) {
          u32 y[4];
          ldmatrix_x4_trans(y, tile + s * SLAB + Along::chunk(j * 16 + (lane & 15), n * 2 + (lane >> 4)));
          const u32 low[2] = {y[0], y[1]}, high[2] = {y[2], y[3]};
          mma_m16n8k16(acc[s][0][2 * n], a, low);
          mma_m16n8k16(acc[s][0][2 * n + 1], a, high);
        }
    }
#else
  const int q = (lane & 3) * 2;
#pragma unroll
  for (int j = 0; j < NI; j++)
    if (j / 2 < pairs)
#pragma unroll 1
      for (int from = 0; from < 4; from++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
          float x[2];
#pragma unroll
          for (int h = 0; h < 2; h++) x[h] = __shfl_sync(0xffffffffu, p[0][j][h * 2 + k], (lane & 28) + from);
#pragma unroll
          for (int s = 0; s < SLABS; s++)
#pragma unroll
            for (int n = 0; n < BK / 8; n++)
#pragma unroll
              for (int e = 0; e < 2; e++) {
                const float y = *(const float *)(b + s * SLAB + Along::at(j * 8 + from * 2 + k, n * 8 + q + e));
#pragma unroll
                for (int h = 0; h < 2; h++) acc[s][0][n][h * 2 + e] = fmaf(x[h], y, acc[s][0][n][h * 2 + e]);
              }
        }
#endif
}

template <int SLABS> DEVICE void clear(float (&acc)[SLABS][1][BK / 8][4]) {
#pragma unroll
  for (int s = 0; s < SLABS; s++) clear(acc[s]);
}

// Writes the strip of this warp, times `scale`, to tokens first and on; `to` is token 0 of the head. `slabs` has room for all warps.
template <int SLABS>
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
      if (like.size % VEC == 0) {
        if (col < like.size) store_gradient(at, v, add);
      } else {
#pragma unroll
        for (int e = 0; e < VEC; e++)
          if (col + e < like.size) at[e] = from_f32(add ? to_f32(at[e]) + v[e] : v[e]);
      }
    });
}
