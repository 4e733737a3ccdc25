// The gradient of self-attention. p = exp(score - log_sum) is recomputed, and delta = sum(dy y) of a query. The gradient of a score is
// ds = p (dy vᵀ - delta) scale; then dv = pᵀ dy, dk = dsᵀ q, dq = ds k. One kernel sums over keys (dq), one over queries (dk, dv). Each sum
// lives in one warp's registers and runs in the order of tokens, so no atomics are needed and the bits never change.
//
// Floor: 10 tokens^2 size FLOP per head, here 14, because both kernels compute the scores and dy vᵀ; qkv, y and dy once, dqkv once.
#include "attention.cuh"

// delta of this lane's two rows, also written to memory. The four lanes of a row read 16 bytes each of every slab.
template <int D> DEVICE void deltas(float (&own)[2], float *delta, const u8 *strip, const Block &b, const Head &y) {
  const int lane = threadIdx.x & 31, c = lane & 3, warp = (threadIdx.x >> 5) * STRIP;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = warp + (lane >> 2) + h * 8, token = b.first + row;
    const T *from = y.from + (u64)token * y.stride;
#pragma unroll 1
    for (int s = 0; s < D / BK; s++) {
      const int col = s * BK + c * VEC;
      float dy[VEC], v[VEC];
      load16((const T *)(strip + s * b.rows * ROW + KMajor::chunk(row, c)), dy);
      if (y.size % VEC == 0 && token < y.tokens && col < y.size) {
        load16(from + col, v);
      } else {
#pragma unroll
        for (int e = 0; e < VEC; e++) v[e] = token < y.tokens && col + e < y.size ? to_f32(from[col + e]) : 0.f;
      }
#pragma unroll
      for (int e = 0; e < VEC; e++) own[h] = fmaf(dy[e], v[e], own[h]);
    }
#pragma unroll
    for (int o = 1; o < 4; o *= 2) own[h] += __shfl_xor_sync(0xffffffffu, own[h], o);
    if (token < y.tokens && c == 0) delta[token] = own[h];
  }
}

// One step of COLS keys: out += ds k. FULL is a template argument, so that full steps spend no instruction on masking.
template <bool FULL, int D> DEVICE void meet_keys(float (&out)[D / BK][1][BK / 8][4], const float (&log_sum)[2], const float (&own)[2],
    const u8 *strip_q, const u8 *strip_dy, int rows, const u8 *slot, int other, int tokens, float scale) {
  constexpr int COLS = Tile<D>::COLS;
  const int q = (threadIdx.x & 3) * 2, pairs = FULL ? COLS / 16 : (tokens - other + 15) / 16;
  float s[1][COLS / 8][4], dp[1][COLS / 8][4];
  scores<D>(s, strip_q, rows, slot, pairs);
  scores<D>(dp, strip_dy, rows, slot + Tile<D>::BYTES, pairs);
#pragma unroll
  for (int j = 0; j < COLS / 8; j++)
    if (j / 2 < pairs)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float p = ex2(fmaf(s[0][j][e], scale * LOG2E, -log_sum[e / 2]));
        s[0][j][e] = FULL || other + j * 8 + q + e % 2 < tokens ? p * (dp[0][j][e] - own[e / 2]) : 0.f;
      }
  weigh(out, s, slot, pairs);
}

