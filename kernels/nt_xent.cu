// NT-Xent (Chen et al. 2020, Eq. 1) and InfoNCE (van den Oord et al. 2018). The matrix of similarities is never stored: its tiles are
// computed, used and dropped, as in FlashAttention.
//
// NT-Xent (PAIRS) compares the rows of one matrix: row i's positive is its sample's other view, and i itself does not count. InfoNCE compares
// `queries` with `keys`: row i's positive is key i, and only the queries get a gradient.
//
// Floor, forward: 2 rows^2 cols FLOP, unit vectors once per block (they stay in the L2: 2 MB for 8192 x 128). Backward twice that.
#include "product.cuh"

#define NONE __uint_as_float(0xff800000u)  // less than any similarity

constexpr int TILE = 64, THREADS = 128, BYTES = 2 * TILE * ROW, STAGES = 4;  // a warp has 16 rows of a tile of 64 x 64

// unit = z / |z| and the inverse length; a row of zeros counts as 1e-12 long. One warp per row.
KERNEL void __launch_bounds__(THREADS) nt_xent_normalize(T *unit, float *saved, const T *z, int rows, int cols) {
  const int row = blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (row >= rows) return;
  z += (u64)row * cols, unit += (u64)row * cols;
  float squares = 0.f;
  for (int c = lane; c < cols; c += 32) squares = fmaf(to_f32(z[c]), to_f32(z[c]), squares);
  const float inverse = 1.f / fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
  for (int c = lane; c < cols; c += 32) unit[c] = from_f32(to_f32(z[c]) * inverse);
  if (lane == 0) saved[2 * row] = inverse;
}

// The tile of similarities of queries first .. first + 63 with keys other .. other + 63. The slots are free at the end.
DEVICE void similarities(float (&acc)[1][8][4], u8 *slots, const T *queries, const T *keys, int rows, int cols, int first, int other) {
  const Rows<TILE, THREADS> a = {queries, rows, cols, first}, b = {keys, rows, cols, other};
  clear(acc);
  pipeline<STAGES, BYTES>(slots, (cols + BK - 1) / BK, [&](u8 *slot, int step) {
    if (cols % VEC == 0) a.load(slot, step), b.load(slot + TILE * ROW, step);
    else a.load_any(slot, step), b.load_any(slot + TILE * ROW, step);
  }, [&](const u8 *slot) { multiply<KMajor, KMajor>(acc, slot, slot + TILE * ROW, (threadIdx.x >> 5) * 16, 0); });
}

template <bool PAIRS> DEVICE int partner_of(int row, int rows) {
  if constexpr (!PAIRS) return row;
  return row < rows / 2 ? row + rows / 2 : row - rows / 2;
}

// Per row i: saved[1] = log sum over k (!= i for NT-Xent) of exp(s / temperature), and the loss. The running sum is relative to the largest
// term so far, so no temperature overflows.
template <bool PAIRS>
DEVICE void forward(u8 *slots, float *saved, float *losses, const T *queries, const T *keys, float temperature, int rows, int cols) {
  const int lane = threadIdx.x & 31, first = blockIdx.x * TILE, q = (lane & 3) * 2;
  const int mine = first + (threadIdx.x >> 5) * 16 + (lane >> 2);  // and + 8
  float top[2] = {NONE, NONE}, sum[2] = {0.f, 0.f}, pair[2] = {0.f, 0.f};
  for (int other = 0; other < rows; other += TILE) {
    float acc[1][8][4];
    similarities(acc, slots, queries, keys, rows, cols, first, other);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = mine + h * 8, partner = partner_of<PAIRS>(row, rows);
      float largest = top[h];
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int k = other + j * 8 + q + e;
          float &s = acc[0][j][h * 2 + e];
          s /= temperature;
          if (k == partner) pair[h] = s;
          if ((PAIRS && k == row) || k >= rows) s = NONE;
          largest = fmaxf(largest, s);
        }
      if (largest == NONE) continue;
      sum[h] *= expf(top[h] - largest);
#pragma unroll
      for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) sum[h] += expf(acc[0][j][h * 2 + e] - largest);
      top[h] = largest;
    }
  }
  // Merge the four lanes that share a row.
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = mine + h * 8;
    float largest = top[h];
#pragma unroll
    for (int o = 1; o < 4; o *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, o));
    float all = top[h] == NONE ? 0.f : sum[h] * expf(top[h] - largest), own = pair[h];
#pragma unroll
    for (int o = 1; o < 4; o *= 2) {
      all += __shfl_xor_sync(0xffffffffu, all, o);
      own += __shfl_xor_sync(0xffffffffu, own, o);
    }
    if (row < rows && (lane & 3) == 0) {
      const float log_sum = largest + logf(all);
      saved[2 * row + 1] = log_sum;
      losses[row] = log_sum - own;
    }
  }
}

