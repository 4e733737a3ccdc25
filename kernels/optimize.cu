// The step that follows the gradient, for all weights in one launch: SGD, Adam, AdamW, LARS. One block per chunk of a weight.
#include "schedule.cuh"

// As in src/ops/optimize.rs.
constexpr int THREADS = 256, WORDS = 6;
constexpr u32 DECAYS = 1, MATRIX = 2;

// A row of the table: up to CHUNK values of one weight. A weight has one dimension or is a matrix.
struct Chunk {
  float *w;
  const float *g;
  float *first, *second;  // moments; second: Adam's
  int len;
  u32 flags;
  int begin, count;  // the chunks of the same weight
};

DEVICE Chunk load_chunk(const u64 *chunks) {
  const u64 *row = chunks + (u64)blockIdx.x * WORDS;
  return {(float *)row[0], (const float *)row[1], (float *)row[2], (float *)row[3], (int)(u32)row[4], (u32)(row[4] >> 32),
          (int)(u32)row[5], (int)(row[5] >> 32)};
}

// move4(i) for four values from i on, which lie on 16 bytes, then move1(i) for the rest.
template <class Four, class One> DEVICE void for_each(int len, Four move4, One move1) {
  for (int i = 4 * threadIdx.x; i + 3 < len; i += 4 * THREADS) move4(i);
  for (int i = len / 4 * 4 + threadIdx.x; i < len; i += THREADS) move1(i);
}

// v = momentum v + trust (g + decay w); w -= rate v.
struct Momentum {
  float momentum, decay, trust, rate;
};
DEVICE void move(float &w, float g, float &v, const Momentum &m) {
  v = m.momentum * v + m.trust * (g + m.decay * w);
  w -= m.rate * v;
}
DEVICE void move(const Chunk &c, const Momentum &m) {
  for_each(
      c.len,
      [&](int i) {
        float w[4], g[4], v[4];
        load16(c.w + i, w), load16(c.g + i, g), load16(c.first + i, v);
#pragma unroll
        for (int k = 0; k < 4; k++) move(w[k], g[k], v[k], m);
        store16(c.w + i, w), store16(c.first + i, v);
      },
      [&](int i) { move(c.w[i], c.g[i], c.first[i], m); });
}

// Floor: 20 bytes per weight.
KERNEL void __launch_bounds__(THREADS) optimize_sgd(const u64 *chunks, const float *schedule, const u32 *step, float momentum) {
  const Chunk c = load_chunk(chunks);
  const float decay = c.flags & DECAYS ? knob(schedule, step, WEIGHT_DECAY) : 0;
  move(c, {momentum, decay, 1, knob(schedule, step, LEARNING_RATE)});
}

struct Adam {
  float beta1, beta2, eps;
  float rate;    // / (1 - beta1^t)
  float root;    // 1 / sqrt(1 - beta2^t)
  float decay;   // added to the gradient
  float shrink;  // multiplies the weight first
};
DEVICE void move(float &w, float g, float &m, float &v, const Adam &a) {
  g += a.decay * w;
  w *= a.shrink;
  m = a.beta1 * m + (1 - a.beta1) * g;
  v = a.beta2 * v + (1 - a.beta2) * g * g;
  w -= a.rate * m / (sqrtf(v) * a.root + a.eps);
}

// 1 - beta^t, which is far below 1 for small t: f64.
DEVICE double correction(float beta, u32 t) {
  double power = 1, square = beta;
  for (; t > 0; t >>= 1) {
    if (t & 1) power *= square;
    square *= square;
  }
  return 1 - power;
}

// Floor: 28 bytes per weight.
KERNEL void __launch_bounds__(THREADS)
    optimize_adam(const u64 *chunks, const float *schedule, const u32 *step, float beta1, float beta2, float eps, int decoupled) {
  SHARED(double, corrections, [2]);
  // Two warps: f64 is slow on cards for games.
  if (threadIdx.x % 32 == 0 && threadIdx.x < 64) corrections[threadIdx.x / 32] = correction(threadIdx.x ? beta2 : beta1, *step + 1);
  __syncthreads();
  const Chunk c = load_chunk(chunks);
  const float rate = knob(schedule, step, LEARNING_RATE), decay = c.flags & DECAYS ? knob(schedule, step, WEIGHT_DECAY) : 0;
  const Adam a = {beta1, beta2, eps, (float)(rate / corrections[0]), (float)(1 / sqrt(corrections[1])), decoupled ? 0 : decay,
                  decoupled ? 1 - rate * decay : 1};
  for_each(
      c.len,
      [&](int i) {
        float w[4], g[4], m[4], v[4];
        load16(c.w + i, w), load16(c.g + i, g), load16(c.first + i, m), load16(c.second + i, v);
#pragma unroll
        for (int k = 0; k < 4; k++) move(w[k], g[k], m[k], v[k], a);
        store16(c.w + i, w), store16(c.first + i, m), store16(c.second + i, v);
      },
      [&](int i) { move(c.w[i], c.g[i], c.first[i], c.second[i], a); });
}

// partials[chunk] = sums of w^2 and (g + decay w)^2, for the chunks of matrices.
// Floor: 8 bytes per weight.
KERNEL void __launch_bounds__(THREADS)
    optimize_lars_norms(float *partials, const u64 *chunks, const float *schedule, const u32 *step) {
  const Chunk c = load_chunk(chunks);
  if (!(c.flags & MATRIX)) return;
  const float decay = c.flags & DECAYS ? knob(schedule, step, WEIGHT_DECAY) : 0;
  float weight = 0, gradient = 0;
  auto add = [&](float w, float g) {
    g += decay * w;
    weight += w * w, gradient += g * g;
  };
  for_each(
      c.len,
      [&](int i) {
        float w[4], g[4];
        load16(c.w + i, w), load16(c.g + i, g);
#pragma unroll
        for (int k = 0; k < 4; k++) add(w[k], g[k]);
      },
      [&](int i) { add(c.w[i], c.g[i]); });
  const double weights = block_sum((double)weight), gradients = block_sum((double)gradient);
  if (threadIdx.x == 0) partials[2 * blockIdx.x] = weights, partials[2 * blockIdx.x + 1] = gradients;
}

// Floor: 20 bytes per weight.
KERNEL void __launch_bounds__(THREADS)
    optimize_lars(const u64 *chunks, const float *partials, const float *schedule, const u32 *step, float momentum, float trust) {
  const Chunk c = load_chunk(chunks);
  float ratio = 1;
  if (c.flags & MATRIX) {
    double weight = 0, gradient = 0;
    for (int i = c.begin + threadIdx.x; i < c.begin + c.count; i += THREADS) weight += partials[2 * i], gradient += partials[2 * i + 1];
    weight = sqrt(block_sum(weight)), gradient = sqrt(block_sum(gradient));
    if (weight > 0 && gradient > 0) ratio = trust * weight / gradient;
  }
  const float decay = c.flags & DECAYS ? knob(schedule, step, WEIGHT_DECAY) : 0;
  move(c, {momentum, decay, ratio, knob(schedule, step, LEARNING_RATE)});
}
