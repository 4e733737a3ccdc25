// A network's first convolution: y = relu(conv(x) + shift) of images of three channels, NHWC, and the statistics of y.
//
// A block computes `run` consecutive tiles of 128 pixels, across rows and images. It copies all rows of x that they need once, and keeps
// the weights of 64 outputs in registers, 32 outputs per warp. Each warp then computes tile after tile without a barrier. The columns of
// its products are permuted so that a lane ends up with eight neighbouring outputs of a pixel: 16 bytes, stored without a transposition.
//
// Floor: x read and y written once; 2 pixels outputs 176 FLOP for 7x7 (147 taps), 32 for 3x3 (27). A tile of 128 pixels and 64 outputs
// of 7x7 takes 704 mma and 704 word loads per warp, without bank conflicts.
#include "conv_stem.cuh"

constexpr int TILE = 128;      // pixels whose statistics are one row of `moments`
constexpr int OUTPUTS = 64;    // of a block
constexpr int BLOCK = 128;     // threads: two halves of the outputs, and two warps that take tiles in turn

// The window's SIDE rows as K of the product, eight values at a time (a word for each of four lanes). Each eight lies in one row of the
// window, so its offset is a compile-time constant. 7x7: three eights per row, with 21 taps among 24 values. 3x3: one eight per row, and
// one eight for the rest of all three rows.
template <int SIDE> struct Windows : Stem<SIDE> {
  static constexpr int EIGHTS = SIDE == 7 ? 21 : 4, STEPS = (EIGHTS + 1) / 2;
  // Row of the window, and value in that row, of word q of an eight.
  static MEMBER int row(int eight, int q) { return SIDE == 7 ? eight / 3 : eight < 3 ? eight : min(q, 2); }
  static MEMBER int value(int eight, int q) { return SIDE == 7 ? eight % 3 * 8 + q * 2 : eight < 3 ? q * 2 : 8; }
  static MEMBER bool none(int eight, int q) { return eight >= EIGHTS || (SIDE == 3 && eight == 3 && q == 3); }
  // Which of a group's 32 pixels is row g + 8 h of fragment i. With two parities, each fragment holds columns of one parity.
  static MEMBER int pixel(int i, int h, int g) { return Stem<SIDE>::PARITIES == 2 ? h * 16 + g * 2 + i : i * 16 + h * 8 + g; }
};

// One step of a butterfly reduction that halves v: a lane keeps one half (the upper if `high`) and adds that half of the lane `by` away.
template <int N> DEVICE void halve(float (&v)[8], int by, bool high) {
#pragma unroll
  for (int e = 0; e < N; e++) {
    const float sent = high ? v[e] : v[e + N], kept = high ? v[e + N] : v[e];
    v[e] = kept + __shfl_xor_sync(0xffffffffu, sent, by);
  }
}

DEVICE void read_eight(float (&v)[8], const float *from) {
  const float4 low = *(const float4 *)from, high = *(const float4 *)(from + 4);
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

// Writes eight neighbours and rounds v to what was written, so that statistics are of the stored values.
DEVICE void put_eight(T *to, float (&v)[8], bool in) {
#if BF16
  const uint4 bits = pack16(v);
  if (in) *(uint4 *)to = bits;
  unpack16(bits, v);
#else
  if (in) *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]), *(float4 *)(to + 4) = make_float4(v[4], v[5], v[6], v[7]);
#endif
}

// A lane's eight outputs of a tile's first pixel: the shift of the tile's statistics, as in batch_norm.cu. Stored as T to save registers.
struct Pivot {
#if BF16
  u32 bits[4];
#else
  float values[8];
#endif
  // From lane `lane`.
  MEMBER void take(const float (&v)[8], int lane) {
#pragma unroll
    for (int e = 0; e < 8 * (int)sizeof(T) / 4; e++) {
#if BF16
      bits[e] = __shfl_sync(0xffffffffu, pack_bf16(v[2 * e], v[2 * e + 1]), lane);
#else
      values[e] = __shfl_sync(0xffffffffu, v[e], lane);
#endif
    }
  }
  MEMBER float operator[](int e) const {
#if BF16
    return e % 2 ? high_bf16(bits[e / 2]) : low_bf16(bits[e / 2]);
#else
    return values[e];
#endif
  }
};

