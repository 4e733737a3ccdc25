// Self-attention over few tokens: all keys and values of a head fit into shared memory, so they are read once. A warp takes strips of 16
// queries in turn and goes through the keys in one to three parts of compile-time size, with all scores of a part in registers. The
// online softmax then rescales once or twice instead of every 64 keys, and no instruction checks the number of keys.
//
// Floor: as in attention.cu, and qkv is read once.
#include "attention.cuh"

// s += a bᵀ for 16 tokens of a tile, and 16 `groups` tokens from b on; both tiles have ROWS tokens.
template <int D, int ROWS, int EACH> DEVICE void scores_part(float (&s)[1][EACH * 2][4], const Tokens16 &a, const Tokens16 &b, int groups) {
#if BF16
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    u32 x[4];
    ldmatrix_x4(x, a.at(a.across, ROWS * ROW, k));
#pragma unroll
    for (int j = 0; j < EACH; j++)
      if (j < groups) score_16(s[0][2 * j], s[0][2 * j + 1], x, b.further(j * 16 * ROW), ROWS * ROW, k);
  }
#else
#pragma unroll 1
  for (int i = 0; i < D / BK; i++) multiply<KMajor, KMajor>(s, a.rows + a.offset + i * ROWS * ROW, b.rows + b.offset + i * ROWS * ROW, 0, 0, groups);
#endif
}

// y, and log_sums [images, heads, tokens] as in attention.cu. For 16 WHOLE + 1 to 16 GROUPS tokens, and heads of up to D values that are a
// multiple of VEC.
template <int D, int GROUPS, int WHOLE>
DEVICE void attend_short(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size, float scale) {
  SHARED_DYN(shared);
  constexpr int ROWS = GROUPS * 16, BYTES = ROWS * D * sizeof(T), SLABS = D / BK;
  constexpr int PARTS = (GROUPS + 6) / 7, EACH = (GROUPS + PARTS - 1) / PARTS;  // EACH: groups of 16 keys in a part
  const Block b(tokens, heads, tokens);
  const Head query(qkv, 3, 0, b, tokens, heads, size), key(qkv, 3, 1, b, tokens, heads, size), value(qkv, 3, 2, b, tokens, heads, size);
  u8 *keys = shared, *values = shared + BYTES, *queries = shared + 2 * BYTES;
  const int lane = threadIdx.x & 31, g = lane >> 2, q = (lane & 3) * 2;
  const float unit = scale * LOG2E;
  key.load<D, true>(keys, ROWS, 0, ROWS);
  query.load<D, true>(queries, ROWS, 0, (tokens + 15) / 16 * 16);
  cp_async_commit();
  value.load<D, true>(values, ROWS, 0, ROWS);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  const Tokens16 of_keys(keys);  // the values lie BYTES further on, the queries 2 BYTES
  bool waits = true;  // the values are still being copied while a warp computes its first scores
#pragma unroll 1
  for (int mine = (threadIdx.x >> 5) * STRIP; mine < tokens; mine += blockDim.x / 32 * STRIP) {
    float top[2] = {NONE, NONE}, sum[2] = {0.f, 0.f}, out[SLABS][1][BK / 8][4];
    clear(out);
    // The shuffle makes the compiler recompute the mask for each strip. Kept across strips, it would take a register per key.
    const int limit = __shfl_sync(0xffffffffu, tokens - q, lane);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      const int first = part * EACH, groups = min(EACH, GROUPS - first);
      float s[1][EACH * 2][4];
#pragma unroll
      for (int j = 0; j < EACH * 2; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int other = first * 16 + j * 8 + e % 2;
          s[0][j][e] = other >= 16 * WHOLE && other >= limit ? NONE : 0.f;
        }
      scores_part<D, ROWS, EACH>(s, of_keys.further(2 * BYTES + mine * ROW), of_keys.further(first * 16 * ROW), groups);
      if (waits) {
        cp_async_wait<0>();
        __syncthreads();
        waits = false;
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float largest = NONE;
#pragma unroll
        for (int j = 0; j < EACH * 2; j++)
          if (j < groups * 2) largest = fmaxf(largest, fmaxf(s[0][j][h * 2], s[0][j][h * 2 + 1]));
#pragma unroll
        for (int o = 1; o < 4; o *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, o));
        largest = fmaxf(top[h], largest * unit);
        if (part > 0) {
          const float shrink = ex2(top[h] - largest);
          sum[h] *= shrink;
#pragma unroll
          for (int i = 0; i < SLABS; i++)
#pragma unroll
            for (int j = 0; j < BK / 8; j++)
#pragma unroll
              for (int e = 0; e < 2; e++) out[i][0][j][h * 2 + e] *= shrink;
        }
        top[h] = largest;
      }
#pragma unroll
      for (int j = 0; j < EACH; j++)
        if (j < groups) {
#pragma unroll
          for (int half = 0; half < 2; half++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              float &x = s[0][2 * j + half][e];
              x = ex2(fmaf(x, unit, -top[e / 2])), sum[e / 2] += x;
            }
          weigh_16(out, Left(s[0][2 * j], s[0][2 * j + 1]), of_keys.further(BYTES + (first + j) * 16 * ROW), ROWS * ROW);
        }
    }
    // The result is transposed in the strip's own queries, which no other warp reads. The address is recomputed, like the mask above.
    const u32 pair = __shfl_sync(0xffffffffu, blockIdx.x, lane);
    T *to = y + ((u64)(pair / heads) * tokens * heads + pair % heads) * size;
    u8 *strip = queries + mine * ROW;
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
      for (int o = 1; o < 4; o *= 2) sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], o);
      const int row = mine + g + h * 8;
      if (row < tokens && q == 0) log_sums[(u64)pair * tokens + row] = (top[h] + __log2f(sum[h])) * LN2;
      const float inverse = __fdividef(1.f, sum[h]);  // sum >= 1: that of the largest score
#pragma unroll
      for (int i = 0; i < SLABS; i++)
#pragma unroll
        for (int j = 0; j < BK / 8; j++) {
          const float(&sums)[4] = out[i][0][j];
          store_pair((T *)(strip + i * ROWS * ROW + KMajor::at(g + h * 8, j * 8 + q)), sums[h * 2] * inverse, sums[h * 2 + 1] * inverse);
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < SLABS; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int row = mine + g + h * 8, col = i * BK + (lane & 3) * VEC;
        const uint4 values_of_row = *(const uint4 *)(strip + i * ROWS * ROW + KMajor::chunk(g + h * 8, lane & 3));
        if (row < tokens && col < size) *(uint4 *)(to + (u64)row * heads * size + col) = values_of_row;
      }
  }
}

KERNEL void __launch_bounds__(128, 2 * BLOCKS) attention_fwd_short_64(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size,
    float scale) {
  attend_short<64, 4, 0>(y, log_sums, qkv, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(160, 2 * BLOCKS - 1) attention_fwd_short_80(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size,
    float scale) {
  attend_short<64, 5, 4>(y, log_sums, qkv, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(128, 2 * BLOCKS - 1) attention_fwd_short_128(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size,
    float scale) {
  attend_short<64, 8, 5>(y, log_sums, qkv, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(224, BLOCKS) attention_fwd_short_208(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size,
    float scale) {
  attend_short<64, 13, 8>(y, log_sums, qkv, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(192, BLOCKS) attention_fwd_short_272(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size,
    float scale) {
  attend_short<64, 17, 13>(y, log_sums, qkv, tokens, heads, size, scale);
}
