// The step that follows the gradient, for all weights in one launch: SGD, Adam, AdamW, LARS. One block per chunk of a weight.
#include "schedule.cuh"

// As in src/ops/optimize/mod.rs.
constexpr int THREADS = 256, WORDS = 7;
constexpr u32 DECAYS = 1, MATRIX = 2, FIXED = 4;

// A row of the table: up to 8192 values of one weight.
struct Chunk {
  float *w;               // [len]
  const float *g;         // [len]
  float *first, *second;  // [len] moments; second: Adam's
  int len;
  u32 flags;         // DECAYS, MATRIX (more than one dimension), FIXED
  int begin, count;  // the weight's chunks: row numbers of the table
  float rate;        // the learning rate if FIXED, else a factor of the schedule's
  u32 from;          // the first step that updates the weight
};

DEVICE Chunk load_chunk(const u64 *chunks) {
  const u64 *row = chunks + (u64)blockIdx.x * WORDS;
  return {(float *)row[0], (const float *)row[1], (float *)row[2], (float *)row[3], (int)(u32)row[4], (u32)(row[4] >> 32),
          (int)(u32)row[5], (int)(row[5] >> 32), __uint_as_float((u32)row[6]), (u32)(row[6] >> 32)};
}

DEVICE float rate_of(const Chunk &c, const float *schedule, const u32 *step) {
  return c.flags & FIXED ? c.rate : c.rate * scheduled(schedule, step, LEARNING_RATE);
}
DEVICE float decay_of(const Chunk &c, const float *schedule, const u32 *step) {
  return c.flags & DECAYS ? scheduled(schedule, step, WEIGHT_DECAY) : 0;
}

// The factor that clips the norm of the weight's whole gradient to `clip`. All threads call it.
// gradients [chunks]: each chunk's sum of squares; null if nothing is clipped.
DEVICE float clipped(const Chunk &c, const float *gradients, float clip) {
  if (!gradients) return 1;
  double squares = 0;
  for (int i = c.begin + threadIdx.x; i < c.begin + c.count; i += THREADS) squares += gradients[i];
  const double scale = clip / (sqrt(block_sum(squares)) + 1e-6);
  return scale < 1 ? scale : 1;
}

// move4(i) for groups of four values, aligned to 16 bytes, then move1(i) for the rest.
template <class Four, class One> DEVICE void for_each(int len, Four move4, One move1) {
  for (int i = 4 * threadIdx.x; i + 3 < len; i += 4 * THREADS) move4(i);
  for (int i = len / 4 * 4 + threadIdx.x; i < len; i += THREADS) move1(i);
}

