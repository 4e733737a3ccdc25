// Between images and sequences of tokens: copies whose rows are found through tables, and sums over images.
#include "rows.cuh"

// --- patches: images [n, h, w, c] to y [n, count, c p p], columns (channel, i, j) -------------------------------------------------

// N neighbouring columns of a patch.
template <int N>
DEVICE void patch(T *y, const T *images, const u32 *ids, u64 first, int h, int w, int c, int p, int count) {
  const int cols = c * p * p, column = first % cols, across = w / p;
  const int row = first / cols, n = row / count, l = ids ? ids[row] : row % count;
  const T *corner = images + (((u64)n * h + l / across * p) * w + l % across * p) * c;
  float v[N];
#pragma unroll
  for (int e = 0; e < N; e++) {
    const int channel = (column + e) / (p * p), in = (column + e) % (p * p);
    v[e] = to_f32(corner[(u64)(in / p * w + in % p) * c + channel]);
  }
  store(y + first, v);
}

// ids [n, count]: which patches; null: all in order. Floor: those patches of the images, and y, once. A warp's reads lie within a few
// rows of a patch, so each sector of an image comes from memory once and for the other channels from the L1.
KERNEL void __launch_bounds__(THREADS)
    patches_fwd(T *__restrict__ y, const T *__restrict__ images, const u32 *__restrict__ ids, int n, int h, int w, int c, int p,
                int count) {
  const int cols = c * p * p;
  const u64 all = (u64)n * count * cols, i = (u64)blockIdx.x * THREADS + threadIdx.x;
  if (cols % VEC == 0) {
    if (i * VEC < all) patch<VEC>(y, images, ids, i * VEC, h, w, c, p, count);
  } else if (i < all) {
    patch<1>(y, images, ids, i, h, w, c, p, count);
  }
}

// --- sequence: the class token and the tokens [n, k, d], each plus its position, to y [n, prefix + k, d] ---------------------------

template <int N>
DEVICE void sequence(T *y, const T *tokens, const float *token, const float *positions, const u32 *ids, int n, int k, int d, int prefix) {
  const int column = first_column(N), high = prefix + k;
  if (column >= d) return;
  for (int r = first_row(); r < n * high; r += row_step()) {
    const int i = r / high, place = r - i * high, row = i * k + place - prefix;
    float v[N], p[N];
    if (place < prefix) load(token + column, v);
    else load(tokens + at(row, d, column), v);
    load(positions + at(ids && place >= prefix ? prefix + ids[row] : place, d, column), p);
#pragma unroll
    for (int e = 0; e < N; e++) v[e] += p[e];
    store(y + at(r, d, column), v);
  }
}

// ids [n, k]: the patches whose tokens these are; null: all in order. `token` is the class token, if `prefix` is 1.
// Floor: tokens and y once; positions come from the L2.
KERNEL void __launch_bounds__(THREADS)
    sequence_fwd(T *__restrict__ y, const T *__restrict__ tokens, const float *__restrict__ token, const float *__restrict__ positions,
                 const u32 *__restrict__ ids, int n, int k, int d, int prefix) {
  if (d % VEC == 0) sequence<VEC>(y, tokens, token, positions, ids, n, k, d, prefix);
  else sequence<1>(y, tokens, token, positions, ids, n, k, d, prefix);
}

template <int N> DEVICE void sequence_back(T *dtokens, const T *dy, int add, int n, int k, int d, int prefix) {
  const int column = first_column(N);
  if (column >= d) return;
  for (int r = first_row(); r < n * k; r += row_step()) {
    float g[N];
    load(dy + at(r + (r / k + 1) * prefix, d, column), g);
    store_gradient(dtokens + at(r, d, column), g, add);
  }
}

// Floor: dtokens and its part of dy once (dtokens twice if it is added to).
KERNEL void __launch_bounds__(THREADS)
    sequence_bwd(T *__restrict__ dtokens, const T *__restrict__ dy, int add, int n, int k, int d, int prefix) {
  if (d % VEC == 0) sequence_back<VEC>(dtokens, dy, add, n, k, d, prefix);
  else sequence_back<1>(dtokens, dy, add, n, k, d, prefix);
}

// --- sums over images ---------------------------------------------------------------------------------------------------------------

template <int N>
DEVICE void sum_images(float *partial, const T *dy, const u32 *place, int n, int images, int tokens, int d, int prefix, int rows,
                       int patches, int keep) {
  const int groups = d / N, i = blockIdx.x * THREADS + threadIdx.x, row = i / groups, column = i % groups * N;
  if (row >= rows) return;
  const int begin = blockIdx.y * images, end = min(n, begin + images);
  float sum[N] = {};
#pragma unroll 4
  for (int image = begin; image < end; image++) {
    int token = row;
    if (place && row >= prefix) {
      const int rank = place[at(image, patches, row - prefix)];
      if (rank >= keep) continue;
      token = prefix + rank;
    }
    float g[N];
    load(dy + at(image, tokens, token) * d + column, g);
#pragma unroll
    for (int e = 0; e < N; e++) sum[e] += g[e];
  }
  store(partial + at(blockIdx.y, rows, row) * d + column, sum);
}

