// Gradient of the weights of a network's first convolution: dw = dy^T windows(x), summed over the pixels of the batch.
//
// A block goes down `run` rows of dy. Rows of dy and x are copied ahead; rows of x stay in a ring in shared memory while they are needed, so
// each is read once per block. The sums of 64 outputs and all taps stay in registers. K of the product is the pixels, 16 per step. A B fragment
// wants two pixels of one tap, while a word of shared memory holds two taps of one pixel: two words, permuted, give the fragments
// of two taps. Blocks write partial sums (split-K), which a second kernel adds in order: without atomics the bits never change.
//
// Floor: dy and x read once; 2 pixels outputs 160 FLOP for 7x7 (147 taps), 32 for 3x3 (27). 16 pixels and 64 outputs of 7x7 take 80 mma, 80
// loads of a word by all lanes and 8 ldmatrix.
#include "conv_stem.cuh"

constexpr int OUTPUTS = 64;  // of a block
constexpr int BLOCK = 128;   // threads: two halves of the outputs, and of the taps or, where columns are of two kinds, of the columns

// The window's SIDE rows as N of the product, in words of two values; a tile is eight words.
template <int SIDE> struct Taps : Stem<SIDE> {
  typedef Stem<SIDE> Base;
  static constexpr int WORDS = Base::LINE / 2 + 1, ALL = SIDE * WORDS;                       // of a row, and of all
  static constexpr int SPLIT = 2 / Base::PARITIES, TILES = (ALL + 7) / 8 / SPLIT;            // warps that share the words, tiles of each
  static constexpr int GROUP = 16 * Base::PARITIES;                                          // columns of a step of K
  static constexpr int AHEAD = SIDE == 7 ? 2 : 7, STAGES = AHEAD + 1;                        // rows of dy under way
  static constexpr int RING = SIDE == 7 ? 16 : 32;  // rows of x: those that AHEAD + 1 rows of dy see, also across images of two rows
  static_assert(SPLIT * TILES * 8 >= ALL, "every word has its place");

  // Row of a slot that holds column j of dy: columns of one parity are together.
  static MEMBER int slot(int j) { return Base::PARITIES == 2 ? (j & ~31) + (j & 1) * 16 + (j & 31) / 2 : j; }
};

// The order of eight pixels in K. With it one load of a warp touches 17 neighbouring banks, which leaves banks for a second row.
DEVICE int ordered(int k) { return k / 2 + k % 2 * 4; }

template <int SIDE>
DEVICE void stem_weights(float *partial, const T *dy, const T *x, int batch, int height, int width, int outputs, int out_h, int out_w, int run,
                         int pitch) {
  typedef Taps<SIDE> S;
  constexpr int LINE = OUTPUTS / VEC;
  SHARED_DYN(smem);
  const int columns = (out_w + S::GROUP - 1) / S::GROUP * S::GROUP, bytes = columns * OUTPUTS * sizeof(T);
  u8 *ring = smem + S::STAGES * bytes;  // [RING, pitch], after [STAGES][columns, OUTPUTS] of dy
  const int n0 = blockIdx.x * OUTPUTS, first = blockIdx.y * run, steps = min(run, batch * out_h - first);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3;
  const int mine = (warp >> 1) * 32, other = warp & 1, parity = S::PARITIES == 2 ? other : 0, word0 = S::SPLIT == 2 ? other * S::TILES * 8 : 0;

  // Rows of x are counted from the block's first, as if each image had all rows that its pixels read, padding included.
  int next = first % out_h, next_top = 0, copied = 0, filled = 0;
  const T *image = x + (long long)(first / out_h) * height * width * 3;
  auto load = [&](int step) {
    u8 *slot = smem + filled * bytes;
    filled = filled + 1 == S::STAGES ? 0 : filled + 1;
    const int c = threadIdx.x % LINE, o = n0 + c * VEC;
    const T *line = dy + (u64)(first + step) * out_w * outputs + o;
    for (int j = threadIdx.x / LINE; j < columns; j += BLOCK / LINE)
      cp_async<16>(smem_u32(slot) + MnMajor<OUTPUTS>::chunk(S::slot(j), c), line + j * outputs, j < out_w && o < outputs);
    for (; copied < next_top + SIDE; copied++) {
      const int h = next * S::STRIDE - S::PAD + copied - next_top;
      const bool in = (u32)h < (u32)height;
      S::copy(ring + (copied & (S::RING - 1)) * pitch, image + (long long)h * width * 3, in, width, pitch, threadIdx.x, BLOCK);
    }
    if (++next == out_h)
      next = 0, next_top += SIDE, image += (long long)height * width * 3;
    else
      next_top += S::STRIDE;
  };

  float acc[2][2 * S::TILES][4];
  clear(acc);
  int row = first % out_h, top = 0, used = 0;
  auto use = [&]() {
    const u8 *slot = smem + used * bytes;
    used = used + 1 == S::STAGES ? 0 : used + 1;
    // Where the window of the step's first column has word `n` of a tile.
    auto word = [&](int tile, int n) {
      const int at = min(word0 + tile * 8 + n, S::ALL - 1);
      return ((top + at / S::WORDS) & (S::RING - 1)) * pitch + S::window(parity) + at % S::WORDS * 2 * (int)sizeof(T);
    };
#if BF16
    int from[S::TILES];
#pragma unroll
    for (int t = 0; t < S::TILES; t++) from[t] = word(t, g) + q * 12;
    const u32 dys = smem_u32(slot) + parity * 16 * OUTPUTS * 2;
    const int k = ordered(lane & 7) + (lane >> 4 << 3), c = mine / 8 + (lane >> 3 & 1);
    const u32 a0 = dys + MnMajor<OUTPUTS>::chunk(k, c), a1 = dys + MnMajor<OUTPUTS>::chunk(k, c + 2);
#pragma unroll 1
    for (int j = 0; j < columns; j += S::GROUP) {
      u32 a[2][4];
      ldmatrix_x4_trans(a[0], a0 + j * OUTPUTS * 2);
      ldmatrix_x4_trans(a[1], a1 + j * OUTPUTS * 2);
      const u8 *windows = ring + j * S::STRIDE * 6;
#pragma unroll
      for (int t = 0; t < S::TILES; t++) {
        u32 w[4];
#pragma unroll
        for (int p = 0; p < 4; p++) w[p] = *(const u32 *)(windows + from[t] + p * 48);
        const u32 low[2] = {__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[2], w[3], 0x5410)};
        const u32 high[2] = {__byte_perm(w[0], w[1], 0x7632), __byte_perm(w[2], w[3], 0x7632)};
#pragma unroll
        for (int i = 0; i < 2; i++) mma_m16n8k16(acc[i][2 * t], a[i], low), mma_m16n8k16(acc[i][2 * t + 1], a[i], high);
      }
    }
#else
    for (int j = 0; j < columns; j += S::GROUP)
      for (int k = 0; k < 16; k++)
#pragma unroll
        for (int t = 0; t < S::TILES; t++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const float *window = (const float *)(ring + word(t, q * 2 + e) + j * S::STRIDE * 12 + k * 24);
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
              for (int h = 0; h < 2; h++) {
                const float d = *(const float *)(slot + MnMajor<OUTPUTS>::at(mine + i * 16 + h * 8 + g, j + parity * 16 + k));
                acc[i][2 * t][h * 2 + e] = fmaf(d, window[0], acc[i][2 * t][h * 2 + e]);
                acc[i][2 * t + 1][h * 2 + e] = fmaf(d, window[1], acc[i][2 * t + 1][h * 2 + e]);
              }
          }
#endif
    if (++row == out_h)
      row = 0, top += SIDE;
    else
      top += S::STRIDE;
  };