// v = momentum v + trust (scale g + decay w); w -= rate v.
struct Momentum {
  float momentum, decay, trust, rate, scale;
};
DEVICE void move(float &w, float g, float &v, const Momentum &m) {
  v = m.momentum * v + m.trust * (m.scale * g + m.decay * w);
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

// gradients[chunk] = the sum of the squares of a chunk's gradient.
// Floor: 4 bytes per weight.
KERNEL void __launch_bounds__(THREADS) optimize_norms(float *gradients, const u64 *chunks) {
  const Chunk c = load_chunk(chunks);
  float sum = 0;
  for_each(
      c.len,
      [&](int i) {
        float g[4];
        load16(c.g + i, g);
#pragma unroll
        for (int k = 0; k < 4; k++) sum += g[k] * g[k];
      },
      [&](int i) { sum += c.g[i] * c.g[i]; });
  const double squares = block_sum((double)sum);
  if (threadIdx.x == 0) gradients[blockIdx.x] = squares;
}

// Floor: 20 bytes per weight.
KERNEL void __launch_bounds__(THREADS)
    optimize_sgd(const u64 *chunks, const float *gradients, const float *schedule, const u32 *step, float clip, float momentum) {
  const Chunk c = load_chunk(chunks);
  if (*step < c.from) return;
  const float scale = clipped(c, gradients, clip);
  move(c, {momentum, decay_of(c, schedule, step), 1, rate_of(c, schedule, step), scale});
}

struct Adam {
  float beta1, beta2, eps;
  float rate;    // / (1 - beta1^t)
  float root;    // 1 / sqrt(1 - beta2^t)
  float decay;   // added to the gradient
  float shrink;  // multiplies the weight first
  float scale;   // multiplies the gradient
};
DEVICE void move(float &w, float g, float &m, float &v, const Adam &a) {
  g = a.scale * g + a.decay * w;
  w *= a.shrink;
  m = a.beta1 * m + (1 - a.beta1) * g;
  v = a.beta2 * v + (1 - a.beta2) * g * g;
  w -= a.rate * m / (sqrtf(v) * a.root + a.eps);
}

// Adam's bias correction 1 - beta^t. In f64, because beta^t is close to 1 for small t.
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
    optimize_adam(const u64 *chunks, const float *gradients, const float *schedule, const u32 *step, int decoupled, float clip, float beta1,
                  float beta2, float eps) {
  SHARED(double, corrections, [2]);
  const Chunk c = load_chunk(chunks);
  if (*step < c.from) return;
  // One lane in each of two warps: consumer cards compute f64 at 1/64 of the rate of f32, so no thread does both.
  if (threadIdx.x % 32 == 0 && threadIdx.x < 64) corrections[threadIdx.x / 32] = correction(threadIdx.x ? beta2 : beta1, *step - c.from + 1);
  __syncthreads();
  const float rate = rate_of(c, schedule, step), decay = decay_of(c, schedule, step), scale = clipped(c, gradients, clip);
  const Adam a = {beta1, beta2, eps, (float)(rate / corrections[0]), (float)(1 / sqrt(corrections[1])), decoupled ? 0 : decay,
                  decoupled ? 1 - rate * decay : 1, scale};
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

// As `LarsVariant` in src/ops/optimize.
enum LarsVariant { PLAIN, CLASSIC, CLIPPED };

// partials[chunk] = sums of w^2 and (scale g + decay w)^2, for the chunks of matrices; of g alone for CLIPPED.
// Floor: 8 bytes per weight.
KERNEL void __launch_bounds__(THREADS)
    optimize_lars_norms(float *partials, const u64 *chunks, const float *gradients, const float *schedule, const u32 *step, int variant, float clip) {
  const Chunk c = load_chunk(chunks);
  if (!(c.flags & MATRIX)) return;
  const float decay = variant == CLIPPED ? 0.f : decay_of(c, schedule, step), scale = clipped(c, gradients, clip);
  float weight = 0, moved = 0;
  auto add = [&](float w, float g) {
    g = scale * g + decay * w;
    weight += w * w, moved += g * g;
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
  const double weights = block_sum((double)weight), moves = block_sum((double)moved);
  if (threadIdx.x == 0) partials[2 * blockIdx.x] = weights, partials[2 * blockIdx.x + 1] = moves;
}

// Floor: 20 bytes per weight.
KERNEL void __launch_bounds__(THREADS)
    optimize_lars(const u64 *chunks, const float *gradients, const float *partials, const float *schedule, const u32 *step, int variant,
                  float clip, float momentum, float trust) {
  const Chunk c = load_chunk(chunks);
  if (*step < c.from) return;
  const float scale = clipped(c, gradients, clip), rate = rate_of(c, schedule, step);
  float ratio = 1, decay = decay_of(c, schedule, step);
  if (c.flags & MATRIX) {
    double weight = 0, gradient = 0;
    for (int i = c.begin + threadIdx.x; i < c.begin + c.count; i += THREADS) weight += partials[2 * i], gradient += partials[2 * i + 1];
    weight = sqrt(block_sum(weight)), gradient = sqrt(block_sum(gradient));
    if (weight > 0 && gradient > 0) {
      const double full = trust * weight / (variant == CLIPPED ? gradient + decay * weight + 1e-8 : gradient);
      ratio = variant == CLIPPED ? fmin(full / rate, 1.) : full;
    } else if (variant == CLIPPED) {
      decay = 0;
    }
  }
  if (variant == CLASSIC) move(c, {momentum, decay, ratio * rate, 1, scale});
  else move(c, {momentum, decay, ratio, rate, scale});
}
