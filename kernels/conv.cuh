// Shared by the convolution kernels: the geometry (Gather), the implicit im2col (Pixels), and the epilogue.
#pragma once
#include "gelu.cuh"
#include "product.cuh"

// The geometry of one launch: pixel (i, j) of the result reads a window of x and is written to one pixel of y. The gradient of the
// input uses it too: with a stride its result is every stride-th pixel of y. Passed by value; `Gather` in src/ops/product.rs.
struct Gather {
  int batch, height, width, channels;  // x [batch, height, width, channels]
  int outputs;                         // w [outputs, taps_h, taps_w, channels]
  int taps_h, taps_w;                  // window, pixels
  int stride, from_h, from_w;          // its first pixel in x: (i stride + from_h, j stride + from_w); may be negative (padding)
  int out_h, out_w;                    // pixels per image that this launch computes
  int map_h, map_w, out_stride, at_h, at_w;  // y [batch, map_h, map_w, outputs]; written at (i out_stride + at_h, j out_stride + at_w)

  MEMBER int rows() const { return batch * out_h * out_w; }             // M of the product
  MEMBER int depth() const { return taps_h * taps_w * channels; }       // K of the product
  // The row of y as a matrix [batch map_h map_w, outputs] that row `row` of the product is written to.
  MEMBER int place(int row) const {
    if (out_stride == 1 && out_w == map_w && out_h == map_h) return row;
    const int j = row % out_w, i = row / out_w % out_h, n = row / out_w / out_h;
    return (n * map_h + i * out_stride + at_h) * map_w + j * out_stride + at_w;
  }
};

// The first row of a window that lies outside of x whatever the tap.
constexpr int NOWHERE = -(1 << 29);

// Implicit im2col: copies a K-major tile [ROWS pixels][BK], gathered from x. Each thread always copies the same chunk of a step, so it
// advances its tap and channel by addition instead of dividing k anew. channels is a multiple of VEC. Offsets into x count 16-byte
// chunks, so an int reaches 32 GiB.
template <int ROWS, int THREADS> struct Pixels {
  static constexpr int EACH = ROWS * CHUNKS / THREADS, APART = THREADS / CHUNKS;
  const T *x;
  int height, width, line, taps_h, taps_w;  // line: chunks of a pixel
  int base[EACH];              // first chunk of each window; may lie outside of x
  int top[EACH], left[EACH];   // first row and column of each window
  int tap_i, tap_j, chunk;     // tap, and chunk within its pixel, that the thread copies in the next step

  MEMBER Pixels(const T *x_, const Gather &g, int first)
      : x(x_), height(g.height), width(g.width), line(g.channels / VEC), taps_h(g.taps_h), taps_w(g.taps_w), tap_i(0), tap_j(0) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int row = first + threadIdx.x / CHUNKS + i * APART;
      const int n = row / g.out_w / g.out_h;
      top[i] = row < g.rows() ? row / g.out_w % g.out_h * g.stride + g.from_h : NOWHERE;
      left[i] = row % g.out_w * g.stride + g.from_w;
      base[i] = row < g.rows() ? ((n * height + top[i]) * width + left[i]) * line : 0;
    }
    chunk = threadIdx.x % CHUNKS;
    carry();
  }
  MEMBER void carry() {
    while (chunk >= line) {
      chunk -= line;
      if (++tap_j == taps_w) tap_j = 0, tap_i++;
    }
  }
  MEMBER void load(u8 *tile) {
    const int offset = (tap_i * width + tap_j) * line + chunk;
    const u32 to = smem_u32(tile);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int h = top[i] + tap_i, w = left[i] + tap_j;
      const bool in = tap_i < taps_h && (u32)h < (u32)height && (u32)w < (u32)width;
      cp_async<16>(to + KMajor::chunk(threadIdx.x / CHUNKS + i * APART, threadIdx.x % CHUNKS), x + (long long)(base[i] + offset) * VEC, in);
    }
    chunk += CHUNKS;
    carry();
  }
};

// As `Activation` in src/device/product/mod.rs.
enum Activation { NOTHING, RELU, GELU };

// y = activation(product + shift + residual + y's old value if `add`). Passed by value; `EpilogueParams` in src/ops/product.rs.
struct EpilogueParams {
  T *y;                // [rows of y, outputs]
  T *pre_activation;   // like y, or null: the activation's argument, which its gradient needs
  float *moments;      // [tiles, 2, outputs], or null: mean and sum of squared deviations of each tile's rows, for batch norm
  const float *shift;  // [outputs], or null: a bias, or a folded norm
  const T *residual;   // like y, or null
  int add;             // accumulate into y
  int activation;      // Activation
};

