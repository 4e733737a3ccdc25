// MAE's loss: the mean squared error of the pixels of hidden patches. One warp per patch.
#include "rows.cuh"

DEVICE int warp_of_grid() { return blockIdx.x * (THREADS / 32) + (threadIdx.x >> 5); }

// A patch of an image: columns are (i, j, channel), so each of its rows is a run of neighbours.
struct Patch {
  const T *first;
  int run, line, cols;

  __device__ __forceinline__ float operator[](int c) const { return to_f32(first[(u64)(c / run) * line + c % run]); }
};
DEVICE Patch patch_of(const T *images, int image, int l, int height, int width, int channels, int patch) {
  const int across = width / patch;
  const u64 pixel = ((u64)image * height + l / across * patch) * width + l % across * patch;
  return {images + pixel * channels, patch * channels, width * channels, patch * patch * channels};
}

// Per hidden patch: its loss, and in `saved` the mean and 1/std of its pixels (0 and 1 without normalisation).
// Floor: hidden rows of pred and their pixels once.
KERNEL void __launch_bounds__(THREADS)
    mae_loss_fwd(float *losses, float *saved, const T *pred, const T *images, const u32 *place, int n, int height, int width,
                 int channels, int patch, int keep, int normalize) {
  const int patches = (height / patch) * (width / patch), at = warp_of_grid(), lane = threadIdx.x & 31;
  if (at >= n * patches) return;
  float mean = 0, inverse = 1, loss = 0;
  if (place[at] >= keep) {
    const Patch target = patch_of(images, at / patches, at % patches, height, width, channels, patch);
    if (normalize) {
      for (int c = lane; c < target.cols; c += 32) mean += target[c];
      mean = warp_sum(mean) / target.cols;
      float squares = 0;
      for (int c = lane; c < target.cols; c += 32) {
        const float d = target[c] - mean;
        squares = fmaf(d, d, squares);
      }
      inverse = 1 / sqrtf(warp_sum(squares) / (target.cols - 1) + 1e-6f);
    }
    const T *row = pred + (u64)(at + at / patches + 1) * target.cols;
    for (int c = lane; c < target.cols; c += 32) {
      const float error = to_f32(row[c]) - (target[c] - mean) * inverse;
      loss = fmaf(error, error, loss);
    }
    loss = warp_sum(loss) / target.cols;
  }
  if (lane == 0) losses[at] = loss, saved[2 * at] = mean, saved[2 * at + 1] = inverse;
}

// Zero for token 0 and for patches that are seen. A warp per row of pred.
// Floor: hidden rows of pred and their pixels once, the gradient once.
KERNEL void __launch_bounds__(THREADS)
    mae_loss_bwd(T *dpred, const float *dloss, const T *pred, const T *images, const float *saved, const u32 *place, int add, int n,
                 int height, int width, int channels, int patch, int keep) {
  const int patches = (height / patch) * (width / patch), row = warp_of_grid(), lane = threadIdx.x & 31;
  if (row >= n * (patches + 1)) return;
  const int image = row / (patches + 1), l = row % (patches + 1) - 1, at = image * patches + l, cols = patch * patch * channels;
  dpred += (u64)row * cols, pred += (u64)row * cols;
  if (l < 0 || place[at] < keep) {
    if (!add)
      for (int c = lane; c < cols; c += 32) dpred[c] = from_f32(0.f);
    return;
  }
  const Patch target = patch_of(images, image, l, height, width, channels, patch);
  const float mean = saved[2 * at], inverse = saved[2 * at + 1];
  const float scale = 2 * dloss[0] / ((float)n * (patches - keep) * cols);
  for (int c = lane; c < cols; c += 32) {
    const float g = scale * (to_f32(pred[c]) - (target[c] - mean) * inverse);
    dpred[c] = from_f32(add ? to_f32(dpred[c]) + g : g);
  }
}
