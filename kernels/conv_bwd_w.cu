// Gradient of a convolution's weights: dw = dy^T gather(x), summed over the pixels of the batch.
//
// An implicit GEMM whose K is the pixels, so both tiles are MN-major and ldmatrix transposes them. K is long and dw is small, so K is
// split over `splits` blocks per tile (split-K). A second kernel adds their partial sums in order: without atomics the bits never change.
//
// Floor: 2 pixels outputs taps channels FLOP; dy and x once, the partial sums written and read once.
#include "conv_bwd_w.cuh"

// As Seen, one value at a time. A warp takes one pixel, so its position is computed once for all columns.
template <int COLS, int THREADS> DEVICE void seen_any(u8 *tile, const T *x, const Window &g, int first, int pixel, int end) {
  for (int k = threadIdx.x >> 5; k < BK; k += THREADS / 32) {
    const int p = pixel + k, j = p % g.out_w * g.stride - g.pad, rest = p / g.out_w, i = rest % g.out_h * g.stride - g.pad, n = rest / g.out_h;
#pragma unroll
    for (int c = threadIdx.x & 31; c < COLS; c += 32) {
      const int column = first + c, tap = column / g.channels, h = i + tap / g.taps, w = j + tap % g.taps;
      const bool in = p < end && column < g.depth() && (u32)h < (u32)g.height && (u32)w < (u32)g.width;
      *(T *)(tile + MnMajor<COLS>::at(c, k)) =
          in ? x[(((long long)n * g.height + h) * g.width + w) * g.channels + column % g.channels] : from_f32(0.f);
    }
  }
}

template <int BM, int BN, int WM, int WN, bool ANY> DEVICE void weights(float *partial, const T *dy, const T *x, const Window &g, int run) {
  constexpr int THREADS = BM / WM * (BN / WN) * 32, MI = WM / 16, NI = WN / 8, BYTES = (BM + BN) * ROW;
  SHARED_DYN(smem);
  const int across = (g.depth() + BN - 1) / BN, m0 = blockIdx.x / across * BM, n0 = blockIdx.x % across * BN;
  const int begin = blockIdx.y * run, end = min(begin + run, g.pixels()), steps = (end - begin + BK - 1) / BK;
  const int warp = threadIdx.x >> 5, wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
  float acc[MI][NI][4];
  clear(acc);
  const Outputs<BM, THREADS> outputs = {dy, g.outputs, m0, end};
  auto use = [&](const u8 *slot) { multiply<MnMajor<BM>, MnMajor<BN>>(acc, slot, slot + BM * ROW, wm, wn); };
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
  put_sums<ANY>(partial, acc, g, m0 + wm, n0 + wn);
}

KERNEL void __launch_bounds__(128, 2) conv_bwd_w_128x128(float *partial, const T *dy, const T *x, GRID_CONSTANT Window g, int run) {
  weights<128, 128, 64, 64, false>(partial, dy, x, g, run);
}

KERNEL void __launch_bounds__(128, 3) conv_bwd_w_64x128(float *partial, const T *dy, const T *x, GRID_CONSTANT Window g, int run) {
  weights<64, 128, 32, 64, false>(partial, dy, x, g, run);
}

KERNEL void __launch_bounds__(128, 3) conv_bwd_w_any(float *partial, const T *dy, const T *x, GRID_CONSTANT Window g, int run) {
  weights<64, 64, 32, 32, true>(partial, dy, x, g, run);
}

// dw [outputs, channels, taps] = sum of partial [splits, outputs, taps, channels] in the order of the splits. A block takes one output and
// `run` channels, and transposes them in shared memory [run, taps] f32. The number of taps is odd for a square of odd width, so
// neighbouring channels lie in different banks.
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
