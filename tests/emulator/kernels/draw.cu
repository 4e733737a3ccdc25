// What the augmentation draws, written out: the words of a stream, and the parameters of views.
#include "draw.cuh"

// words [n, 4]: the blocks of four words that `blocks` [n] names.
KERNEL void __launch_bounds__(64) philox_words(u32 *words, const u32 *blocks, const u32 *counter, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  u32 four[4];
  philox(Stream{{counter[0], counter[1]}, counter[2], counter[3], counter[4]}, blocks[i], four);
  for (int k = 0; k < 4; k++) words[4 * i + k] = four[k];
}

// drawn [n, 19]: view i of sample `sample` under one policy, of an image of height x width.
KERNEL void __launch_bounds__(32) draw_views(u32 *drawn, const u32 *policy, u32 seed_low, u32 seed_high, u32 purpose, u32 epoch, u32 sample,
                                             int height, int width) {
  SHARED(Drawn, d, [1]);
  draw(d[0], *(const Policy *)policy, Stream{{seed_low, seed_high}, sample, epoch, purpose | blockIdx.x}, height, width);
  const u32 *from = (const u32 *)d;
  for (int i = threadIdx.x; i < 19; i += 32) drawn[19 * blockIdx.x + i] = i >= 6 && i < 10 && i - 6 >= d[0].count ? 0 : from[i];
}
