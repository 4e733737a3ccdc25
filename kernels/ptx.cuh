// All inline PTX of the portable kernels (sm_80 and up), each primitive twice: the instruction, and what the emulator does for it.
//
// Shared memory is addressed by the 32 bits of `smem_u32`. Fragments are those of the PTX manual: with g = lane / 4 and
// q = lane % 4 * 2, a lane holds of A (16 x 16) the pairs (g, q) (g + 8, q) (g, q + 8) (g + 8, q + 8), of B (16 x 8, by columns)
// the pairs (q, g) (q + 8, g), of D (16 x 8) the pairs (g, q) (g + 8, q); the lower half of a register is the lower index.
#pragma once
#include "types.cuh"

#ifdef SIMT_HOST

DEVICE u32 smem_u32(const void *p, CALLER) { return emu_shared_address(p, SITE); }

DEVICE bf16 f32_to_bf16(float f) {
  u32 u = __float_as_uint(f);
  bf16 r;
  r.bits = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fff : (u16)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
  return r;
}
DEVICE u32 pack_bf16(float low, float high) { return (u32)f32_to_bf16(low).bits | (u32)f32_to_bf16(high).bits << 16; }

DEVICE float ex2(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.f : y;
}

DEVICE void ldmatrix_x4(u32 (&r)[4], u32 row, CALLER) { emu_ldmatrix(r, 4, 0, row, SITE); }
DEVICE void ldmatrix_x2(u32 (&r)[2], u32 row, CALLER) { emu_ldmatrix(r, 2, 0, row, SITE); }
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], u32 row, CALLER) { emu_ldmatrix(r, 4, 1, row, SITE); }
DEVICE void ldmatrix_x2_trans(u32 (&r)[2], u32 row, CALLER) { emu_ldmatrix(r, 2, 1, row, SITE); }
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2], CALLER) { emu_mma(d, a, b, SITE); }

template <int BYTES> DEVICE void cp_async(u32 to, const void *from, bool in, CALLER) {
  emu_cp_async(to, from, BYTES, in ? BYTES : 0, SITE);
}
DEVICE void cp_async_commit() { emu_cp_commit(); }
template <int N> DEVICE void cp_async_wait() { emu_cp_wait(N); }

DEVICE void bar_sync(u32 id, u32 threads, CALLER) { emu_barrier(id, threads, 1, SITE); }
DEVICE void bar_arrive(u32 id, u32 threads, CALLER) { emu_barrier(id, threads, 0, SITE); }

#else

// The shared address of a pointer to shared memory.
DEVICE u32 smem_u32(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// Rounds to nearest even; every NaN becomes 0x7fff.
DEVICE bf16 f32_to_bf16(float f) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
  return r;
}

// Two bf16 in a register, `low` in its lower half.
DEVICE u32 pack_bf16(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

// 2^x within 2^-22 of itself, in one instruction where exp2f takes four to have subnormal results as well: those are zero here.
DEVICE float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Loads 2 or 4 matrices of 8 x 8 bf16: lane 8 i + j gives the address of row j of matrix i, 16 bytes long and aligned. A lane gets
// of each matrix the pair (row lane / 4, columns lane % 4 * 2 and + 1); with _trans, of its transpose.
DEVICE void ldmatrix_x4(u32 (&r)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
DEVICE void ldmatrix_x2(u32 (&r)[2], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(row) : "memory");
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
DEVICE void ldmatrix_x2_trans(u32 (&r)[2], u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(row) : "memory");
}

// d += a b for a 16 x 16 and b 16 x 8 in bf16, d in f32. All 32 lanes.
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Starts to copy BYTES (4, 8 or 16, both addresses aligned to them) from global to shared memory. If not `in`, it writes zeros and
// does not touch `from`. The copy belongs to the next commit. cp_async_wait<N> waits until at most the last N commits of this thread are
// in flight. Other threads see the data only after a barrier that follows the wait.
template <int BYTES> DEVICE void cp_async(u32 to, const void *from, bool in) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
  const auto source = __cvta_generic_to_global(from);
  const int valid = in ? BYTES : 0;
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(source), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(source), "n"(BYTES), "r"(valid) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Named barrier `id` (1 to 15; 0 is __syncthreads) of `threads` threads, a multiple of 32. bar_sync waits, bar_arrive only counts.
DEVICE void bar_sync(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void bar_arrive(u32 id, u32 threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

#endif
