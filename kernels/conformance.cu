// One kernel per primitive of ptx.cuh that writes out what every lane got. Tests compare it with the PTX manual, emulated and on a card.
#include "prelude.cuh"

// --- ldmatrix: 64 rows of 16 bytes, of which lane i gives the address of row rows[i] ------------------------------------------

DEVICE u32 row_address(u32 (&tile)[256], const u32 *from, const u32 *rows) {
  for (int i = threadIdx.x; i < 256; i += 32) tile[i] = from[i];
  __syncthreads();
  return smem_u32(tile) + rows[threadIdx.x] * 16;
}

template <int N> DEVICE void write_lane(u32 *out, const u32 (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) out[threadIdx.x * N + i] = r[i];
}

KERNEL void __launch_bounds__(32) conformance_ldmatrix_x2(u32 *out, const u32 *from, const u32 *rows) {
  SHARED(u32, tile, [256]);
  u32 r[2];
  ldmatrix_x2(r, row_address(tile, from, rows));
  write_lane(out, r);
}

KERNEL void __launch_bounds__(32) conformance_ldmatrix_x4(u32 *out, const u32 *from, const u32 *rows) {
  SHARED(u32, tile, [256]);
  u32 r[4];
  ldmatrix_x4(r, row_address(tile, from, rows));
  write_lane(out, r);
}

KERNEL void __launch_bounds__(32) conformance_ldmatrix_x2_trans(u32 *out, const u32 *from, const u32 *rows) {
  SHARED(u32, tile, [256]);
  u32 r[2];
  ldmatrix_x2_trans(r, row_address(tile, from, rows));
  write_lane(out, r);
}

KERNEL void __launch_bounds__(32) conformance_ldmatrix_x4_trans(u32 *out, const u32 *from, const u32 *rows) {
  SHARED(u32, tile, [256]);
  u32 r[4];
  ldmatrix_x4_trans(r, row_address(tile, from, rows));
  write_lane(out, r);
}

// --- mma: a block per tile, each lane brings its fragments of A, B and C and writes that of D ---------------------------------

KERNEL void __launch_bounds__(32) conformance_mma_m16n8k16(float *out, const u32 *a, const u32 *b, const float *c) {
  const int at = blockIdx.x * 32 + threadIdx.x;
  u32 ra[4], rb[2];
  float d[4];
#pragma unroll
  for (int i = 0; i < 4; i++) ra[i] = a[at * 4 + i], d[i] = c[at * 4 + i];
#pragma unroll
  for (int i = 0; i < 2; i++) rb[i] = b[at * 2 + i];
  mma_m16n8k16(d, ra, rb);
#pragma unroll
  for (int i = 0; i < 4; i++) out[at * 4 + i] = d[i];
}

// --- cp.async: lane i copies its BYTES to slot to[i] if bit i of `in` says so; the others must become zeros without a read. The
// --- first of two groups is written out before the second has been waited for.

template <int BYTES> DEVICE void copy_lanes(u8 *out, const u8 *from, const u32 *to, u32 in) {
  SHARED(u8, slots, [2 * 32 * BYTES]);
  const int lane = threadIdx.x;
  for (int i = lane; i < 2 * 32 * BYTES; i += 32) slots[i] = 0xa5;
  __syncthreads();
  const u32 slot = smem_u32(slots) + to[lane] * BYTES;
#pragma unroll
  for (int group = 0; group < 2; group++) {
    const bool mine = (in >> lane & 1) != group;
    cp_async<BYTES>(slot + group * 32 * BYTES, mine ? from + (group * 32 + lane) * BYTES : nullptr, mine);
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  for (int i = lane; i < 32 * BYTES; i += 32) out[i] = slots[i];
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 32 * BYTES + lane; i < 2 * 32 * BYTES; i += 32) out[i] = slots[i];
}

KERNEL void __launch_bounds__(32) conformance_cp_async_4(u8 *out, const u8 *from, const u32 *to, u32 in) { copy_lanes<4>(out, from, to, in); }
KERNEL void __launch_bounds__(32) conformance_cp_async_8(u8 *out, const u8 *from, const u32 *to, u32 in) { copy_lanes<8>(out, from, to, in); }
KERNEL void __launch_bounds__(32) conformance_cp_async_16(u8 *out, const u8 *from, const u32 *to, u32 in) { copy_lanes<16>(out, from, to, in); }

// --- bf16: pairs packed, singles rounded, and back -----------------------------------------------------------------------------

KERNEL void __launch_bounds__(256) conformance_bf16(u32 *packed, u32 *single, u32 *back, const float *x, int pairs) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= pairs) return;
  packed[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
  for (int k = 2 * i; k < 2 * i + 2; k++) {
    const bf16 rounded = f32_to_bf16(x[k]);
    single[k] = rounded.bits;
    back[k] = __float_as_uint(bf16_to_f32(rounded));
  }
}

// --- ex2 ----------------------------------------------------------------------------------------------------------------------

KERNEL void __launch_bounds__(256) conformance_ex2(float *out, const float *x, int n) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) out[i] = ex2(x[i]);
}

// --- named barriers: in each half of the block two warps fill one slot again and again and two others empty it backwards -------

KERNEL void __launch_bounds__(256) conformance_barriers(u32 *out, const u32 *in, int rounds) {
  SHARED(u32, slot, [2][64]);
  const int half = threadIdx.x / 128, t = threadIdx.x % 64;
  const u32 full = 1 + 2 * half, empty = 2 + 2 * half;
  const bool fills = threadIdx.x % 128 < 64;
  for (int round = 0; round < rounds; round++) {
    const int at = (half * rounds + round) * 64 + t;
    if (fills) {
      if (round > 0) bar_sync(empty, 128);
      slot[half][t] = in[at];
      bar_arrive(full, 128);
    } else {
      bar_sync(full, 128);
      out[at] = slot[half][63 - t];
      if (round + 1 < rounds) bar_arrive(empty, 128);
    }
  }
}