// One step of COLS queries: sum_k += dsᵀ q, sum_v += pᵀ dy. Behind the tiles of q and dy lie their log_sums and delta, [COLS] f32 each.
template <bool FULL, int D> DEVICE void meet_queries(float (&sum_k)[D / BK][1][BK / 8][4], float (&sum_v)[D / BK][1][BK / 8][4],
    const u8 *strip_k, const u8 *strip_v, int rows, const u8 *slot, int other, int tokens, float scale) {
  constexpr int COLS = Tile<D>::COLS, BYTES = Tile<D>::BYTES;
  const int q = (threadIdx.x & 3) * 2, pairs = FULL ? COLS / 16 : (tokens - other + 15) / 16;
  const float *of_query = (const float *)(slot + 2 * BYTES);
  float p[1][COLS / 8][4], ds[1][COLS / 8][4];
  scores<D>(p, strip_k, rows, slot, pairs);
  scores<D>(ds, strip_v, rows, slot + BYTES, pairs);
  // No mask is needed past the last query: q and dy are zeros there, so ds is zero and p is multiplied by zero.
#pragma unroll
  for (int j = 0; j < COLS / 8; j++)
    if (j / 2 < pairs) {
      const float2 log_sum = *(const float2 *)(of_query + j * 8 + q), own = *(const float2 *)(of_query + COLS + j * 8 + q);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        p[0][j][e] = ex2((p[0][j][e] * scale - (e % 2 ? log_sum.y : log_sum.x)) * LOG2E);
        ds[0][j][e] = p[0][j][e] * (ds[0][j][e] - (e % 2 ? own.y : own.x));
      }
    }
  weigh(sum_v, p, slot + BYTES, pairs);
  weigh(sum_k, ds, slot, pairs);
}

// dq, and delta [images, heads, tokens] for the other kernel. The block keeps its tiles of q and dy and streams keys and values.
template <int D> DEVICE void queries(T *dqkv, float *delta, const T *qkv, const T *y, const T *dy, const float *log_sums, int add, int tokens,
    int heads, int size, float scale) {
  SHARED_DYN(shared);
  constexpr int COLS = Tile<D>::COLS, SLABS = Tile<D>::SLABS, BYTES = Tile<D>::BYTES;
  const Block b(tokens, heads, blockDim.x / 32 * STRIP);
  const Head query(qkv, 3, 0, b, tokens, heads, size), key(qkv, 3, 1, b, tokens, heads, size), value(qkv, 3, 2, b, tokens, heads, size);
  const Head result(y, 1, 0, b, tokens, heads, size), change(dy, 1, 0, b, tokens, heads, size), to(dqkv, 3, 0, b, tokens, heads, size);
  const int strip = b.rows * D * sizeof(T);
  u8 *strip_q = shared, *strip_dy = shared + strip, *slots = shared + 2 * strip;
  const int lane = threadIdx.x & 31, mine = b.first + (threadIdx.x >> 5) * STRIP;
  const u64 sums = ((u64)b.image * heads + b.head) * tokens;
  float own[2] = {0.f, 0.f}, log_sum[2], out[SLABS][1][BK / 8][4];
  clear(out);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = mine + (lane >> 2) + h * 8;
    log_sum[h] = row < tokens ? log_sums[sums + row] * LOG2E : 0.f;
  }
  query.load<D>(strip_q, b.rows, b.first, b.rows);
  change.load<D>(strip_dy, b.rows, b.first, b.rows);
  int other = 0;
  pipeline<2, 2 * BYTES>(slots, (tokens + COLS - 1) / COLS, [&](u8 *slot, int step) {
    key.load_step<D>(slot, step);
    value.load_step<D>(slot + BYTES, step);
  }, [&](const u8 *slot) {
    if (mine >= tokens) return;
    if (other == 0) deltas<D>(own, delta + sums, strip_dy, b, result);
    if (other + COLS <= tokens)
      meet_keys<true, D>(out, log_sum, own, strip_q, strip_dy, b.rows, slot, other, tokens, scale);
    else
      meet_keys<false, D>(out, log_sum, own, strip_q, strip_dy, b.rows, slot, other, tokens, scale);
    other += COLS;
  });
  if (mine < tokens) write_strip(out, scale, slots, (T *)to.from, to, b.first, add);
}