#pragma unroll 1
  for (int s = 0; s < S::AHEAD; s++) {
    if (s < steps) load(s);
    cp_async_commit();
  }
#pragma unroll 1
  for (int s = 0; s < steps; s++) {
    cp_async_wait<S::AHEAD - 1>();
    __syncthreads();
    if (s + S::AHEAD < steps) load(s + S::AHEAD);
    cp_async_commit();
    use();
  }
  cp_async_wait<0>();

  // Neighbouring sums are in distant lanes, so they are transposed in shared memory. There the sums of both parities are added, too.
  __syncthreads();
  float *sums = (float *)smem;  // [PARITIES][OUTPUTS, TAPS]
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int t = 0; t < 2 * S::TILES; t++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int word = word0 + t / 2 * 8 + q * 2 + e % 2, tap = word % S::WORDS * 2 + t % 2 - S::early(parity);
        if (word < S::ALL && tap >= 0 && tap < S::LINE)
          sums[(parity * OUTPUTS + mine + i * 16 + e / 2 * 8 + g) * S::TAPS + word / S::WORDS * S::LINE + tap] = acc[i][t][e];
      }
  __syncthreads();
  float *to = partial + ((u64)blockIdx.y * outputs + n0) * S::TAPS;
  for (int e = threadIdx.x * 4; e < min(OUTPUTS, outputs - n0) * S::TAPS; e += BLOCK * 4) {
    float4 v = *(const float4 *)(sums + e);
    if constexpr (S::PARITIES == 2) {
      const float4 odd = *(const float4 *)(sums + OUTPUTS * S::TAPS + e);
      v = make_float4(v.x + odd.x, v.y + odd.y, v.z + odd.z, v.w + odd.w);
    }
    *(float4 *)(to + e) = v;
  }
}

KERNEL void __launch_bounds__(BLOCK, 3) conv_stem_bwd_w_7x7(float *partial, const T *dy, const T *x, int batch, int height, int width, int outputs,
    int out_h, int out_w, int run, int pitch) {
  stem_weights<7>(partial, dy, x, batch, height, width, outputs, out_h, out_w, run, pitch);
}

KERNEL void __launch_bounds__(BLOCK, 4) conv_stem_bwd_w_3x3(float *partial, const T *dy, const T *x, int batch, int height, int width, int outputs,
    int out_h, int out_w, int run, int pitch) {
  stem_weights<3>(partial, dy, x, batch, height, width, outputs, out_h, out_w, run, pitch);
}

// dw [outputs, 3, taps] from partial [parts, outputs, taps, 3]. There are few weights and many parts: 32 warps take parts in turn, for 32
// weights, and their sums are added in order.
KERNEL void __launch_bounds__(1024) conv_stem_bwd_w_sum(float *dw, const float *partial, int add, int parts, int outputs, int taps) {
  SHARED(float, sums, [32][32]);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, all = outputs * taps * 3, i = blockIdx.x * 32 + lane;
  float sum = 0.f;
  if (i < all) {
#pragma unroll 8
    for (int z = warp; z < parts; z += 32) sum += partial[(u64)z * all + i];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || i >= all) return;
  for (int z = 1; z < 32; z++) sum += sums[z][lane];
  float *to = dw + (i / (taps * 3) * 3 + i % 3) * taps + i / 3 % taps;
  *to = add ? *to + sum : sum;
}
