// Inline PTX for Hopper (sm_90a), each primitive twice as in ptx.cuh: the instruction, and its emulation. wgmma multiplies matrices in
// shared memory, asynchronously, by a warpgroup of four warps (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"). TMA copies
// boxes of a matrix; mbarriers signal their arrival.
#pragma once
#include "prelude.cuh"

// The matrix descriptor of a wgmma operand at `address`. swizzle: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32. The hardware XORs address
// bits 4 to 6 with bits 7 to 9, so a swizzled tile must begin at a multiple of eight rows.
//   K-major:  `stride` bytes between groups of eight rows; `leading` counts only without swizzle.
//   MN-major: `leading` bytes between pieces as wide as the swizzle, `stride` bytes between groups of eight rows.
DEVICE u64 wgmma_desc(u32 address, u32 leading, u32 stride, u32 swizzle) {
  const u64 start = (address & 0x3ffffu) >> 4, lead = (leading & 0x3ffffu) >> 4, step = (stride & 0x3ffffu) >> 4;
  return start | lead << 16 | step << 32 | (u64)swizzle << 62;
}

// A CUtensorMap by value. The emulator keeps its own fields in the 128 bytes.
struct alignas(64) TensorMap {
  u64 opaque[16];
};

#ifdef SIMT_HOST

DEVICE void mbar_init(u32 bar, u32 count, CALLER) { emu_mbarrier_init(bar, count, SITE); }
DEVICE void mbar_init_fence() {}
DEVICE void mbar_arrive(u32 bar, CALLER) { emu_mbarrier_arrive(bar, 1, 0, SITE); }
DEVICE void mbar_arrive_expect_tx(u32 bar, u32 bytes, CALLER) { emu_mbarrier_arrive(bar, 1, bytes, SITE); }
DEVICE void mbar_wait(u32 bar, u32 parity, CALLER) { emu_mbarrier_wait(bar, parity, SITE); }

DEVICE void tma_load_2d(u32 to, const TensorMap *map, u32 bar, int c0, int c1, CALLER) { emu_tma(1, to, map, bar, c0, c1, 0, 0, 0, SITE); }
DEVICE void tma_prefetch_desc(const TensorMap *) {}
template <int N> DEVICE void setmaxnreg_inc() {}
template <int N> DEVICE void setmaxnreg_dec() {}

// Each lane learns from lane 8 i + l / 4 where its pair of matrix i goes.
DEVICE void stmatrix_x4(u8 *row, const u32 (&r)[4], CALLER) {
  const int lane = threadIdx.x & 31;
  for (int i = 0; i < 4; i++) {
    u8 *to = (u8 *)__shfl_sync(0xffffffffu, (u64)row, 8 * i + lane / 4, 32, SITE);
    *(u32 *)(to + lane % 4 * 4) = r[i];
  }
}

DEVICE void fence_proxy_async() { emu_fence_proxy_async(); }
DEVICE void wgmma_fence() {}
DEVICE void wgmma_commit() { emu_wgmma_commit(); }
template <int N> DEVICE void wgmma_wait() { emu_wgmma_wait(N); }
template <int TA, int TB> DEVICE void wgmma_k16(float (&d)[16][4], u64 a, u64 b, int scale = 1, CALLER) {
  emu_wgmma(&d[0][0], 0, a, b, 128, scale, TA, TB, SITE);
}
template <int TA, int TB> DEVICE void wgmma_k16(float (&d)[32][4], u64 a, u64 b, int scale = 1, CALLER) {
  emu_wgmma(&d[0][0], 0, a, b, 256, scale, TA, TB, SITE);
}

#else

// --- mbarriers: 8 bytes of shared memory. A phase completes when the expected arrivals and all announced bytes are there. ---------------

