// Packs the weights for the products: f32 [outputs, channels, k, k] to T, all weights of a program in one launch.
//
// forward:  [outputs, k, k, channels]. A folded batch norm scales it and gives the shift.
// backward: for the gradient of the input, one block [channels, taps_h, taps_w, outputs] per residue of the tap by the stride, taps reversed.
//
// Floor: 4 bytes read and 2 sizeof(T) written per weight.
#include "prelude.cuh"

constexpr float EPS = 1e-5f;  // of the folded batch norm
constexpr int OUTPUTS = 32;   // of a block

// A row of the table: what a block packs.
struct PackedWeight {
  const float *w;
  T *forward, *backward;                  // backward may be null
  float *shift;                           // [outputs]; null without a norm, like the next four
  const float *gamma, *beta, *mean, *var; // [outputs]
  int outputs, channels, kernel, stride;
  int first_output, first_channel, run;   // the block's outputs and its `run` channels
  int unused;
};

// Taps with this residue.
DEVICE int taps(int kernel, int stride, int residue) { return (kernel - residue + stride - 1) / stride; }
// Taps with smaller residues.
DEVICE int taps_before(int kernel, int stride, int residue) {
  int sum = 0;
  for (int r = 0; r < residue; r++) sum += taps(kernel, stride, r);
  return sum;
}

KERNEL void __launch_bounds__(256) pack(const u64 *table) {
  SHARED_DYN(bytes);
  SHARED(float, scale, [OUTPUTS]);
  float *tile = (float *)bytes;  // [OUTPUTS][run k k + 1]
  const PackedWeight p = ((const PackedWeight *)table)[blockIdx.x];
  const int area = p.kernel * p.kernel, outputs = min(OUTPUTS, p.outputs - p.first_output), run = min(p.run, p.channels - p.first_channel);
  const int line = run * area, pitch = line + 1;
  if (threadIdx.x < outputs) {
    const int o = p.first_output + threadIdx.x;
    float s = 1.f;
    if (p.gamma) {
      s = p.gamma[o] / sqrtf(p.var[o] + EPS);
      if (p.first_channel == 0) p.shift[o] = p.beta[o] - p.mean[o] * s;
    }
    scale[threadIdx.x] = s;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < outputs * line; e += blockDim.x) {
    const int o = e / line, at = e % line;
    tile[o * pitch + at] = p.w[((u64)(p.first_output + o) * p.channels + p.first_channel) * area + at] * scale[o];
  }
  __syncthreads();
  for (int e = threadIdx.x; e < outputs * line; e += blockDim.x) {
    const int c = e % run, tap = e / run % area, o = e / line;
    p.forward[((u64)(p.first_output + o) * area + tap) * p.channels + p.first_channel + c] = from_f32(tile[o * pitch + c * area + tap]);
  }
  if (!p.backward) return;
  for (int e = threadIdx.x; e < outputs * line; e += blockDim.x) {
    const int o = e % outputs, tap = e / outputs % area, c = e / outputs / area, i = tap / p.kernel, j = tap % p.kernel;
    const int ri = i % p.stride, rj = j % p.stride, high = taps(p.kernel, p.stride, ri), wide = taps(p.kernel, p.stride, rj);
    const u64 before = taps_before(p.kernel, p.stride, ri) * p.kernel + high * taps_before(p.kernel, p.stride, rj);
    const int ti = high - 1 - i / p.stride, tj = wide - 1 - j / p.stride;
    const u64 row = before * p.channels + ((u64)(p.first_channel + c) * high + ti) * wide + tj;
    p.backward[row * p.outputs + p.first_output + o] = from_f32(tile[o * pitch + c * area + tap]);
  }
}
