// DINO's loss between a student [crops * n, k] and a teacher [2 * n, k]; row v * n + i is view v of sample i. One block per row.
// Softmaxes are never stored: they are recomputed from each row's logsumexp.
//
// Floor of the loss: student and teacher once. The teacher is read once for its entropy and again by the student's rows of its sample;
// these are neighbouring blocks, so that they find it in the L2. Floor of the gradient: as much, and the gradient once.
#include "rows.cuh"
#include "schedule.cuh"

constexpr int VIEWS = 2;
#define NONE __uint_as_float(0xff800000u)  // less than any logit

// An online softmax with entropy: the largest logit so far, the sum of e = exp(x - top), and the sum of (top - x) e. The entropy,
// ln(sum) + weighted / sum, then has no cancellation, because both terms are positive.
struct Running {
  float top, sum, weighted;
};
DEVICE Running raised(const Running &r, float top) {
  if (r.sum == 0) return {top, 0, 0};
  const float shrink = expf(r.top - top);
  return {top, r.sum * shrink, (r.weighted + r.sum * (top - r.top)) * shrink};
}

template <int N> DEVICE void take(Running &r, const float (&z)[N]) {
  float top = r.top;
#pragma unroll
  for (int i = 0; i < N; i++) top = fmaxf(top, z[i]);
  r = raised(r, top);
#pragma unroll
  for (int i = 0; i < N; i++) {
    const float e = expf(z[i] - top);
    r.sum += e, r.weighted = fmaf(e, top - z[i], r.weighted);
  }
}
// Merges the threads' values; every thread gets the block's.
DEVICE Running merge(Running r) {
  r = raised(r, block_max(r.top));
  return {r.top, block_sum(r.sum), block_sum(r.weighted)};
}

template <int N> DEVICE void sharpened(float (&z)[N], const T *teacher, const float (&c)[N], float cold) {
  load(teacher, z);
#pragma unroll
  for (int i = 0; i < N; i++) z[i] = (z[i] - c[i]) * cold;
}

template <int N> DEVICE Running teacher_row(const T *teacher, const float *center, float cold, int k) {
  Running r = {NONE, 0, 0};
  for (int j = threadIdx.x * N; j < k; j += THREADS * N) {
    float z[N], c[N];
    load(center + j, c);
    sharpened(z, teacher + j, c, cold);
    take(r, z);
  }
  return merge(r);
}

// logsumexp and entropy of each teacher row.
KERNEL void __launch_bounds__(THREADS)
    dino_loss_teacher(float *log_sums, float *entropies, const T *teacher, const float *center, const float *schedule, const u32 *step,
                      int rows, int k) {
  const int row = blockIdx.x;
  const float cold = 1 / scheduled(schedule, step, TEMPERATURE);
  teacher += at(row, k, 0);
  const Running r = k % VEC == 0 ? teacher_row<VEC>(teacher, center, cold, k) : teacher_row<1>(teacher, center, cold, k);
  if (threadIdx.x != 0) return;
  log_sums[row] = r.top + logf(r.sum), entropies[row] = logf(r.sum) + r.weighted / r.sum;
}

// The teacher rows that a student row is compared with: the other views of its sample.
struct Partners {
  const T *row[VIEWS];
  float log_sum[VIEWS];
  bool counts[VIEWS];
  int count;
};
DEVICE Partners partners(const T *teacher, const float *of_teacher, int crop, int sample, int n, int k) {
  Partners p;
  p.count = 0;
#pragma unroll
  for (int v = 0; v < VIEWS; v++) {
    const int row = v * n + sample;
    p.row[v] = teacher + at(row, k, 0), p.log_sum[v] = of_teacher[row], p.counts[v] = v != crop;
    p.count += p.counts[v];
  }
  return p;
}

template <int N>
DEVICE void student_row(Running &r, float &across, const T *student, const Partners &p, const float *center, float cold, float hot, int k) {
  for (int j = threadIdx.x * N; j < k; j += THREADS * N) {
    float s[N], c[N];
    load(student + j, s), load(center + j, c);
#pragma unroll
    for (int i = 0; i < N; i++) s[i] /= hot;
    take(r, s);
#pragma unroll
    for (int v = 0; v < VIEWS; v++) {
      if (!p.counts[v]) continue;
      float z[N];
      sharpened(z, p.row[v] + j, c, cold);
#pragma unroll
      for (int i = 0; i < N; i++) across = fmaf(expf(z[i] - p.log_sum[v]), s[i], across);
    }
  }
}

