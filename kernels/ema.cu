// Moving averages of all weights in one launch: to = m to + (1 - m) from, m from the schedule. One block per chunk of a weight.
#include "schedule.cuh"

// As in src/ops/ema.rs: rows of the table are the two addresses and the length.
constexpr int THREADS = 256, WORDS = 3;

// Floor: 12 bytes per weight.
KERNEL void __launch_bounds__(THREADS) ema(const u64 *chunks, const float *schedule, const u32 *step) {
  const u64 *row = chunks + (u64)blockIdx.x * WORDS;
  float *to = (float *)row[0];
  const float *from = (const float *)row[1];
  const int len = (int)row[2];
  const float keep = scheduled(schedule, step, MOMENTUM), take = 1 - keep;
  for (int i = 4 * threadIdx.x; i + 3 < len; i += 4 * THREADS) {
    float a[4], b[4];
    load16(to + i, a), load16(from + i, b);
#pragma unroll
    for (int k = 0; k < 4; k++) a[k] = keep * a[k] + take * b[k];
    store16(to + i, a);
  }
  for (int i = len / 4 * 4 + threadIdx.x; i < len; i += THREADS) to[i] = keep * to[i] + take * from[i];
}
