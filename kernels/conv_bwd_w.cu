// Gradient of a convolution's weights: dw = dy^T gather(x), summed over the pixels of the batch.
//
// The product's K are the pixels, so both tiles lie across K and are transposed while fragments are loaded. The pixels are shared out
// to `splits` blocks per tile, whose partial sums a second kernel adds in order: no atomics, the same bits always.
//
// Floor: 2 pixels outputs taps channels FLOP; dy and x once, the partial sums written and read once.
#include "product.cuh"

struct Gather {
  int batch, height, width, channels;  // x
  int outputs, taps, step, pad;        // w [outputs, channels, taps, taps]
  int out_h, out_w;                    // dy [batch, out_h, out_w, outputs]

  MEMBER int pixels() const { return batch * out_h * out_w; }
  MEMBER int depth() const { return taps * taps * channels; }
};

// Copies rows of dy: BK pixels from `pixel` on, COLS outputs from `first` on.
template <int COLS, int THREADS> struct Outputs {
  static constexpr int LINE = COLS / VEC, EACH = BK * LINE / THREADS;
  const T *dy;
  int outputs, first, end;

  MEMBER void load(u8 *tile, int pixel) const {
    const int c = threadIdx.x % LINE, o = first + c * VEC;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int k = threadIdx.x / LINE + i * (THREADS / LINE);
      const bool in = pixel + k < end && o < outputs;
      cp_async<16>(smem_u32(tile + Across<COLS>::chunk(k, c)), in ? dy + (u64)(pixel + k) * outputs + o : dy, in);
    }
  }
  MEMBER void load_any(u8 *tile, int pixel) const {
    for (int e = threadIdx.x; e < BK * COLS; e += THREADS) {
      const int k = e / COLS, c = e % COLS;
      const bool in = pixel + k < end && first + c < outputs;
      *(T *)(tile + Across<COLS>::at(c, k)) = in ? dy[(u64)(pixel + k) * outputs + first + c] : from_f32(0.f);
    }
  }
};

// Copies of x what BK pixels see through COLS (tap, channel) columns. A thread's columns stay, its pixels move on by BK a step.
template <int COLS, int THREADS> struct Seen {
  static constexpr int LINE = COLS / VEC, EACH = BK * LINE / THREADS;
  const T *x;
  Gather g;
  int end, tap_i, tap_j, channel;
  bool in_depth;
  int n[EACH], i[EACH], j[EACH];   // image, row and column of the next step's pixels
  int skip_n, skip_i, skip_j;      // BK pixels in these units

  MEMBER Seen(const T *x_, const Gather &g_, int first, int begin, int end_) : x(x_), g(g_), end(end_) {
    const int column = first + threadIdx.x % LINE * VEC, tap = column / g.channels;
    in_depth = column < g.depth();
    tap_i = tap / g.taps - g.pad, tap_j = tap % g.taps - g.pad, channel = column % g.channels;
    skip_j = BK % g.out_w, skip_i = BK / g.out_w % g.out_h, skip_n = BK / g.out_w / g.out_h;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      const int pixel = begin + threadIdx.x / LINE + e * (THREADS / LINE);
      j[e] = pixel % g.out_w, i[e] = pixel / g.out_w % g.out_h, n[e] = pixel / g.out_w / g.out_h;
    }
  }
  MEMBER void load(u8 *tile, int pixel) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      const int k = threadIdx.x / LINE + e * (THREADS / LINE);
      const int h = i[e] * g.step + tap_i, w = j[e] * g.step + tap_j;
      const bool in = in_depth && pixel + k < end && (u32)h < (u32)g.height && (u32)w < (u32)g.width;
      const T *from = in ? x + (((long long)n[e] * g.height + h) * g.width + w) * g.channels + channel : x;
      cp_async<16>(smem_u32(tile + Across<COLS>::chunk(k, threadIdx.x % LINE)), from, in);
      j[e] += skip_j, i[e] += skip_i, n[e] += skip_n;
      if (j[e] >= g.out_w) j[e] -= g.out_w, i[e]++;
      if (i[e] >= g.out_h) i[e] -= g.out_h, n[e]++;
    }
  }
};

// The same value by value. A warp takes a pixel, so that where it lies is computed once for its columns.
template <int COLS, int THREADS> DEVICE void seen_any(u8 *tile, const T *x, const Gather &g, int first, int pixel, int end) {
  for (int k = threadIdx.x >> 5; k < BK; k += THREADS / 32) {
    const int p = pixel + k, j = p % g.out_w * g.step - g.pad, rest = p / g.out_w, i = rest % g.out_h * g.step - g.pad, n = rest / g.out_h;
#pragma unroll
    for (int c = threadIdx.x & 31; c < COLS; c += 32) {
      const int column = first + c, tap = column / g.channels, h = i + tap / g.taps, w = j + tap % g.taps;
      const bool in = p < end && column < g.depth() && (u32)h < (u32)g.height && (u32)w < (u32)g.width;
      *(T *)(tile + Across<COLS>::at(c, k)) =
          in ? x[(((long long)n * g.height + h) * g.width + w) * g.channels + column % g.channels] : from_f32(0.f);
    }
  }
}

