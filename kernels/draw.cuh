// The parameters of one view, drawn on the device: src/view/draw.rs, bit for bit.
//
// In double precision exp is within an ulp of the CPU's, all else is rounded alike. A side of the box differs when its root lies
// within some 1e-16 of itself from a half: about once in 1e13 draws for a side of 500.
#pragma once
#include "random.cuh"

constexpr int TRIES = 10;                    // of the crop
constexpr int BLOCKS = (4 * TRIES + 16) / 4; // of four words; the last three words have no meaning

enum Crop { CROP_RANDOM, CROP_CENTER, CROP_SQUARE };
constexpr u32 PLAIN = 16;  // beside the bits of the Tones: nothing happens to a view, so it is resized as Pillow does it
enum Tone { BRIGHTNESS, CONTRAST, SATURATION, HUE };

// One policy, as src/ops/augment.rs writes it.
struct Policy {
  double area[2], log_ratio[2], ratio[2];
  int size;          // of the view, in pixels
  int crop, resize;  // a Crop; pixels of the short side, or of all sides of CROP_SQUARE
  int cubic;         // 0: bilinear
  u32 tones;         // bit t: Tone t has a strength
  float flip, gray;
  float mean[3], scale[3];  // scale: 1 / deviation
  float jitter, brightness[2], contrast[2], saturation[2], hue[2];
  float blur, sigma[2];
  int kernel;  // width of the blur in pixels; 0: from its sigma
  float solarize, threshold;
};

struct Drawn {
  int top, left, height, width;  // the box
  int flip, gray;
  int steps[4], count, before;  // the jitter's Tones in their order; how many, and how many before the contrast (count: no contrast)
  float factor[4];              // by Tone
  float sigma;                  // 0: no blur
  int kernel;                   // width of the blur; 0: none
  float threshold;              // of solarize; infinity: none
};

DEVICE double between(const double (&range)[2], u32 word) {
  return __dadd_rn(range[0], __dmul_rn(range[1] - range[0], (double)uniform(word)));
}

// The largest box in the middle whose width / height keeps within the ratios.
DEVICE void middle(Drawn &d, const Policy &p, int height, int width) {
  const double ratio = (double)width / height;
  int h = height, w = width;
  if (ratio < p.ratio[0])
    h = max(__double2int_rn(width / p.ratio[0]), 1);
  else if (ratio > p.ratio[1])
    w = max(__double2int_rn(height * p.ratio[1]), 1);
  d.top = (height - h) / 2, d.left = (width - w) / 2, d.height = h, d.width = w;
}

// All lanes of a warp: lane t is try t, and the first that fits counts.
DEVICE void draw_crop(Drawn &d, const Policy &p, const u32 *words, int height, int width) {
  const int lane = threadIdx.x & 31;
  const u32 *w4 = words + 4 * min(lane, TRIES - 1);
  const double area = __dmul_rn((double)height * width, between(p.area, w4[0]));
  const double aspect = exp(between(p.log_ratio, w4[1]));
  const int w = __double2int_rn(sqrt(__dmul_rn(area, aspect))), h = __double2int_rn(sqrt(area / aspect));
  const bool fits = lane < TRIES && 0 < w && w <= width && 0 < h && h <= height;
  const u32 all = __ballot_sync(0xffffffffu, fits);
  if (p.crop != CROP_RANDOM) {
    if (lane == 0) d.top = 0, d.left = 0, d.height = height, d.width = width;
  } else if (all == 0) {
    if (lane == 0) middle(d, p, height, width);
  } else if (lane == __ffs(all) - 1) {
    d.top = below(height - h + 1, w4[2]), d.left = below(width - w + 1, w4[3]), d.height = h, d.width = w;
  }
}

// What comes after the crop, by one thread. `words` from word 40 on.
DEVICE void draw_tones(Drawn &d, const Policy &p, const u32 *words) {
  const float INFINITE = __uint_as_float(0x7f800000u);
  d.flip = uniform(words[0]) < p.flip;
  int order[4] = {BRIGHTNESS, CONTRAST, SATURATION, HUE};
#pragma unroll
  for (int place = 3; place > 0; place--) {
    const int partner = below(place + 1, words[5 - place]), moved = order[place];
#pragma unroll
    for (int i = 0; i <= place; i++)  // registers have no run-time index
      if (i == partner) order[place] = order[i], order[i] = moved;
  }
  const bool jitter = uniform(words[1]) < p.jitter;
  d.count = 0, d.before = 0;
  bool contrast = false;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (!jitter || !(p.tones >> order[i] & 1)) continue;
    contrast |= order[i] == CONTRAST;
    d.before += !contrast;
    d.steps[d.count++] = order[i];
  }
  d.factor[BRIGHTNESS] = range(p.brightness[0], p.brightness[1], words[5]);
  d.factor[CONTRAST] = range(p.contrast[0], p.contrast[1], words[6]);
  d.factor[SATURATION] = range(p.saturation[0], p.saturation[1], words[7]);
  d.factor[HUE] = range(p.hue[0], p.hue[1], words[8]);
  d.gray = uniform(words[9]) < p.gray;
  d.sigma = uniform(words[10]) < p.blur ? range(p.sigma[0], p.sigma[1], words[11]) : 0.0f;
  d.kernel = d.sigma == 0.0f ? 0 : p.kernel ? p.kernel : 2 * (int)ceil(3.0 * (double)d.sigma) + 1;
  if (d.kernel == 1) d.kernel = 0;  // its only weight is 1, and no room is kept for it
  d.threshold = uniform(words[12]) < p.solarize ? p.threshold : INFINITE;
}

// Draws into shared memory; all threads of the block call it and see the result.
DEVICE void draw(Drawn &d, const Policy &p, const Stream &stream, int height, int width) {
  SHARED(u32, words, [4 * BLOCKS]);
  if (threadIdx.x < 32) {
    if (threadIdx.x < BLOCKS) {
      u32 four[4];
      philox(stream, threadIdx.x, four);
      *(uint4 *)(words + 4 * threadIdx.x) = make_uint4(four[0], four[1], four[2], four[3]);
    }
    __syncwarp();
    draw_crop(d, p, words, height, width);
    if (threadIdx.x == 0) draw_tones(d, p, words + 4 * TRIES);
  }
  __syncthreads();
}
