// Shared by the kernels of a convolution's weight gradient: the loaders of both factors, and the store of the partial sums.
#pragma once
#include "product.cuh"

// A convolution and the sizes of its maps. Passed by value; `Window` in src/ops/product.rs.
struct Window {
  int batch, height, width, channels;  // x
  int outputs, taps, stride, pad;      // w [outputs, channels, taps, taps]
  int out_h, out_w;                    // dy [batch, out_h, out_w, outputs]

  MEMBER int pixels() const { return batch * out_h * out_w; }
  MEMBER int depth() const { return taps * taps * channels; }
};

// Copies an MN-major tile [BK pixels from `pixel` on][COLS outputs from `first` on] of dy; pixels from `end` on are zeros.
template <int COLS, int THREADS> struct Outputs {
  static constexpr int LINE = COLS / VEC, EACH = BK * LINE / THREADS, APART = THREADS / LINE;
  const T *dy;  // [pixels, outputs]
  int outputs, first, end;

  MEMBER void load(u8 *tile, int pixel) const {
    const int k = threadIdx.x / LINE, c = threadIdx.x % LINE, o = first + c * VEC;
    const u32 to = smem_u32(tile);
    const T *at = dy + (u64)(pixel + k) * outputs + o;
#pragma unroll
    for (int i = 0; i < EACH; i++, at += (u64)APART * outputs)
      cp_async<16>(to + MnMajor<COLS>::below(k, c, i * APART), at, o < outputs && pixel + k + i * APART < end);
  }
  MEMBER void load_any(u8 *tile, int pixel) const {
    for (int e = threadIdx.x; e < BK * COLS; e += THREADS) {
      const int k = e / COLS, c = e % COLS;
      const bool in = pixel + k < end && first + c < outputs;
      *(T *)(tile + MnMajor<COLS>::at(c, k)) = in ? dy[(u64)(pixel + k) * outputs + first + c] : from_f32(0.f);
    }
  }
};

// Implicit im2col of x, MN-major [BK pixels][COLS of (tap, channel)]. A thread keeps its column and moves on by BK pixels a step, with
// additions and two carries (row, image) instead of divisions. Offsets into x count 16-byte chunks, so an int reaches 32 GiB.
template <int COLS, int THREADS> struct Seen {
  static constexpr int LINE = COLS / VEC, EACH = BK * LINE / THREADS, APART = THREADS / LINE;
  const T *x;                       // [batch, height, width, channels]
  int height, width, end;
  bool in_depth;                    // the thread's column exists
  int h[EACH], w[EACH], at[EACH];   // row, column and offset in x that the next step copies
  int down, right, on;              // what BK pixels add to them
  int last_w, row, next_row;        // carry to the next row: from which w on, what w loses, what the offset gains
  int last_h, map, next_map;        // carry to the next image: the same for h
  int stride;                       // as in Window

  MEMBER Seen(const T *x_, const Window &g, int first, int begin, int end_) : x(x_), height(g.height), width(g.width), end(end_) {
    const int column = first + threadIdx.x % LINE * VEC, tap = column / g.channels, line = g.channels / VEC;
    const int tap_i = tap / g.taps - g.pad, tap_j = tap % g.taps - g.pad;
    in_depth = column < g.depth();
    right = BK % g.out_w * g.stride, down = BK / g.out_w % g.out_h * g.stride;
    on = ((BK / g.out_w / g.out_h * height + down) * width + right) * line;
    row = g.out_w * g.stride, last_w = row + tap_j, next_row = (g.stride * width - row) * line;
    map = g.out_h * g.stride, last_h = map + tap_i, next_map = (height - map) * width * line;
    stride = g.stride;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      const int pixel = begin + threadIdx.x / LINE + e * APART;
      w[e] = pixel % g.out_w * g.stride + tap_j, h[e] = pixel / g.out_w % g.out_h * g.stride + tap_i;
      at[e] = ((pixel / g.out_w / g.out_h * height + h[e]) * width + w[e]) * line + column % g.channels / VEC;
    }
  }
  MEMBER void load(u8 *tile, int pixel) {
    const int k = threadIdx.x / LINE;
    const u32 to = smem_u32(tile);
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      const bool in = in_depth && pixel + k + e * APART < end && (u32)h[e] < (u32)height && (u32)w[e] < (u32)width;
      cp_async<16>(to + MnMajor<COLS>::below(k, threadIdx.x % LINE, e * APART), x + (long long)at[e] * VEC, in);
      w[e] += right, h[e] += down, at[e] += on;
      if (w[e] >= last_w) w[e] -= row, h[e] += stride, at[e] += next_row;
      if (h[e] >= last_h) h[e] -= map, at[e] += next_map;
    }
  }
};

// Writes a warp's sums to partial [splits, outputs, taps, taps, channels], from output `o0` and (tap, channel) column `c0` on. Four lanes
// fill a 32-byte sector, so the accumulators need no detour through shared memory.
template <bool ANY, int MI, int NI> DEVICE void put_sums(float *partial, const float (&acc)[MI][NI][4], const Window &g, int o0, int c0) {
  const int lane = threadIdx.x & 31;
  float *to = partial + (u64)blockIdx.y * g.outputs * g.depth();
#pragma unroll
  for (int a = 0; a < MI; a++)
#pragma unroll
    for (int b = 0; b < NI; b++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int o = o0 + a * 16 + (lane >> 2) + h * 8, c = c0 + b * 8 + (lane & 3) * 2;
        if (o >= g.outputs || c >= g.depth()) continue;
        float *at = to + (u64)o * g.depth() + c;
        if constexpr (ANY) {
          at[0] = acc[a][b][h * 2];
          if (c + 1 < g.depth()) at[1] = acc[a][b][h * 2 + 1];
        } else {
          *(float2 *)at = make_float2(acc[a][b][h * 2], acc[a][b][h * 2 + 1]);
        }
      }
}
