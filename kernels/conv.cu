// Convolution and matrix product, forward and gradient of the input: y = activation(gather(x) w + shift + residual), NHWC.
//
// An implicit GEMM: M is the pixels of the result, N the output channels, K the taps times the input channels. The windows are gathered
// while they are copied to shared memory, so the im2col matrix never exists in global memory. The gradient of the input is the same
// product over dy with the taps reversed. With stride s it takes s^2 launches, one for each residue of the pixel, because each residue is
// reached by other taps. A linear layer is a convolution of maps of one pixel.
//
// Floor: 2 rows outputs taps channels FLOP; x, w and y (and the residual) once. A step of 128 x 256 x 32 reads 24 KB into shared memory
// for 2.1 MFLOP, 87 FLOP per byte, and a warp reads 4 KB of fragments for 32 mma.
#include "conv.cuh"

// As Pixels, one value at a time, for channels that are no multiple of VEC. Registers would not hold the windows' positions of all rows,
// so shared memory does: base, top and left, [ROWS] each.
template <int ROWS, int THREADS> struct AnyPixels {
  const T *x;
  const Gather &g;
  long long *base;
  int *top, *left;

  MEMBER AnyPixels(const T *x_, const Gather &g_, int first, long long *base_, int *top_, int *left_)
      : x(x_), g(g_), base(base_), top(top_), left(left_) {
    for (int r = threadIdx.x; r < ROWS; r += THREADS) {
      const int row = first + r, n = row / g.out_w / g.out_h;
      top[r] = row < g.rows() ? row / g.out_w % g.out_h * g.stride + g.from_h : NOWHERE;
      left[r] = row % g.out_w * g.stride + g.from_w;
      base[r] = (((long long)n * g.height + top[r]) * g.width + left[r]) * g.channels;
    }
    __syncthreads();
  }
  MEMBER void load(u8 *tile, int step) const {
    const int column = threadIdx.x % BK, k = step * BK + column;
    const int tap = k / g.channels, tap_i = tap / g.taps_w, tap_j = tap % g.taps_w;
    const int offset = (tap_i * g.width + tap_j) * g.channels + k % g.channels;
    for (int r = threadIdx.x / BK; r < ROWS; r += THREADS / BK) {
      const int h = top[r] + tap_i, w = left[r] + tap_j;
      const bool in = tap_i < g.taps_h && (u32)h < (u32)g.height && (u32)w < (u32)g.width;
      *(T *)(tile + KMajor::at(r, column)) = in ? x[base[r] + offset] : from_f32(0.f);
    }
  }
};

template <int BM, int BN, int WM, int WN, bool ANY> DEVICE void conv(const EpilogueParams &to, const T *x, const T *w, const Gather &g) {
  typedef Tile<BM, BN, WM, WN> S;
  SHARED_DYN(smem);
  int tile, n0;
  place_of_block<BM, BN>(g, tile, n0);
  const int warp = threadIdx.x >> 5, steps = (g.depth() + BK - 1) / BK;
  const Rows<BN, S::THREADS> weights = {w, g.outputs, g.depth(), n0};
  float acc[S::MI][S::NI][4];
  clear(acc);
  auto use = [&](const u8 *slot) { multiply<KMajor, KMajor>(acc, slot, slot + BM * ROW, warp / (BN / WN) * WM, warp % (BN / WN) * WN); };
  if constexpr (ANY) {
    SHARED(long long, base, [BM]);
    SHARED(int, top, [BM]);
    SHARED(int, left, [BM]);
    const AnyPixels<BM, S::THREADS> pixels(x, g, tile * BM, base, top, left);
    pipeline<S::STAGES, S::BYTES>(smem, steps, [&](u8 *slot, int step) {
      pixels.load(slot, step);
      weights.load_any(slot + BM * ROW, step);
    }, use);
  } else {
    Pixels<BM, S::THREADS> pixels(x, g, tile * BM);
    pipeline<S::STAGES, S::BYTES>(smem, steps, [&](u8 *slot, int step) {
      pixels.load(slot);
      weights.load(slot + BM * ROW, step);
    }, use);
  }
  epilogue<S, BM, BN, WM, WN, ANY>(acc, smem, g, to, tile, n0);
}

KERNEL void __launch_bounds__(256, 1) conv_128x256(GRID_CONSTANT EpilogueParams to, const T *x, const T *w, GRID_CONSTANT Gather g) {
  conv<128, 256, 64, 64, false>(to, x, w, g);
}

KERNEL void __launch_bounds__(128, 2) conv_128x128(GRID_CONSTANT EpilogueParams to, const T *x, const T *w, GRID_CONSTANT Gather g) {
  conv<128, 128, 64, 64, false>(to, x, w, g);
}

KERNEL void __launch_bounds__(128, 2) conv_128x64(GRID_CONSTANT EpilogueParams to, const T *x, const T *w, GRID_CONSTANT Gather g) {
  conv<128, 64, 64, 32, false>(to, x, w, g);
}

KERNEL void __launch_bounds__(128, 2) conv_any(GRID_CONSTANT EpilogueParams to, const T *x, const T *w, GRID_CONSTANT Gather g) {
  conv<128, 64, 64, 32, true>(to, x, w, g);
}
