// Random masking as in MAE: the patches with the smallest noise are seen. One block per image.
//
// Floor: 4 (tokens + keep) bytes written. Ranks are counted: tokens^2 comparisons of numbers in shared memory, which all lanes read
// together.
#include "random.cuh"
#include "rows.cuh"

KERNEL void __launch_bounds__(THREADS)
    mask(u32 *ids, u32 *place, const u32 *keys, int tokens, int keep, u32 seed_low, u32 seed_high, u32 view) {
  SHARED_DYN(smem);
  u32 *noise = (u32 *)smem;  // [tokens]: the bits of which the uniform number is made
  const int image = blockIdx.x;
  const Stream stream = {{seed_low, seed_high}, keys[2 * image + 1], keys[2 * image], view};
  for (int block = threadIdx.x; block * 4 < tokens; block += THREADS) {
    u32 words[4];
    philox(stream, block, words);
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (block * 4 + i < tokens) noise[block * 4 + i] = words[i] >> 8;
  }
  __syncthreads();
  for (int l = threadIdx.x; l < tokens; l += THREADS) {
    const u32 mine = noise[l];
    int rank = 0;
    for (int k = 0; k < tokens; k++) rank += noise[k] < mine || (noise[k] == mine && k < l);
    place[at(image, tokens, l)] = rank;
    if (rank < keep) ids[at(image, keep, rank)] = l;
  }
}
