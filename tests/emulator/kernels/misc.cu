// Odd cases for the simulator's own tests.
#include "hopper.cuh"
KERNEL void misc_deep(int *out) { volatile char big[400 * 1024]; big[0] = 1; big[400 * 1024 - 1] = 2; out[0] = big[0]; }
KERNEL void misc_mismatch(int *out) { int v = threadIdx.x; if (threadIdx.x & 1) __syncwarp(); else v = __shfl_sync(0xffffffffu, v, 0); out[threadIdx.x] = v; }
KERNEL void misc_exit(int *out) { if (threadIdx.x >= 32) return; __syncthreads(); out[threadIdx.x] = 1; }
KERNEL void misc_div_sync(int *out) { if (threadIdx.x & 1) __syncthreads();
  else __syncthreads();
  out[threadIdx.x] = 1; }
KERNEL void misc_assert(int *out) { assert(out[0] == 0); }
KERNEL void misc_overflow(int n, int *out) { out[0] = n * 100000; }
KERNEL void misc_readonly(const int *in, int *out) { ((int *)in)[0] = 1; out[0] = 0; }
KERNEL void misc_spin(int *out) { while (atomicAdd(out, 0) == 0) {} }
KERNEL void misc_loop(int *out) { volatile int *o = out; while (o[0] == 0) {} }
KERNEL void misc_flag(int *out) {  // thread 1 waits for thread 0 in the same warp: fine since Volta
  if (threadIdx.x == 1) { while (atomicAdd(out, 0) == 0) {} out[1] = 7; }
  else if (threadIdx.x == 0) atomicExch((u32 *)out, 1u);
}
KERNEL void misc_nobarinit(int *out) { SHARED(u64, bar, [1]); mbar_wait(smem_u32(bar), 0); out[0] = 1; }