// A block's tile of BM rows and BN columns, a warp's of WM and WN, and DEEP stages of the pipeline.
template <int BM, int BN, int WM, int WN, int DEEP = 4> struct Tile {
  static constexpr int WARPS = BM / WM * (BN / WN), THREADS = WARPS * 32, STAGES = DEEP;
  static constexpr int BYTES = (BM + BN) * ROW;  // of a stage
  static constexpr int MI = WM / 16, NI = WN / 8, SLAB = 16 * (WN + 8);  // SLAB: floats of a warp's slab [16][WN + 8]
  // A warp's statistics [3: pivot, sum, squares][VEC][PITCH] f32: its column l VEC + e is element [e][l]. PITCH is an odd multiple of
  // four, so that neither lanes l nor neighbouring columns share a bank.
  static constexpr int LANES = WN / VEC, PITCH = LANES % 8 == 4 ? LANES : LANES + 4, KIND = VEC * PITCH;
  static_assert(WARPS * (SLAB + 3 * KIND) * 4 <= STAGES * BYTES, "the epilogue works where the stages were");
};

// Reads VEC neighbours of a row, 16 bytes at once if `whole`. Otherwise the row is unaligned or ends after `left` values; the rest are 0.
DEVICE Vec16 get(const T *y, bool whole, int left) {
  if (whole) return *(const Vec16 *)y;
  float v[VEC];
#pragma unroll
  for (int e = 0; e < VEC; e++) v[e] = e < left ? to_f32(y[e]) : 0.f;
  return pack16(v);
}
DEVICE void put(T *y, const float (&v)[VEC], bool whole, int left) {
  if (whole) {
    store16(y, v);
  } else {
#pragma unroll
    for (int e = 0; e < VEC; e++)
      if (e < left) y[e] = from_f32(v[e]);
  }
}

// The epilogue is compiled once per use, because one general epilogue holds registers for everything that it might do. All tiles of
// a launch take the same one.
enum EpilogueKind {
  EPILOGUE_PLAIN,    // shift, residual, what y holds, relu
  EPILOGUE_GELU,     // shift, GELU
  EPILOGUE_MOMENTS,  // statistics alone
};

// Shifted sums of VEC columns: sum of (v - pivot) and of (v - pivot)^2, with a pivot near the mean. The shift avoids the cancellation
// of E[v^2] - E[v]^2. Unlike Welford's update it needs no division, and sums with different pivots can be merged.
struct Sums {
  float pivot[VEC], sum[VEC], squares[VEC];

  MEMBER void take(const float (&v)[VEC]) {
#pragma unroll
    for (int e = 0; e < VEC; e++) {
      const float d = v[e] - pivot[e];
      sum[e] += d;
      squares[e] = fmaf(d, d, squares[e]);
    }
  }
};

// Writes the block's tile. The pipeline is done, so `smem` holds the slabs [WARPS][16][WN + 8] f32, then statistics [WARPS][3][VEC][PITCH].
template <class S, int BM, int BN, int WM, int WN, bool ANY, EpilogueKind EPI>
DEVICE void epilogue_as(const float (&acc)[S::MI][S::NI][4], u8 *smem, const Gather &g, const EpilogueParams &to, int tile, int n0) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, rows = g.rows();
  const int m0 = tile * BM + warp / (BN / WN) * WM, column = n0 + warp % (BN / WN) * WN;
  constexpr int LANES = S::LANES;
  const int mine = column + lane % LANES * VEC;  // the lane's first column
  const bool whole = !ANY || g.outputs % VEC == 0;
  float *slab = (float *)smem + warp * S::SLAB;
  float shift[VEC];
  Sums seen;
#pragma unroll
  for (int e = 0; e < VEC; e++) {
    shift[e] = EPI != EPILOGUE_MOMENTS && to.shift && mine + e < g.outputs ? to.shift[mine + e] : 0.f;
    seen.sum[e] = seen.squares[e] = 0.f;
  }
  // Residuals of all rows of a slab are fetched before the first is used: their latencies overlap instead of adding up.
  constexpr int EACH = 16 * LANES / 32, APART = 32 / LANES;  // rows of a slab that a lane writes, and the distance between them
  const T *added = EPI != EPILOGUE_PLAIN ? nullptr : to.residual ? to.residual : to.add ? to.y : nullptr;
  Vec16 more[EACH];
  int place[EACH];  // row of y; -1: beyond the result
  auto fetch = [&](int i) {
#pragma unroll
    for (int r = 0; r < EACH; r++) {
      const int row = m0 + i * 16 + r * APART + lane / LANES;
      place[r] = row < rows && mine < g.outputs ? g.place(row) : -1;
      if (added && place[r] >= 0) more[r] = get(added + (u64)place[r] * g.outputs + mine, whole, g.outputs - mine);
    }
  };
  by_rows(acc, slab, fetch, [&](int i, int r, float(&v)[VEC]) {
    if (EPI == EPILOGUE_MOMENTS && i == 0 && r == 0) {
      // The pivot is the warp's first row: near the other rows, and the same for every lane of a column.
      read_row(seen.pivot, slab + lane % LANES * VEC);
#pragma unroll
      for (int e = 0; e < VEC; e++) seen.pivot[e] = to_f32(from_f32(seen.pivot[e]));
    }
    if (place[r] < 0) return;
    const u64 at = (u64)place[r] * g.outputs + mine;
    auto add = [&](const Vec16 &values) {
      float x[VEC];
      unpack16(values, x);
#pragma unroll
      for (int e = 0; e < VEC; e++) v[e] += x[e];
    };
    if (EPI != EPILOGUE_MOMENTS)
#pragma unroll
      for (int e = 0; e < VEC; e++) v[e] += shift[e];
    if (added) add(more[r]);
    if (EPI == EPILOGUE_PLAIN) {
      if (to.residual && to.add) add(get(to.y + at, whole, g.outputs - mine));
      if (to.activation == RELU)
#pragma unroll
        for (int e = 0; e < VEC; e++) v[e] = v[e] < 0.f ? 0.f : v[e];
    }
    if (EPI == EPILOGUE_GELU) {
      if (to.pre_activation) put(to.pre_activation + at, v, whole, g.outputs - mine);
#pragma unroll
      for (int e = 0; e < VEC; e++) v[e] = gelu(v[e]);
    }
    put(to.y + at, v, whole, g.outputs - mine);
    if (EPI == EPILOGUE_MOMENTS) {
#pragma unroll
      for (int e = 0; e < VEC; e++) v[e] = to_f32(from_f32(v[e]));
      seen.take(v);
    }
  });
  if (EPI != EPILOGUE_MOMENTS) return;

  // Merge in a fixed order: first the lanes that hold the same columns, then the warps that hold other rows of them.