// The gradient of the first `rows` positions from dy [n, tokens, d]: partial [chunks of `images` images, rows, d]. place [n, patches]:
// behind the `prefix` first tokens lie those patches whose place is below `keep`; null: all in order.
// Floor: the rows of dy once.
KERNEL void __launch_bounds__(THREADS)
    positions_bwd(float *__restrict__ partial, const T *__restrict__ dy, const u32 *__restrict__ place, int n, int images, int tokens,
                  int d, int prefix, int rows, int patches, int keep) {
  if (d % VEC == 0) sum_images<VEC>(partial, dy, place, n, images, tokens, d, prefix, rows, patches, keep);
  else sum_images<1>(partial, dy, place, n, images, tokens, d, prefix, rows, patches, keep);
}

// dpositions [len] from partial [chunks, len], in their order, in f64; its first d are also dtoken. Either may be null.
// Floor: partial once.
KERNEL void __launch_bounds__(THREADS)
    positions_bwd_sum(float *dpositions, float *dtoken, const float *partial, int add, int add_token, int chunks, int len, int d) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= len) return;
  double sum = 0;
#pragma unroll 4
  for (int k = 0; k < chunks; k++) sum += partial[at(k, len, i)];
  if (dpositions) dpositions[i] = add ? dpositions[i] + (float)sum : (float)sum;
  if (dtoken && i < d) dtoken[i] = add_token ? dtoken[i] + (float)sum : (float)sum;
}

// --- unmask: x [n, 1 + keep, d] to y [n, 1 + patches, d], the mask token where a patch was hidden ----------------------------------

template <int N>
DEVICE void unmask(T *y, const T *x, const float *token, const float *positions, const u32 *place, int n, int patches, int keep, int d) {
  const int column = first_column(N), high = 1 + patches;
  if (column >= d) return;
  for (int r = first_row(); r < n * high; r += row_step()) {
    const int i = r / high, l = r - i * high, from = l == 0 ? 0 : 1 + (int)place[at(i, patches, l - 1)];
    float v[N], p[N];
    if (from > keep) load(token + column, v);
    else load(x + at(i, 1 + keep, from) * d + column, v);
    load(positions + at(l, d, column), p);
#pragma unroll
    for (int e = 0; e < N; e++) v[e] += p[e];
    store(y + at(r, d, column), v);
  }
}

// Floor: x and y once; positions come from the L2.
KERNEL void __launch_bounds__(THREADS)
    unmask_tokens_fwd(T *__restrict__ y, const T *__restrict__ x, const float *__restrict__ token, const float *__restrict__ positions,
                      const u32 *__restrict__ place, int n, int patches, int keep, int d) {
  if (d % VEC == 0) unmask<VEC>(y, x, token, positions, place, n, patches, keep, d);
  else unmask<1>(y, x, token, positions, place, n, patches, keep, d);
}

template <int N> DEVICE void unmask_back(T *dx, const T *dy, const u32 *ids, int add, int n, int patches, int keep, int d) {
  const int column = first_column(N), high = 1 + keep;
  if (column >= d) return;
  for (int r = first_row(); r < n * high; r += row_step()) {
    const int i = r / high, l = r - i * high, from = l == 0 ? 0 : 1 + (int)ids[at(i, keep, l - 1)];
    float g[N];
    load(dy + at(i, 1 + patches, from) * d + column, g);
    store_gradient(dx + at(r, d, column), g, add);
  }
}

// Floor: dx and its part of dy once (dx twice if it is added to).
KERNEL void __launch_bounds__(THREADS)
    unmask_tokens_bwd(T *__restrict__ dx, const T *__restrict__ dy, const u32 *__restrict__ ids, int add, int n, int patches, int keep, int d) {
  if (d % VEC == 0) unmask_back<VEC>(dx, dy, ids, add, n, patches, keep, d);
  else unmask_back<1>(dx, dy, ids, add, n, patches, keep, d);
}

template <int N>
DEVICE void sum_hidden(float *partial, const T *dy, const u32 *place, int chunk, int n, int patches, int keep, int d) {
  const int begin = blockIdx.x * chunk, end = min(n * patches, begin + chunk);
  const int column = first_column(N);
  float sum[N] = {};
  if (column < d) {
#pragma unroll 2
    for (int r = begin + threadIdx.y; r < end; r += blockDim.y) {
      if (place[r] < keep) continue;
      float g[N];
      load(dy + at(r + r / patches + 1, d, column), g);
#pragma unroll
      for (int e = 0; e < N; e++) sum[e] += g[e];
    }
  }
  column_sums(sum, sum, d, [&](int c, float total, float) { partial[at(blockIdx.x, d, c)] = total; });
}

// The gradient of the mask token: partial [chunks of `chunk` patches, d] of the sums over hidden ones. Floor: their rows of dy once.
KERNEL void __launch_bounds__(THREADS)
    unmask_tokens_bwd_mask(float *__restrict__ partial, const T *__restrict__ dy, const u32 *__restrict__ place, int chunk, int n, int patches,
                           int keep, int d) {
  if (d % VEC == 0) sum_hidden<VEC>(partial, dy, place, chunk, n, patches, keep, d);
  else sum_hidden<1>(partial, dy, place, chunk, n, patches, keep, d);
}
