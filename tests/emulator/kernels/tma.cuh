// The PTX of sm_90a that no kernel of the product uses, each primitive twice, as in ptx.cuh: TMA of other shapes and its stores, wgmma of
// other shapes.
#pragma once
#include "hopper.cuh"

#ifdef SIMT_HOST

DEVICE void tma_load_4d(u32 to, const TensorMap *map, u32 bar, int c0, int c1, int c2, int c3, CALLER) {
  emu_tma(1, to, map, bar, c0, c1, c2, c3, 0, SITE);
}
DEVICE void tma_store_2d(const TensorMap *map, u32 from, int c0, int c1, CALLER) { emu_tma(0, from, map, 0, c0, c1, 0, 0, 0, SITE); }
DEVICE void bulk_commit() { emu_bulk_commit(); }
template <int N> DEVICE void bulk_wait_read() { emu_bulk_wait(N); }
template <int TA = 0, int TB = 0> DEVICE void wgmma_m64n64k16(float (&d)[32], u64 desc_a, u64 desc_b, int scale_d, CALLER) {
  emu_wgmma(d, 0, desc_a, desc_b, 64, scale_d, TA, TB, SITE);
}
template <int TB = 0> DEVICE void wgmma_m64n64k16_rs(float (&d)[32], const u32 (&a)[4], u64 desc_b, int scale_d, CALLER) {
  emu_wgmma(d, a, 0, desc_b, 64, scale_d, 0, TB, SITE);
}

#else

DEVICE void tma_load_4d(u32 to, const TensorMap *map, u32 bar, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
               ::"r"(to), "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
DEVICE void tma_store_2d(const TensorMap *map, u32 from, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
               ::"l"(map), "r"(from), "r"(c0), "r"(c1)
               : "memory");
}
DEVICE void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> DEVICE void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }

// d = a b + scale_d d, a 64 x 16 and b 16 x N in bf16. TA, TB: rows of A, columns of B lie beside each other. _rs: A from registers.
template <int TA = 0, int TB = 0> DEVICE void wgmma_m64n64k16(float (&d)[32], u64 desc_a, u64 desc_b, int scale_d) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31}, "
      "%32, %33, p, 1, 1, %35, %36;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
        "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]),
        "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(desc_a), "l"(desc_b), "r"(scale_d), "n"(TA), "n"(TB));
}
template <int TB = 0> DEVICE void wgmma_m64n64k16_rs(float (&d)[32], const u32 (&a)[4], u64 desc_b, int scale_d) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
        "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]),
        "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b), "r"(scale_d), "n"(TB));
}

#endif