DEVICE void mbar_init(u32 bar, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory"); }
// Makes new mbarriers visible to TMA. The other threads still need a __syncthreads.
DEVICE void mbar_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void mbar_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
// Arrives, and announces the bytes that TMA will bring in this phase.
DEVICE void mbar_arrive_expect_tx(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
// Waits until the phase of this parity is complete. The phase before the first counts as complete and has parity 1, so a producer's
// first wait does not block.
DEVICE void mbar_wait(u32 bar, u32 parity) {
  asm volatile(
      "{\n.reg .pred over;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@over bra DONE;\nbra AGAIN;\nDONE:\n}\n" ::"r"(bar), "r"(parity)
      : "memory");
}

// --- TMA -----------------------------------------------------------------------------------------------------------------------------------

// Starts to copy the box at column c0 and row c1 to shared memory. Elements outside of the matrix become zeros, and count towards the
// bytes that `bar` waits for. Called by one thread.
DEVICE void tma_load_2d(u32 to, const TensorMap *map, u32 bar, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(to),
               "l"(map), "r"(bar), "r"(c0), "r"(c1)
               : "memory");
}
DEVICE void tma_prefetch_desc(const TensorMap *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// Sets the registers per thread from here on. Executed by all warps of a warpgroup.
template <int N> DEVICE void setmaxnreg_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> DEVICE void setmaxnreg_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// Stores 4 matrices of 8 x 8 bf16 that lie in registers as ldmatrix_x4 loads them: lane 8 i + j gives the address of row j of matrix i.
DEVICE void stmatrix_x4(u8 *row, const u32 (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(smem_u32(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]),
               "r"(r[3])
               : "memory");
}

// --- wgmma ---------------------------------------------------------------------------------------------------------------------------------

// Makes this thread's writes to shared memory (stores, and cp.async copies that it has waited for) visible to wgmma. A barrier must
// follow before another thread issues the wgmma.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Needed before the first wgmma, and again after anything else wrote registers that a wgmma uses.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most the last N groups are in flight. Before that, neither d nor the operands of a group may be touched.
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// d = scale d + a b: a [64, 16] and b [16, 128] or [16, 256] in bf16, d in f32, scale 0 or 1. Each warp holds 16 rows of d, as 16 x 8 pieces
// with the layout of mma_m16n8k16. TA, TB: the operand's tile is MN-major. All 128 threads.
template <int TA, int TB> DEVICE void wgmma_k16(float (&d)[16][4], u64 a, u64 b, int scale = 1) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "
      "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, %67, %68;\n}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]),
        "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
        "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]),
        "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]),
        "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]),
        "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3])
      : "l"(a), "l"(b), "r"(scale), "n"(TA), "n"(TB));
}
template <int TA, int TB> DEVICE void wgmma_k16(float (&d)[32][4], u64 a, u64 b, int scale = 1) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "
      "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, "
      "%74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, "
      "%98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, "
      "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, p, 1, 1, %131, %132;\n}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]),
        "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
        "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]),
        "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]),
        "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]),
        "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3]), "+f"(d[16][0]), "+f"(d[16][1]), "+f"(d[16][2]),
        "+f"(d[16][3]), "+f"(d[17][0]), "+f"(d[17][1]), "+f"(d[17][2]), "+f"(d[17][3]), "+f"(d[18][0]), "+f"(d[18][1]), "+f"(d[18][2]), "+f"(d[18][3]),
        "+f"(d[19][0]), "+f"(d[19][1]), "+f"(d[19][2]), "+f"(d[19][3]), "+f"(d[20][0]), "+f"(d[20][1]), "+f"(d[20][2]), "+f"(d[20][3]), "+f"(d[21][0]),
        "+f"(d[21][1]), "+f"(d[21][2]), "+f"(d[21][3]), "+f"(d[22][0]), "+f"(d[22][1]), "+f"(d[22][2]), "+f"(d[22][3]), "+f"(d[23][0]), "+f"(d[23][1]),
        "+f"(d[23][2]), "+f"(d[23][3]), "+f"(d[24][0]), "+f"(d[24][1]), "+f"(d[24][2]), "+f"(d[24][3]), "+f"(d[25][0]), "+f"(d[25][1]), "+f"(d[25][2]),
        "+f"(d[25][3]), "+f"(d[26][0]), "+f"(d[26][1]), "+f"(d[26][2]), "+f"(d[26][3]), "+f"(d[27][0]), "+f"(d[27][1]), "+f"(d[27][2]), "+f"(d[27][3]),
        "+f"(d[28][0]), "+f"(d[28][1]), "+f"(d[28][2]), "+f"(d[28][3]), "+f"(d[29][0]), "+f"(d[29][1]), "+f"(d[29][2]), "+f"(d[29][3]), "+f"(d[30][0]),
        "+f"(d[30][1]), "+f"(d[30][2]), "+f"(d[30][3]), "+f"(d[31][0]), "+f"(d[31][1]), "+f"(d[31][2]), "+f"(d[31][3])
      : "l"(a), "l"(b), "r"(scale), "n"(TA), "n"(TB));
}

#endif