KERNEL void __launch_bounds__(THREADS) nt_xent_fwd(float *saved, float *losses, const T *unit, int rows, int cols, float temperature) {
  SHARED_DYN(slots);
  forward<true>(slots, saved, losses, unit, unit, temperature, rows, cols);
}
KERNEL void __launch_bounds__(THREADS)
    info_nce_fwd(float *saved, float *losses, const T *queries, const T *keys, int rows, int cols, float temperature) {
  SHARED_DYN(slots);
  forward<false>(slots, saved, losses, queries, keys, temperature, rows, cols);
}

// The gradient of the unit vectors of 64 rows, COLS columns at a time: sum over k of g(i, k) key(k), with
//   InfoNCE: g = dloss / (temperature rows) (exp(s - log_sum(i)) - [k is the positive])
//   NT-Xent: g = dloss / (temperature rows) (exp(s - log_sum(i)) + exp(s - log_sum(k)) - 2 [k is the positive])
// NT-Xent's second term is there because row i is also a key of every other row. s and g are computed tile by tile; g goes through shared
// memory to become an operand of mma.
constexpr int COLS = 128;

template <bool PAIRS>
DEVICE void backward(u8 *slots, float *back, const float *dloss, const T *queries, const T *keys, const float *saved, float temperature,
                     int rows, int cols) {
  constexpr int DEPTH = TILE / BK;  // steps of the second product
  u8 *g = slots + STAGES * BYTES;           // [DEPTH][TILE][ROW bytes], along K
  u8 *values = g + DEPTH * TILE * ROW;      // [DEPTH][BK][COLS], across K
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, q = (lane & 3) * 2;
  const int first = blockIdx.x * TILE, column = blockIdx.y * COLS, mine = warp * 16 + (lane >> 2);
  const float scale = dloss[0] / (temperature * rows);
  float own[2], out[1][COLS / 8][4];
  clear(out);
#pragma unroll
  for (int h = 0; h < 2; h++) own[h] = first + mine + h * 8 < rows ? saved[2 * (first + mine + h * 8) + 1] : 0.f;
  for (int other = 0; other < rows; other += TILE) {
    float acc[1][8][4];
    similarities(acc, slots, queries, keys, rows, cols, first, other);
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int k = other + j * 8 + q + e;
        const float theirs = PAIRS && k < rows ? saved[2 * k + 1] : 0.f;
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int row = first + mine + h * 8, partner = partner_of<PAIRS>(row, rows);
          const float s = acc[0][j][h * 2 + e] / temperature;
          const bool in = row < rows && k < rows && !(PAIRS && k == row);
          float p = expf(s - own[h]) - (k == partner ? 1.f : 0.f);
          if constexpr (PAIRS) p += expf(s - theirs) - (k == partner ? 1.f : 0.f);
          const float d = in ? scale * p : 0.f;
          const int at = j * 8 + q + e;
          *(T *)(g + at / BK * TILE * ROW + KMajor::at(mine + h * 8, at % BK)) = from_f32(d);
        }
      }
    for (int i = threadIdx.x; i < TILE * COLS; i += THREADS) {
      const int k = i / COLS, c = i % COLS;
      const bool in = other + k < rows && column + c < cols;
      const T v = in ? keys[(u64)(other + k) * cols + column + c] : from_f32(0.f);
      *(T *)(values + k / BK * BK * COLS * sizeof(T) + MnMajor<COLS>::at(c, k % BK)) = v;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < DEPTH; step++)
      multiply<KMajor, MnMajor<COLS>>(out, g + step * TILE * ROW, values + step * BK * COLS * sizeof(T), warp * 16, 0);
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < COLS / 8; j++)
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int row = first + mine + h * 8, c = column + j * 8 + q + e;
        if (row < rows && c < cols) back[(u64)row * cols + c] = out[0][j][h * 2 + e];
      }
}

KERNEL void __launch_bounds__(THREADS)
    nt_xent_bwd(float *back, const float *dloss, const T *unit, const float *saved, int rows, int cols, float temperature) {
  SHARED_DYN(slots);
  backward<true>(slots, back, dloss, unit, unit, saved, temperature, rows, cols);
}
KERNEL void __launch_bounds__(THREADS)
    info_nce_bwd(float *back, const float *dloss, const T *queries, const T *keys, const float *saved, int rows, int cols,
                 float temperature) {
  SHARED_DYN(slots);
  backward<false>(slots, back, dloss, queries, keys, saved, temperature, rows, cols);
}

// dz = (back - unit (back . unit)) / |z|. One warp per row.
KERNEL void __launch_bounds__(THREADS) nt_xent_bwd_normalize(T *dz, const float *back, const T *unit, const float *saved, int add, int rows,
                                                                   int cols) {
  const int row = blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (row >= rows) return;
  const u64 at = (u64)row * cols;
  float along = 0.f;
  for (int c = lane; c < cols; c += 32) along = fmaf(back[at + c], to_f32(unit[at + c]), along);
  along = warp_sum(along);
  for (int c = lane; c < cols; c += 32) {
    const float d = (back[at + c] - to_f32(unit[at + c]) * along) * saved[2 * row];
    dz[at + c] = from_f32(add ? to_f32(dz[at + c]) + d : d);
  }
}