// dk and dv. The block keeps its tiles of keys and values and streams queries with dy, log_sums and delta.
template <int D> DEVICE void keys(T *dqkv, const T *qkv, const T *dy, const float *log_sums, const float *delta, int add, int tokens, int heads,
    int size, float scale) {
  SHARED_DYN(shared);
  constexpr int COLS = Tile<D>::COLS, SLABS = Tile<D>::SLABS, BYTES = Tile<D>::BYTES;
  const Block b(tokens, heads, blockDim.x / 32 * STRIP);
  const Head query(qkv, 3, 0, b, tokens, heads, size), key(qkv, 3, 1, b, tokens, heads, size), value(qkv, 3, 2, b, tokens, heads, size);
  const Head change(dy, 1, 0, b, tokens, heads, size), to_k(dqkv, 3, 1, b, tokens, heads, size), to_v(dqkv, 3, 2, b, tokens, heads, size);
  const int strip = b.rows * D * sizeof(T);
  u8 *strip_k = shared, *strip_v = shared + strip, *slots = shared + 2 * strip;
  const int mine = b.first + (threadIdx.x >> 5) * STRIP;
  const u64 sums = ((u64)b.image * heads + b.head) * tokens;
  float sum_k[SLABS][1][BK / 8][4], sum_v[SLABS][1][BK / 8][4];
  clear(sum_k), clear(sum_v);
  key.load<D>(strip_k, b.rows, b.first, b.rows);
  value.load<D>(strip_v, b.rows, b.first, b.rows);
  int other = 0;
  pipeline<2, 2 * BYTES + 8 * COLS>(slots, (tokens + COLS - 1) / COLS, [&](u8 *slot, int step) {
    query.load_step<D>(slot, step);
    change.load_step<D>(slot + BYTES, step);
    for (int i = threadIdx.x; i < 2 * COLS; i += blockDim.x) {
      const int token = step * COLS + i % COLS;
      const float *from = i < COLS ? log_sums : delta;
      cp_async<4>(smem_u32(slot + 2 * BYTES + 4 * i), token < tokens ? from + sums + token : from, token < tokens);
    }
  }, [&](const u8 *slot) {
    if (mine >= tokens) return;
    if (other + COLS <= tokens)
      meet_queries<true, D>(sum_k, sum_v, strip_k, strip_v, b.rows, slot, other, tokens, scale);
    else
      meet_queries<false, D>(sum_k, sum_v, strip_k, strip_v, b.rows, slot, other, tokens, scale);
    other += COLS;
  });
  if (mine >= tokens) return;
  write_strip(sum_k, scale, slots, (T *)to_k.from, to_k, b.first, add);
  write_strip(sum_v, 1.f, slots, (T *)to_v.from, to_v, b.first, add);
}

KERNEL void __launch_bounds__(256, 1) attention_bwd_q_32(T *dqkv, float *delta, const T *qkv, const T *y, const T *dy, const float *log_sums,
    int add, int tokens, int heads, int size, float scale) {
  queries<32>(dqkv, delta, qkv, y, dy, log_sums, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, 1) attention_bwd_kv_32(T *dqkv, const T *qkv, const T *dy, const float *log_sums, const float *delta,
    int add, int tokens, int heads, int size, float scale) {
  keys<32>(dqkv, qkv, dy, log_sums, delta, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, 1) attention_bwd_q_64(T *dqkv, float *delta, const T *qkv, const T *y, const T *dy, const float *log_sums,
    int add, int tokens, int heads, int size, float scale) {
  queries<64>(dqkv, delta, qkv, y, dy, log_sums, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, 1) attention_bwd_kv_64(T *dqkv, const T *qkv, const T *dy, const float *log_sums, const float *delta,
    int add, int tokens, int heads, int size, float scale) {
  keys<64>(dqkv, qkv, dy, log_sums, delta, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, 1) attention_bwd_q_128(T *dqkv, float *delta, const T *qkv, const T *y, const T *dy, const float *log_sums,
    int add, int tokens, int heads, int size, float scale) {
  queries<128>(dqkv, delta, qkv, y, dy, log_sums, add, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, 1) attention_bwd_kv_128(T *dqkv, const T *qkv, const T *dy, const float *log_sums, const float *delta,
    int add, int tokens, int heads, int size, float scale) {
  keys<128>(dqkv, qkv, dy, log_sums, delta, add, tokens, heads, size, scale);
}