// logsumexp and loss of each student row; the loss is the sum over its partners. Blocks of one sample are neighbours.
KERNEL void __launch_bounds__(THREADS, 4)
    dino_loss_fwd(float *log_sums, float *losses, const T *student, const T *teacher, const float *center, const float *of_teacher,
                  const float *schedule, const u32 *step, int n, int crops, int k, float temperature) {
  const int sample = blockIdx.x / crops, crop = blockIdx.x % crops, row = crop * n + sample;
  const float cold = 1 / scheduled(schedule, step, TEMPERATURE);
  const Partners p = partners(teacher, of_teacher, crop, sample, n, k);
  student += at(row, k, 0);
  Running r = {NONE, 0, 0};
  float across = 0;
  if (k % VEC == 0) student_row<VEC>(r, across, student, p, center, cold, temperature, k);
  else student_row<1>(r, across, student, p, center, cold, temperature, k);
  r = merge(r), across = block_sum(across);
  if (threadIdx.x != 0) return;
  const float log_sum = r.top + logf(r.sum);
  log_sums[row] = log_sum, losses[row] = p.count * log_sum - across;
}

template <int N>
DEVICE void gradient_row(T *ds, const T *student, const Partners &p, const float *center, float own, float cold, float hot, float scale,
                         int add, int k) {
  for (int j = threadIdx.x * N; j < k; j += THREADS * N) {
    float g[N], c[N];
    load(student + j, g), load(center + j, c);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = p.count * expf(g[i] / hot - own);
#pragma unroll
    for (int v = 0; v < VIEWS; v++) {
      if (!p.counts[v]) continue;
      float z[N];
      sharpened(z, p.row[v] + j, c, cold);
#pragma unroll
      for (int i = 0; i < N; i++) g[i] -= expf(z[i] - p.log_sum[v]);
    }
#pragma unroll
    for (int i = 0; i < N; i++) g[i] *= scale;
    store_gradient(ds + j, g, add);
  }
}

// log_sums [(2 + crops) n]: the teacher's rows, then the student's.
KERNEL void __launch_bounds__(THREADS, 4)
    dino_loss_bwd(T *ds, const float *dloss, const T *student, const T *teacher, const float *center, const float *log_sums,
                  const float *schedule, const u32 *step, int add, int n, int crops, int k, float temperature) {
  const int sample = blockIdx.x / crops, crop = blockIdx.x % crops, row = crop * n + sample;
  const float cold = 1 / scheduled(schedule, step, TEMPERATURE), own = log_sums[VIEWS * n + row];
  const float scale = dloss[0] / (temperature * ((float)(VIEWS * crops - VIEWS) * n));
  const Partners p = partners(teacher, log_sums, crop, sample, n, k);
  const u64 from = at(row, k, 0);
  if (k % VEC == 0) gradient_row<VEC>(ds + from, student + from, p, center, own, cold, temperature, scale, add, k);
  else gradient_row<1>(ds + from, student + from, p, center, own, cold, temperature, scale, add, k);
}

template <int N> DEVICE void follow(float *center, float *used, const T *teacher, int rows, int k, float momentum) {
  const int first = first_column(N);
  float sum[N] = {}, unused[N] = {};
  if (first < k)
    for (int row = threadIdx.y; row < rows; row += blockDim.y) {
      float v[N];
      load(teacher + at(row, k, first), v);
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += v[i];
    }
  column_sums(sum, unused, k, [&](int column, float total, float) {
    const float old = center[column];
    used[column] = old;
    center[column] = momentum * old + (1 - momentum) * (total / rows);
  });
}

// The centre moves towards the mean of the teacher's rows; `used` gets what it was. Floor: teacher once.
KERNEL void __launch_bounds__(THREADS) dino_loss_center(float *center, float *used, const T *teacher, int rows, int k, float momentum) {
  if (k % VEC == 0) follow<VEC>(center, used, teacher, rows, k, momentum);
  else follow<1>(center, used, teacher, rows, k, momentum);
}
