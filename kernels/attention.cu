// Self-attention, softmax(q kᵀ scale) v, with the scores in registers, tile by tile, and an online softmax (FlashAttention, Dao et al. 2022).
//
// Floor: 4 tokens^2 size FLOP per head; qkv once, y once. Keys and values are read by every block of a head: once up to 128 tokens, and
// beyond that from the L2.
#include "attention.cuh"

// One step of the online softmax: the scores of tokens `other` and on become exp2(score - top), where `top` is the row's largest so far
// and `sum` its running sum. `shrink` is the factor by which the row's earlier results must be multiplied. FULL: every column is a token.
template <bool FULL, int NI> DEVICE void soften(float (&s)[1][NI][4], float (&top)[2], float (&sum)[2], float (&shrink)[2], int other,
    int tokens, float scale, int pairs) {
  const int q = (threadIdx.x & 3) * 2;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float largest = top[h];
#pragma unroll
    for (int j = 0; j < NI; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float &x = s[0][j][h * 2 + e];
        x = FULL || (j / 2 < pairs && other + j * 8 + q + e < tokens) ? x * scale : NONE;
        largest = fmaxf(largest, x);
      }
#pragma unroll
    for (int o = 1; o < 4; o *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, o));
    shrink[h] = ex2(top[h] - largest), sum[h] *= shrink[h], top[h] = largest;
#pragma unroll
    for (int j = 0; j < NI; j++)
      if (j / 2 < pairs)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          float &x = s[0][j][h * 2 + e];
          x = ex2(x - largest), sum[h] += x;
        }
  }
}

// One step of COLS keys: out = shrink out + p v. FULL is a template argument, so that full steps spend no instruction on masking.
template <bool FULL, int D> DEVICE void meet(float (&out)[D / BK][1][BK / 8][4], float (&top)[2], float (&sum)[2], const u8 *strips, int rows,
    const u8 *slot, int other, int tokens, float scale) {
  constexpr int COLS = Tile<D>::COLS;
  const int pairs = FULL ? COLS / 16 : (tokens - other + 15) / 16;
  float s[1][COLS / 8][4], shrink[2];
  scores<D>(s, strips, rows, slot, pairs);
  soften<FULL>(s, top, sum, shrink, other, tokens, scale, pairs);
#pragma unroll
  for (int i = 0; i < D / BK; i++)
#pragma unroll
    for (int j = 0; j < BK / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) out[i][0][j][e] *= shrink[e / 2];
  weigh(out, s, slot + Tile<D>::BYTES, pairs);
}

// y, and log_sums[image][head][token], the log of the sum of exponentials of a query's scores.
template <int D> DEVICE void attend(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size, float scale) {
  SHARED_DYN(shared);
  constexpr int COLS = Tile<D>::COLS, SLABS = Tile<D>::SLABS, BYTES = Tile<D>::BYTES;
  const Block b(tokens, heads, blockDim.x / 32 * STRIP);
  const Head query(qkv, 3, 0, b, tokens, heads, size), key(qkv, 3, 1, b, tokens, heads, size);
  u8 *strips = shared, *slots = shared + b.rows * D * sizeof(T);
  const int lane = threadIdx.x & 31, mine = b.first + (threadIdx.x >> 5) * STRIP;
  float top[2] = {NONE, NONE}, sum[2] = {0.f, 0.f}, out[SLABS][1][BK / 8][4];
  clear(out);
  query.load<D>(strips, b.rows, b.first, b.rows);
  int other = 0;
  pipeline<2, 2 * BYTES>(slots, (tokens + COLS - 1) / COLS, [&](u8 *slot, int step) {
    key.load_step<D>(slot, step);
    Head value = key;
    value.from += heads * size;
    value.load_step<D>(slot + BYTES, step);
  }, [&](const u8 *slot) {
    if (mine >= tokens) return;
    if (other + COLS <= tokens)
      meet<true, D>(out, top, sum, strips, b.rows, slot, other, tokens, scale * LOG2E);
    else
      meet<false, D>(out, top, sum, strips, b.rows, slot, other, tokens, scale * LOG2E);
    other += COLS;
  });
  if (mine >= tokens) return;
  const Head to(y, 1, 0, b, tokens, heads, size);
#pragma unroll
  for (int h = 0; h < 2; h++) {
#pragma unroll
    for (int o = 1; o < 4; o *= 2) sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], o);
    const int row = mine + (lane >> 2) + h * 8;
    if (row < tokens && (lane & 3) == 0) log_sums[((u64)b.image * heads + b.head) * tokens + row] = (top[h] + __log2f(sum[h])) * LN2;
  }
#pragma unroll
  for (int i = 0; i < SLABS; i++)
#pragma unroll
    for (int j = 0; j < BK / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) out[i][0][j][e] *= __fdividef(1.f, sum[e / 2]);  // sum >= 1: that of the largest score
  write_strip(out, 1.f, slots, (T *)to.from, to, b.first, 0);
}

KERNEL void __launch_bounds__(256, BLOCKS) attention_fwd_32(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size, float scale) {
  attend<32>(y, log_sums, qkv, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, BLOCKS) attention_fwd_64(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size, float scale) {
  attend<64>(y, log_sums, qkv, tokens, heads, size, scale);
}

KERNEL void __launch_bounds__(256, 1) attention_fwd_128(T *y, float *log_sums, const T *qkv, int tokens, int heads, int size, float scale) {
  attend<128>(y, log_sums, qkv, tokens, heads, size, scale);
}
