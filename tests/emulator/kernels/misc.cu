// Odd cases, one kernel each: what the emulator must refuse, and what it must let pass.
#include "tma.cuh"

// --- refused -----------------------------------------------------------------------------------------------------------------

KERNEL void deep_stack(int *out) {
  volatile char big[400 * 1024];
  big[400 * 1024 - 1] = 2;
  big[0] = 1;
  out[0] = big[0];
}
KERNEL void two_collectives(int *out) {
  int v = threadIdx.x;
  if (threadIdx.x & 1)
    __syncwarp();
  else
    v = __shfl_sync(0xffffffffu, v, 0);
  out[threadIdx.x] = v;
}
KERNEL void exit_before_barrier(int *out) {
  if (threadIdx.x >= 32) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
KERNEL void two_barriers(int *out) {
  if (threadIdx.x & 1)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}
KERNEL void shuffle_from_absent_lane(int *out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, (int)threadIdx.x, 20);
}
KERNEL void asserts(int *out) { assert(out[0] == 1); }
KERNEL void overflows(int n, int *out) { out[0] = n * 100000; }
KERNEL void shifts(int n, int *out) { out[0] = 1 << n; }
KERNEL void divides(int n, int *out) { out[0] = 7 / n; }
KERNEL void writes_const(const int *in, int *out) {
  ((int *)in)[0] = 1;
  out[0] = 0;
}
KERNEL void reads_null(const int *in, const int *absent, int *out) { out[0] = in[0] + absent[1]; }
KERNEL void reads_uninitialised(const u8 *in, int *out) { out[0] = in[threadIdx.x]; }
KERNEL void spins(int *out) {
  while (atomicAdd(out, 0) == 0) {
  }
}
KERNEL void loops(int *out) {
  volatile int *o = out;
  while (o[0] == 0) {
  }
}
KERNEL void mbarrier_without_init(int *out) {
  SHARED(u64, bar, [1]);
  mbar_wait(smem_u32(bar), 0);
  out[0] = 1;
}
KERNEL void past_a_static_array(int *out, int at) {
  SHARED(int, first, [32]);
  SHARED(int, second, [32]);
  int *p = first;
  second[threadIdx.x] = 1;
  p[at + threadIdx.x] = 2;
  __syncthreads();
  out[threadIdx.x] = p[threadIdx.x] + second[threadIdx.x];
}
KERNEL void too_much_static(int *out) {
  SHARED(int, big, [13 * 1024]);
  big[0] = 1;
  out[0] = big[0];
}
KERNEL void uses_dynamic(int *out) {
  SHARED_DYN(bytes);
  bytes[threadIdx.x] = 1;
  out[threadIdx.x] = bytes[threadIdx.x];
}
KERNEL void two_threads_write(int *out) { out[threadIdx.x / 2] = threadIdx.x; }
KERNEL void reads_what_another_thread_wrote(int *out) {
  out[threadIdx.x] = threadIdx.x;
  out[32 + threadIdx.x] = out[threadIdx.x ^ 1];
}
KERNEL void reads_what_another_block_wrote(int *out) {
  out[blockIdx.x] = blockIdx.x;
  out[2 + blockIdx.x] = out[0];
}
KERNEL void writes_what_another_block_read(int *x) {
  if (blockIdx.x == 0) x[2] = x[1];
  if (blockIdx.x == 1) x[1] = 5;
}
KERNEL void reads_before_syncwarp(int *out) {
  SHARED(int, s, [32]);
  s[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}
KERNEL void misaligned_copy(const float *in, float *out) {
  SHARED(float, s, [8]);
  cp_async<16>(smem_u32(s), in + 1, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[0] = s[0];
}
KERNEL void __launch_bounds__(4 * 16) bounded(int *out) { out[threadIdx.x] = 1; }

// --- let pass ----------------------------------------------------------------------------------------------------------------

// Thread 1 waits for thread 0 of its warp, which may only run later.
KERNEL void waits_for_a_flag(int *out) {
  if (threadIdx.x == 1) {
    while (atomicAdd(out, 0) == 0) {
    }
    out[1] = 7;
  } else if (threadIdx.x == 0) {
    atomicExch((u32 *)out, 1u);
  }
}
// Neighbouring bytes of one word belong to different threads and blocks.
KERNEL void neighbouring_bytes(u8 *out) {
  SHARED(u8, s, [64]);
  SHARED(bf16, h, [64]);
  const int t = threadIdx.x, n = blockDim.x, i = blockIdx.x * n + t;
  s[t] = (u8)t;
  h[t].bits = (u16)(3 * t);
  out[i] = (u8)(s[t] + h[t].bits);
  out[i] += 1;
  __syncthreads();
  out[i] += s[n - 1 - t];
}
// Words, pairs and bytes of the same shared memory, in turn.
KERNEL void mixed_sizes(u32 *out) {
  SHARED(u32, s, [32]);
  u8 *b = (u8 *)s;
  const int t = threadIdx.x;
  s[t] = t;
  __syncthreads();
  for (int i = 0; i < 4; i++) b[i * 32 + t] = (u8)(i + t);
  __syncthreads();
  out[t] = s[t];
  __syncthreads();
  s[31 - t] = t;
  __syncthreads();
  out[t] += s[t];
}
// Addresses from memory.
KERNEL void through_a_table(const u64 *table, int n) {
  float *p = (float *)table[blockIdx.x];
  const float *q = (const float *)table[gridDim.x + blockIdx.x];
  for (int i = threadIdx.x; i < n; i += blockDim.x) p[i] += 2.f * q[i];
}
// Two warps hand over by named barriers, one half never waits for the other.
KERNEL void named_barriers(int *out) {
  SHARED(int, s, [32]);
  const int lane = threadIdx.x & 31;
  if (threadIdx.x < 32) {
    s[lane] = lane * 3;
    bar_arrive(1, 64);
  } else {
    bar_sync(1, 64);
    out[lane] = s[31 - lane];
  }
}
KERNEL void within_a_warp(int *out) {
  SHARED(int, s, [64]);
  const int t = threadIdx.x;
  for (int i = 0; i < 3; i++) {
    s[t] = t + i;
    __syncwarp();
    out[t] = s[t ^ 1];
    __syncwarp();
  }
}
// The last block to come sees all others' atomics.
KERNEL void counts_blocks(u32 *count, u32 *last) {
  if (threadIdx.x == 0 && atomicAdd(count, 1u) == gridDim.x - 1) last[0] = blockIdx.x;
}