#pragma unroll
  for (int o = LANES; o < 32; o *= 2) {
#pragma unroll
    for (int e = 0; e < VEC; e++) {
      seen.sum[e] += __shfl_xor_sync(0xffffffffu, seen.sum[e], o);
      seen.squares[e] += __shfl_xor_sync(0xffffffffu, seen.squares[e], o);
    }
  }
  float *part = (float *)smem + S::WARPS * S::SLAB;  // [WARPS][3][VEC][PITCH]
  if (lane < LANES) {
#pragma unroll
    for (int e = 0; e < VEC; e++) {
      float *p = part + warp * 3 * S::KIND + e * S::PITCH + lane;
      p[0] = seen.pivot[e], p[S::KIND] = seen.sum[e], p[2 * S::KIND] = seen.squares[e];
    }
  }
  __syncthreads();
  for (int c = threadIdx.x; c < BN && n0 + c < g.outputs; c += S::THREADS) {
    const float *p = part + c / WN * 3 * S::KIND + c % VEC * S::PITCH + c % WN / VEC;
    const float pivot = p[0];
    float sum = p[S::KIND], squares = p[2 * S::KIND];
#pragma unroll
    for (int w = 1; w < BM / WM; w++) {
      p += BN / WN * 3 * S::KIND;
      const float n = (float)max(0, min(WM, rows - tile * BM - w * WM)), d = p[0] - pivot;
      squares += fmaf(d, fmaf(n, d, 2.f * p[S::KIND]), p[2 * S::KIND]);
      sum += fmaf(n, d, p[S::KIND]);
    }
    const float mean = sum / (float)min(BM, rows - tile * BM);
    to.moments[((u64)tile * 2) * g.outputs + n0 + c] = pivot + mean;
    to.moments[((u64)tile * 2 + 1) * g.outputs + n0 + c] = fmaxf(squares - sum * mean, 0.f);
  }
}

template <class S, int BM, int BN, int WM, int WN, bool ANY>
DEVICE void epilogue(const float (&acc)[S::MI][S::NI][4], u8 *smem, const Gather &g, const EpilogueParams &to, int tile, int n0) {
  if (to.moments) epilogue_as<S, BM, BN, WM, WN, ANY, EPILOGUE_MOMENTS>(acc, smem, g, to, tile, n0);
  else if (to.activation == GELU) epilogue_as<S, BM, BN, WM, WN, ANY, EPILOGUE_GELU>(acc, smem, g, to, tile, n0);
  else epilogue_as<S, BM, BN, WM, WN, ANY, EPILOGUE_PLAIN>(acc, smem, g, to, tile, n0);
}

// The row tile and first column of tile number `at`. GROUP row tiles visit all columns before the next GROUP begins: blocks that run
// at the same time share rows of A and B, which stay in the L2.
template <int BM, int BN, int GROUP = 8> DEVICE void place_of_tile(u32 at, int rows, int outputs, int &tile, int &n0) {
  const int across = (outputs + BN - 1) / BN, down = (rows + BM - 1) / BM;
  const int group = at / (GROUP * across), high = min(GROUP, down - group * GROUP), in = at - group * GROUP * across;
  tile = group * GROUP + in % high;
  n0 = in / high * BN;
}
template <int BM, int BN> DEVICE void place_of_block(const Gather &g, int &tile, int &n0) {
  place_of_tile<BM, BN>(blockIdx.x, g.rows(), g.outputs, tile, n0);
}