template <int SIDE>
DEVICE void stem(T *y, float *moments, const T *x, const T *w, const float *shift, int relu, int batch, int height, int width, int outputs,
                 int out_h, int out_w, int run, int pitch) {
  typedef Windows<SIDE> S;
  SHARED_DYN(smem);
  T *weights = (T *)smem;                                           // [OUTPUTS, TAPS]
  float *add = (float *)(smem + OUTPUTS * S::TAPS * sizeof(T));     // [OUTPUTS]: the shift
  int *place = (int *)(add + OUTPUTS);                              // [run TILE]: offset of each pixel's window in `rows`, bytes
  u8 *rows = (u8 *)(place + run * TILE);                            // [rows, pitch] bytes
  const int pixels = batch * out_h * out_w, first = blockIdx.x * run * TILE, count = min(run * TILE, pixels - first);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3, n0 = blockIdx.y * OUTPUTS;

  // Rows are counted through all images as if each had `tall` rows: those that its pixels read, padding included.
  const int tall = S::STRIDE * (out_h - 1) + SIDE, image = first / out_w / out_h, top = first / out_w % out_h;
  {
    const int last = (first + count - 1) / out_w, rows_seen = (last / out_h - image) * tall + (last % out_h - top) * S::STRIDE + SIDE;
    for (int c = threadIdx.x; c < OUTPUTS * S::TAPS / VEC; c += BLOCK)
      cp_async<16>(smem_u32(weights + c * VEC), w + (u64)n0 * S::TAPS + c * VEC, c * VEC < (outputs - n0) * S::TAPS);
    for (int r = warp; r < rows_seen; r += BLOCK / 32) {
      const int down = top * S::STRIDE + r, n = image + down / tall, h = down % tall - S::PAD;
      S::copy(rows + r * pitch, x + ((long long)n * height + h) * width * 3, (u32)h < (u32)height, width, pitch, lane, 32);
    }
    cp_async_commit();
  }
  {
    const int pixel = first + threadIdx.x, on = BLOCK / out_w, images = on / out_h;
    int j = pixel % out_w, i = pixel / out_w % out_h, at = (pixel / out_w / out_h - image) * tall + (i - top) * S::STRIDE;
    for (int p = threadIdx.x; p < run * TILE; p += BLOCK) {
      place[p] = p < count ? at * pitch + S::window(j) : 0;
      j += BLOCK % out_w;
      const int down = on % out_h + (j >= out_w);
      if (j >= out_w) j -= out_w;
      i += down, at += images * tall + down * S::STRIDE;
      if (i >= out_h) i -= out_h, at += tall - out_h * S::STRIDE;
    }
  }
  if (shift && threadIdx.x < OUTPUTS) add[threadIdx.x] = n0 + threadIdx.x < outputs ? shift[n0 + threadIdx.x] : 0.f;
  cp_async_wait<0>();
  __syncthreads();

  // Column c of the j-th product is output c / 2 * 8 + 2 j + c % 2 of the warp's 32: lane (g, q) ends with outputs 8 q to 8 q + 7.
  const int mine = (warp & 1) * 32;
#if BF16
  u32 b[S::PARITIES][S::STEPS][4][2];
#pragma unroll
  for (int parity = 0; parity < S::PARITIES; parity++)
#pragma unroll
    for (int eight = 0; eight < 2 * S::STEPS; eight++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const bf16 *from = weights + (mine + g / 2 * 8 + 2 * j + g % 2) * S::TAPS + S::row(eight, q) * S::LINE;
        const int tap = S::value(eight, q) - S::early(parity);
        const bool some = !S::none(eight, q);
        const u32 low = some && tap >= 0 && tap < S::LINE ? from[tap].bits : 0, high = some && tap + 1 < S::LINE ? from[tap + 1].bits : 0;
        b[parity][eight / 2][j][eight % 2] = low | high << 16;
      }
#endif
  const bool in = n0 + mine + q * 8 < outputs;

#pragma unroll 1
  for (int tile = (warp >> 1) * TILE; tile < count; tile += 2 * TILE) {
    float sum_all = 0.f, squares_all = 0.f;
    Pivot pivot = {};
#pragma unroll 1
    for (int group = tile; group < tile + TILE; group += 32) {
      float acc[2][4][4];
      int from[2][2];
      clear(acc);
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) from[i][h] = place[group + S::pixel(i, h, g)];
#if BF16
#pragma unroll
      for (int s = 0; s < S::STEPS; s++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          u32 a[4];
#pragma unroll
          for (int r = 0; r < 4; r++) {
            const int eight = s * 2 + r / 2;
            a[r] = eight < S::EIGHTS ? *(const u32 *)(rows + from[i][r % 2] + S::row(eight, q) * pitch + S::value(eight, q) * 2) : 0;
          }
#pragma unroll
          for (int j = 0; j < 4; j++) mma_m16n8k16(acc[i][j], a, b[i % S::PARITIES][s][j]);
        }
#else
      for (int tap = 0; tap < S::TAPS; tap++)
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const float v = *(const float *)(rows + from[i][h] + tap / S::LINE * pitch + (tap % S::LINE + S::early(i)) * 4);
#pragma unroll
            for (int e = 0; e < 8; e++) {
              float &to = acc[i][e / 2][h * 2 + e % 2];
              to = fmaf(v, weights[(mine + q * 8 + e) * S::TAPS + tap], to);
            }
          }
#endif
      T *to = y + (u64)(first + group + S::pixel(0, 0, g)) * outputs + n0 + mine + q * 8;
      float sum[8], squares[8];
#pragma unroll
      for (int e = 0; e < 8; e++) sum[e] = squares[e] = 0.f;
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const int pixel = group + S::pixel(i, h, g);
          float v[8];
#pragma unroll
          for (int e = 0; e < 8; e++) v[e] = acc[i][e / 2][h * 2 + e % 2];
          if (shift) {
            float more[8];
            read_eight(more, add + mine + q * 8);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] += more[e];
          }
          if (relu) {
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] = v[e] < 0.f ? 0.f : v[e];
          }
          put_eight(to + S::pixel(i, h, 0) * outputs, v, in && pixel < count);
          if (!moments) continue;
          if (i + h == 0 && group == tile) pivot.take(v, q);
          if (pixel < count) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
              const float d = v[e] - pivot[e];
              sum[e] += d, squares[e] = fmaf(d, d, squares[e]);
            }
          }
        }
      // Eight lanes hold the same outputs. After the butterfly each holds the sums of one: all eight would not fit beside the weights.
      if (moments) {
        halve<4>(sum, 16, lane & 16), halve<2>(sum, 8, lane & 8), halve<1>(sum, 4, lane & 4);
        halve<4>(squares, 16, lane & 16), halve<2>(squares, 8, lane & 8), halve<1>(squares, 4, lane & 4);
        sum_all += sum[0], squares_all += squares[0];
      }
    }
    if (moments && in) {
      float origin = pivot[0];
#pragma unroll
      for (int e = 1; e < 8; e++)
        if (e == g) origin = pivot[e];
      const float n = min(TILE, count - tile), m2 = squares_all - sum_all * sum_all / n;
      float *to = moments + (u64)((first + tile) / TILE) * 2 * outputs + n0 + mine + q * 8 + g;
      to[0] = origin + sum_all / n;
      to[outputs] = m2 > 0.f ? m2 : 0.f;
    }
  }
}

KERNEL void __launch_bounds__(BLOCK, 3) conv_stem_7x7(T *y, float *moments, const T *x, const T *w, const float *shift, int relu, int batch,
    int height, int width, int outputs, int out_h, int out_w, int run, int pitch) {
  stem<7>(y, moments, x, w, shift, relu, batch, height, width, outputs, out_h, out_w, run, pitch);
}

KERNEL void __launch_bounds__(BLOCK, 4) conv_stem_3x3(T *y, float *moments, const T *x, const T *w, const float *shift, int relu, int batch,
    int height, int width, int outputs, int out_h, int out_w, int run, int pitch) {
  stem<3>(y, moments, x, w, shift, relu, batch, height, width, outputs, out_h, out_w, run, pitch);
}
