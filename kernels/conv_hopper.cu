// The product of conv.cu on Hopper, in bf16, for channels and outputs that are multiples of eight (16 bytes).
//
// Floor: as in conv.cu. Shared memory limits the narrow tile: a step of 128 x 128 x 64 writes 32 KB and wgmma reads 48 KB for 2.1 MFLOP,
// 512 tensor-core cycles. That asks for 160 bytes per cycle where shared memory has 128, so the tensor cores are busy at most 80 % of
// the time. A step of 128 x 256 x 64 writes 48 KB and reads 80 KB for twice the FLOP: 128 bytes per cycle.
#include "product_hopper.cuh"
#include "conv.cuh"

// S: the Tile, BN columns wide. UNDER_WAY as in product_hopper.cuh.
template <class S, int BN, int UNDER_WAY> DEVICE void conv(const EpilogueParams &to, const T *x, const T *w, const Gather &g) {
  SHARED_DYN(smem);
  int tile, n0;
  place_of_block<128, BN>(g, tile, n0);
  const Rows<BN, S::THREADS> weights = {w, g.outputs, g.depth(), n0};
  Pixels<128, S::THREADS> pixels(x, g, tile * 128);
  float acc[S::MI][S::NI][4];
  clear(acc);
  multiply_warpgroups<KMajor, KMajor, S::STAGES, UNDER_WAY>(acc, smem, (g.depth() + BK - 1) / BK, [&](u8 *slot, int step) {
    pixels.load(slot);
    weights.load(slot + 128 * ROW, step);
  });
  epilogue<S, 128, BN, 16, BN, false>(acc, smem, g, to, tile, n0);
}

KERNEL void __launch_bounds__(256, 2) conv_hopper(GRID_CONSTANT EpilogueParams to, const T *x, const T *w, GRID_CONSTANT Gather g) {
  conv<Tile<128, 128, 16, 128, 3>, 128, 0>(to, x, w, g);
}

KERNEL void __launch_bounds__(256, 1) conv_hopper_wide(GRID_CONSTANT EpilogueParams to, const T *x, const T *w, GRID_CONSTANT Gather g) {
  conv<Tile<128, 256, 16, 256, 4>, 256, 1>(to, x, w, g);
}
