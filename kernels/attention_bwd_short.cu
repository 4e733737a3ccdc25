// The gradient of self-attention over few tokens: queries, keys, values and dy of a head fit into shared memory, with ds of all its scores.
// In the notation of attention_bwd.cu, a warp first owns 16 keys and loops over the queries for dv and dk, and leaves ds in shared memory.
// Then it owns 16 queries, for dq = ds k. So the scores are computed once, where attention_bwd.cu computes them twice. Each sum lives in
// one warp's registers and runs in the order of tokens.
//
// Floor: 10 tokens^2 size FLOP per head, which this kernel reaches; qkv, y and dy once, dqkv once.
#include "attention.cuh"

// 16 tokens of a tile of ROWS tokens as the left operand of products over the head's values.
template <int D, int ROWS> struct Strip {
#if BF16
  u32 x[D / 16][4];
  MEMBER Strip(const Tokens16 &a) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) ldmatrix_x4(x[k], a.at(a.across, ROWS * ROW, k));
  }
#else
  const u8 *tile;
  MEMBER Strip(const Tokens16 &a) : tile(a.rows + a.offset) {}
#endif
  // s = this bᵀ.
  MEMBER void times(float (&s)[1][2][4], const Tokens16 &b) const {
    clear(s);
#if BF16
#pragma unroll
    for (int k = 0; k < D / 16; k++) score_16(s[0][0], s[0][1], x[k], b, ROWS * ROW, k);
#else
#pragma unroll 1
    for (int i = 0; i < D / BK; i++) multiply<KMajor, KMajor>(s, tile + i * ROWS * ROW, b.rows + b.offset + i * ROWS * ROW, 0, 0);
#endif
  }
};

// ds in shared memory, [ROWS queries / VEC][ROWS keys][VEC]. It is written as left operands whose rows are keys, and read transposed. In this
// layout the 16 bytes of eight neighbouring keys lie in different banks.
template <int ROWS> struct Changes {
  static MEMBER u32 at(int key, int query) { return (query / VEC * ROWS + key) * 16 + query % VEC * (int)sizeof(T); }

  // Stores a block of keys from `key` on; `query` is this lane's first query, a multiple of 16 plus lane % 4 * 2.
  static MEMBER void keep(const Left &a, u8 *all, int key, int query) {
    const int lane = threadIdx.x & 31;
    u8 *to = all + at(key + (lane >> 2), 0) + at(0, query);
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        u8 *pair = to + at(h * 8, half * 8);
#if BF16
        *(u32 *)pair = a.x[half * 2 + h];
#else
        *(float2 *)pair = make_float2(a.x[half * 4 + h * 2], a.x[half * 4 + h * 2 + 1]);
#endif
      }
  }
  // Zeroes ds of keys past the last token, where the warp has written arbitrary values.
  static MEMBER void mask(u8 *all, int key, int query, int tokens) {
    const int lane = threadIdx.x & 31;
    for (int row = tokens + (lane >> 4); row < key + 16; row += 2) *(T *)(all + at(row, query + (lane & 15))) = from_f32(0.f);
  }
  // The same block transposed: rows are queries.
  static MEMBER Left turned(const u8 *all, int key, int query) {
    const int lane = threadIdx.x & 31;
    Left a;
#if BF16
    ldmatrix_x4_trans(a.x, smem_u32(all) + at((lane & 7) + (lane >> 4 << 3), query + (lane & 8)) + at(key, 0));
#else
#pragma unroll
    for (int e = 0; e < 8; e++) a.x[e] = *(const float *)(all + at(key + e / 4 * 8 + (lane & 3) * 2 + e % 2, query + (lane >> 2) + e / 2 % 2 * 8));
#endif
    return a;
  }
};

// For up to ROWS tokens, one warp per 16 of them, and heads of up to D values that are a multiple of VEC.
template <int D, int ROWS> DEVICE void gradients(T *dqkv, const T *qkv, const T *y, const T *dy, const float *log_sums, int add, int tokens, int heads,
    int size, float scale) {
  SHARED_DYN(shared);
  constexpr int SLABS = D / BK, BYTES = ROWS * D * sizeof(T);
  const Block b(tokens, heads, tokens);
  const Head query(qkv, 3, 0, b, tokens, heads, size), key(qkv, 3, 1, b, tokens, heads, size), value(qkv, 3, 2, b, tokens, heads, size);
  const Head result(y, 1, 0, b, tokens, heads, size), change(dy, 1, 0, b, tokens, heads, size), to_q(dqkv, 3, 0, b, tokens, heads, size);
  const Head to_k(dqkv, 3, 1, b, tokens, heads, size), to_v(dqkv, 3, 2, b, tokens, heads, size);
  const int rows = blockDim.x / 32 * STRIP, mine = (threadIdx.x >> 5) * STRIP;
  u8 *tile_q = shared, *tile_dy = tile_q + BYTES, *tile_k = tile_dy + BYTES, *tile_v = tile_k + BYTES;
  float *logs = (float *)(tile_v + BYTES), *deltas = logs + ROWS;  // [ROWS] each: of a query's sum of exponentials, to base 2, and delta
  u8 *tile_ds = (u8 *)(deltas + ROWS);                             // [ROWS queries / VEC][ROWS keys][VEC]
  const int lane = threadIdx.x & 31, c = lane & 3, q = c * 2;
  query.load<D, true>(tile_q, ROWS, 0, rows);
  key.load<D, true>(tile_k, ROWS, 0, rows);
  value.load<D, true>(tile_v, ROWS, 0, rows);
  change.load<D, true>(tile_dy, ROWS, 0, rows);
  cp_async_commit();
  // delta of each lane's two rows. The four lanes of a row read 16 bytes each of every slab.
  float own[2][SLABS][VEC];
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int s = 0; s < SLABS; s++) {
      const int row = mine + (lane >> 2) + h * 8, col = s * BK + c * VEC;
#pragma unroll
      for (int e = 0; e < VEC; e++) own[h][s][e] = 0.f;
      if (row < tokens && col < size) load16(result.from + (u64)row * result.stride + col, own[h][s]);
    }
  cp_async_wait<0>();
  __syncthreads();
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = mine + (lane >> 2) + h * 8;
    float delta = 0.f;
