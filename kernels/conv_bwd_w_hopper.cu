// The product of conv_bwd_w.cu on Hopper, in bf16, for channels and outputs that are multiples of eight (16 bytes). wgmma reads
// MN-major tiles without a transposition.
//
// Floor: as in conv_bwd_w.cu; shared memory as in conv_hopper.cu.
#include "product_hopper.cuh"
#include "conv_bwd_w.cuh"

KERNEL void __launch_bounds__(256, 2) conv_bwd_w_hopper(float *partial, const T *dy, const T *x, GRID_CONSTANT Window g, int run) {
  constexpr int THREADS = 256, STAGES = 3;
  SHARED_DYN(smem);
  const int across = (g.depth() + 127) / 128, m0 = blockIdx.x / across * 128, n0 = blockIdx.x % across * 128;
  const int begin = blockIdx.y * run, end = min(begin + run, g.pixels());
  const Outputs<128, THREADS> rows = {dy, g.outputs, m0, end};
  Seen<128, THREADS> seen(x, g, n0, begin, end);
  float acc[1][16][4];
  clear(acc);
  multiply_warpgroups<MnMajor<128>, MnMajor<128>, STAGES, 0>(acc, smem, (end - begin + BK - 1) / BK, [&](u8 *slot, int step) {
    rows.load(slot, begin + step * BK);
    seen.load(slot + 128 * ROW, begin + step * BK);
  });
  put_sums<false>(partial, acc, g, m0 + threadIdx.x / 32 * 16, n0);
}