template <int BM, int BN, int WM, int WN, bool ANY> DEVICE void weights(float *partial, const T *dy, const T *x, const Gather &g, int run) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, MI = WM / 16, NI = WN / 8, BYTES = (BM + BN) * ROW;
  SHARED_DYN(smem);
  const int across = (g.depth() + BN - 1) / BN, m0 = blockIdx.x / across * BM, n0 = blockIdx.x % across * BN;
  const int begin = blockIdx.y * run, end = min(begin + run, g.pixels()), steps = (end - begin + BK - 1) / BK;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
  float acc[MI][NI][4];
  clear(acc);
  const Outputs<BM, THREADS> outputs = {dy, g.outputs, m0, end};
  auto use = [&](const u8 *slot) { multiply<Across<BM>, Across<BN>>(acc, slot, slot + BM * ROW, wm, wn); };
  if constexpr (ANY) {
    pipeline<4, BYTES>(smem, steps, [&](u8 *slot, int step) {
      outputs.load_any(slot, begin + step * BK);
      seen_any<BN, THREADS>(slot + BM * ROW, x, g, n0, begin + step * BK, end);
    }, use);
  } else {
    Seen<BN, THREADS> seen(x, g, n0, begin, end);
    pipeline<4, BYTES>(smem, steps, [&](u8 *slot, int step) {
      outputs.load(slot, begin + step * BK);
      seen.load(slot + BM * ROW, begin + step * BK);
    }, use);
  }
  // Four lanes fill a sector of 32 bytes, so the sums can go straight to memory.
  float *to = partial + (u64)blockIdx.y * g.outputs * g.depth();
#pragma unroll
  for (int a = 0; a < MI; a++)
#pragma unroll
    for (int b = 0; b < NI; b++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int o = m0 + wm + a * 16 + (lane >> 2) + h * 8, c = n0 + wn + b * 8 + (lane & 3) * 2;
        if (o >= g.outputs || c >= g.depth()) continue;
        float *at = to + (u64)o * g.depth() + c;
        if constexpr (ANY) {
          at[0] = acc[a][b][h * 2];
          if (c + 1 < g.depth()) at[1] = acc[a][b][h * 2 + 1];
        } else {
          *(float2 *)at = make_float2(acc[a][b][h * 2], acc[a][b][h * 2 + 1]);
        }
      }
}

KERNEL void __launch_bounds__(128, 2) conv_bwd_w_128x128(float *partial, const T *dy, const T *x, int batch, int height, int width,
    int channels, int outputs, int taps, int step, int pad, int out_h, int out_w, int run) {
  weights<128, 128, 64, 64, false>(partial, dy, x, {batch, height, width, channels, outputs, taps, step, pad, out_h, out_w}, run);
}

KERNEL void __launch_bounds__(128, 3) conv_bwd_w_64x128(float *partial, const T *dy, const T *x, int batch, int height, int width,
    int channels, int outputs, int taps, int step, int pad, int out_h, int out_w, int run) {
  weights<64, 128, 32, 64, false>(partial, dy, x, {batch, height, width, channels, outputs, taps, step, pad, out_h, out_w}, run);
}

KERNEL void __launch_bounds__(128, 3) conv_bwd_w_any(float *partial, const T *dy, const T *x, int batch, int height, int width,
    int channels, int outputs, int taps, int step, int pad, int out_h, int out_w, int run) {
  weights<64, 64, 32, 32, true>(partial, dy, x, {batch, height, width, channels, outputs, taps, step, pad, out_h, out_w}, run);
}

// dw [outputs, channels, taps] from partial [splits, outputs, taps, channels], added up in the order of the splits. A block has one
// output and `run` channels, and turns them round in shared memory [run, taps]: the
// taps of a square of odd width are odd, so that neighbouring channels lie in different banks.
KERNEL void __launch_bounds__(256) conv_bwd_w_sum(float *dw, const float *partial, int add, int splits, int outputs, int channels, int taps, int run) {
  SHARED_DYN(bytes);
  float *turned = (float *)bytes;
  const int o = blockIdx.x, first = blockIdx.y * run, here = min(run, channels - first);
  for (int e = threadIdx.x; e < taps * here; e += blockDim.x) {
    const int tap = e / here, c = e % here;
    const float *from = partial + ((u64)o * taps + tap) * channels + first + c;
    float sum = 0.f;
    for (int z = 0; z < splits; z++) sum += from[(u64)z * outputs * taps * channels];
    turned[c * taps + tap] = sum;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < taps * here; e += blockDim.x) {
    float *to = dw + ((u64)o * channels + first) * taps + e;
    *to = add ? *to + turned[e] : turned[e];
  }
}