#pragma unroll
    for (int s = 0; s < SLABS; s++) {
      float v[VEC];
      load16((const T *)(tile_dy + s * ROWS * ROW + KMajor::chunk(row, c)), v);
#pragma unroll
      for (int e = 0; e < VEC; e++) delta = fmaf(v[e], own[h][s][e], delta);
    }
#pragma unroll
    for (int o = 1; o < 4; o *= 2) delta += __shfl_xor_sync(0xffffffffu, delta, o);
    const float log_sum = row < tokens ? log_sums[((u64)b.image * heads + b.head) * tokens + row] * LOG2E : 0.f;
    if (c == 0) logs[row] = log_sum, deltas[row] = delta;
  }
  __syncthreads();
  // The 16 queries of a step. The tiles follow each other in shared memory, so dy, keys and values of the same tokens lie BYTES, 2 BYTES and
  // 3 BYTES further on.
  Tokens16 other(tile_q);
  const Strip<D, ROWS> own_k(other.further(2 * BYTES + mine * ROW)), own_v(other.further(3 * BYTES + mine * ROW));
  float sum_k[SLABS][1][BK / 8][4], sum_v[SLABS][1][BK / 8][4];
  clear(sum_k), clear(sum_v);
#pragma unroll 1
  for (int n = q; n < rows; n += 16, other.next()) {
    float p[1][2][4], ds[1][2][4];
    own_k.times(p, other);
    // No mask is needed past the last query: q and dy are zeros there, so ds is zero and p is multiplied by zero.
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const float2 log_sum = *(const float2 *)(logs + n + j * 8);
#pragma unroll
      for (int e = 0; e < 4; e++) p[0][j][e] = ex2(fmaf(p[0][j][e], scale * LOG2E, -(e % 2 ? log_sum.y : log_sum.x)));
    }
    weigh_16(sum_v, Left(p[0][0], p[0][1]), other.further(BYTES), ROWS * ROW);
    own_v.times(ds, other.further(BYTES));
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const float2 delta = *(const float2 *)(deltas + n + j * 8);
#pragma unroll
      for (int e = 0; e < 4; e++) ds[0][j][e] = p[0][j][e] * (ds[0][j][e] - (e % 2 ? delta.y : delta.x));
    }
    const Left change_of(ds[0][0], ds[0][1]);
    weigh_16(sum_k, change_of, other, ROWS * ROW);
    Changes<ROWS>::keep(change_of, tile_ds, mine, n);
  }
  if (mine + STRIP > tokens) {
    __syncwarp();
    for (int n = 0; n < rows; n += 16) Changes<ROWS>::mask(tile_ds, mine, n, tokens);
  }
  __syncthreads();
  // The results are transposed in the tiles of queries and dy, which are no longer needed.
  write_strip<true>(sum_k, scale, shared, (T *)to_k.from, to_k, 0, add);
  write_strip<true>(sum_v, 1.f, shared, (T *)to_v.from, to_v, 0, add);
  float sum_q[SLABS][1][BK / 8][4];
  clear(sum_q);
  Tokens16 keys(tile_k);
#pragma unroll 2
  for (int n = 0; n < rows; n += 16, keys.next()) weigh_16(sum_q, Changes<ROWS>::turned(tile_ds, n, mine), keys, ROWS * ROW);
  write_strip<true>(sum_q, scale, shared, (T *)to_q.from, to_q, 0, add);
}

KERNEL void __launch_bounds__(128, 2) attention_bwd_short_64(T *dqkv, const T *qkv, const T *y, const T *dy, const float *log_sums, int add,
    int tokens, int heads, int size, float scale) {
  gradients<64, 64>(dqkv, qkv, y, dy, log_sums, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(160, 2) attention_bwd_short_80(T *dqkv, const T *qkv, const T *y, const T *dy, const float *log_sums, int add,
    int tokens, int heads, int size, float scale) {
  gradients<64, 80>(dqkv, qkv, y, dy, log_sums, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, 1) attention_bwd_short_128(T *dqkv, const T *qkv, const T *y, const T *dy, const float *log_sums, int add,
    int tokens, int heads, int size, float scale) {
  gradients<64, 128>(dqkv, qkv, y, dy, log_sums, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(416, 1) attention_bwd_short_208(T *dqkv, const T *qkv, const T *y, const T *dy, const float *log_sums, int add,
    int tokens, int heads, int size, float scale) {
  gradients<64, 208>(dqkv, qkv, y, dy, log_sums, add, tokens, heads, size, scale);
}
