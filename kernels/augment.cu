// Augmented views from 8-bit images, one block per view: crop, resize, flip, jitter, gray, blur, solarize, normalise.
//
// TABLE
#include "resize.cuh"
#include "tone.cuh"

constexpr int PIXELS = 8;  // of a strip, per thread
constexpr int RUN = 8;     // values along an axis that a thread blurs at once

// A rectangle of the view that is worked on at once. Thread t has its pixels t, t + threads, ... in the order of rows.
struct Strip {
  int x, y, width, rows;
};

// What the block works with, beside its registers.
struct Block {
  const Policy *policy;
  const Drawn *drawn;
  const u8 *box;  // its first pixel
  u64 pitch;      // bytes of a row of the source
  Axis rows, columns;
  float *lines;  // [capacity]: resized source rows, then the strip before its blur or its normalisation, [rows, width, 3]
  int capacity;
  float *kernel;  // the blur's, RUN - 1 zeros on either side
  float *window;  // [rows + 2 radius, tile, 3], blurred along its rows
  T *y;           // [size, size, 3], the view
};

// f(i, row, col) for each of a thread's pixels, row and col within the strip.
template <class F> DEVICE void each_pixel(const Strip &s, F f) {
  const int down = blockDim.x / s.width, right = blockDim.x % s.width;
  int row = threadIdx.x / s.width, col = threadIdx.x % s.width;
#pragma unroll
  for (int i = 0; i < PIXELS; i++) {
    if (row < s.rows) f(i, row, col);
    row += down, col += right;
    if (col >= s.width) row++, col -= s.width;
  }
}

// The pixels of a strip from the source, in as many pieces as `lines` is short of its source rows.
DEVICE void resize(float (&v)[PIXELS][3], const Block &b, const Strip &s) {
  float total[PIXELS] = {};
#pragma unroll
  for (int i = 0; i < PIXELS; i++) v[i][0] = v[i][1] = v[i][2] = 0.0f;
  const int room = b.capacity / (3 * s.width), end = span(b.rows, s.y + s.rows - 1).end;
  for (int at = span(b.rows, s.y).first; at < end; at += room) {
    const int count = min(room, end - at);
    __syncthreads();  // `lines` is no longer read
    columns(b.box, b.pitch, b.columns, b.drawn->flip, b.policy->size, at, count, s.x, s.width, b.lines);
    __syncthreads();
    each_pixel(s, [&](int i, int row, int col) {
      const Span taps = span(b.rows, s.y + row);
      const int last = min(taps.end, at + count);
#pragma unroll 1  // as in `columns`
      for (int k = max(taps.first, at); k < last; k++) {
        const float w = weight(b.rows, taps, k), *line = b.lines + ((k - at) * s.width + col) * 3;
        total[i] += w;
#pragma unroll
        for (int c = 0; c < 3; c++) v[i][c] += w * line[c];
      }
    });
  }
  each_pixel(s, [&](int i, int, int) {
    const float scale = (1.0f / 255.0f) / total[i];
#pragma unroll
    for (int c = 0; c < 3; c++) v[i][c] *= scale;
  });
}

// Before the contrast, pixels wait in the output for the mean of all: in f32 as they are, in bf16 as 16 bits of [-0.5, 1.5], which
// holds what bicubic resizing overshoots. That is half of the work of resizing them again.
#if BF16
DEVICE T park(float v) { return T{(u16)__float2uint_rn(__saturatef(v * 0.5f + 0.25f) * 65535.0f)}; }
DEVICE float parked(T v) { return (float)v.bits * (2.0f / 65535.0f) - 0.5f; }
#else
DEVICE T park(float v) { return v; }
DEVICE float parked(T v) { return v; }
#endif

DEVICE T *place(const Block &b, const Strip &s, int row, int col) {
  return b.y + ((s.y + row) * b.policy->size + s.x + col) * 3;
}

// Solarizes and normalises.
DEVICE float finish(const Block &b, float v, int c) {
  v = v >= b.drawn->threshold ? 1.0f - v : v;
  return (v - b.policy->mean[c]) * b.policy->scale[c];
}

// Stores a strip that is not blurred, through `lines` so that neighbouring threads write neighbouring values.
DEVICE void store(const float (&v)[PIXELS][3], const Block &b, const Strip &s) {
  __syncthreads();  // `lines` is no longer read
  each_pixel(s, [&](int i, int row, int col) {
#pragma unroll
    for (int c = 0; c < 3; c++) b.lines[(row * s.width + col) * 3 + c] = finish(b, v[i][c], c);
  });
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = 3 * s.width;
  for (int row = warp; row < s.rows; row += blockDim.x / 32) {
    T *to = place(b, s, row, 0);
    for (int e = lane; e < pitch; e += 32) to[e] = from_f32(b.lines[row * pitch + e]);
  }
}

// The sampled Gaussian with sum one; all threads call it.
DEVICE void gaussian(float *kernel, int width, float sigma) {
  float sum = 0.0f;
  for (int i = threadIdx.x; i < width + 3 * RUN; i += blockDim.x) {
    const float x = (float)(i - (RUN - 1) - width / 2) / sigma;
    kernel[i] = i >= RUN - 1 && i < RUN - 1 + width ? expf(-0.5f * x * x) : 0.0f;
    sum += kernel[i];
  }
  const float scale = 1.0f / block_sum(sum);
  for (int i = threadIdx.x; i < width + 3 * RUN; i += blockDim.x) kernel[i] *= scale;
  __syncthreads();
}

// RUN blurred values along an axis, the first at place `at`. The axis has `size` places, of which low .. high are at hand: place p is
// line[(p - low) * step]. Kernel and values move through registers: 16 loads for 64 products.
DEVICE void blur(const Block &b, const float *line, int step, int at, int low, int high, float (&sum)[RUN]) {
  const int width = b.drawn->kernel, size = b.policy->size;
  float k[2 * RUN - 1] = {};
#pragma unroll
  for (int o = 0; o < RUN; o++) sum[o] = 0.0f;
  at -= width / 2;
  for (int from = 0; from < width + RUN - 1; from += RUN, at += RUN) {
    float v[RUN];
    const bool inside = at >= low && at + RUN <= high;
#pragma unroll
    for (int i = 0; i < RUN; i++) {
      int p = at + i;
      if (!inside) {  // reflected; places that no value wants are brought to some place at hand
        p = abs(p);
        p = p < size ? p : 2 * (size - 1) - p;
        p = min(max(p, low), high - 1);
      }
      v[i] = line[(p - low) * step];
      k[RUN - 1 + i] = b.kernel[from + RUN - 1 + i];
    }
#pragma unroll
    for (int i = 0; i < RUN; i++)
#pragma unroll
      for (int o = 0; o < RUN; o++) sum[o] += v[i] * k[RUN - 1 + i - o];
#pragma unroll
    for (int i = 0; i < RUN - 1; i++) k[i] = k[RUN + i];
  }
}

// Blurs a strip along its rows, from `lines` to the rows of the window that begin at `to`: columns x .. x + width of the view.
DEVICE void blur_rows(const float (&v)[PIXELS][3], const Block &b, const Strip &s, int x, int width, float *to) {
  __syncthreads();  // `lines` is no longer read
  each_pixel(s, [&](int i, int row, int col) {
#pragma unroll
    for (int c = 0; c < 3; c++) b.lines[(row * s.width + col) * 3 + c] = v[i][c];
  });
  __syncthreads();
  const int each = 3 * ((width + RUN - 1) / RUN);  // runs of a row
  for (int item = threadIdx.x; item < each * s.rows; item += blockDim.x) {
    const int row = item / each, c = item % each % 3, first = item % each / 3 * RUN;
    float sum[RUN];
    blur(b, b.lines + row * 3 * s.width + c, 3, x + first, s.x, s.x + s.width, sum);
#pragma unroll
    for (int o = 0; o < RUN; o++)
      if (first + o < width) to[(row * width + first + o) * 3 + c] = sum[o];
  }
  __syncthreads();
}

// Blurs rows y .. end of the view along its columns, where the window holds rows low .. high, and stores them.
DEVICE void blur_columns(const Block &b, int x, int width, int y, int end, int low, int high) {
  const int pitch = 3 * width, size = b.policy->size;
  for (int item = threadIdx.x; item < (end - y + RUN - 1) / RUN * pitch; item += blockDim.x) {
    const int e = item % pitch, first = y + item / pitch * RUN;
    float sum[RUN];
    blur(b, b.window + e, pitch, first, low, high, sum);
#pragma unroll
    for (int o = 0; o < RUN; o++)
      if (first + o < end) b.y[((first + o) * size + x) * 3 + e] = from_f32(finish(b, sum[o], e % 3));
  }
  __syncthreads();
}

// The mean of the gray image before the contrast. The pixels stay in `v` if one strip is the whole view, in the output if `keep`.
DEVICE float gray_mean(float (&v)[PIXELS][3], const Block &b, int tile, int rows, bool keep) {
  const int size = b.policy->size;
  double sum = 0.0;
  for (int x = 0; x < size; x += tile)
    for (int y = 0; y < size; y += rows) {
      const Strip s = {x, y, min(tile, size - x), min(rows, size - y)};
      resize(v, b, s);
      jitter(v, *b.drawn, 0, b.drawn->before, 0.0f);
      float part = 0.0f;
      each_pixel(s, [&](int i, int row, int col) {
        part += luma(v[i]);
#pragma unroll
        for (int c = 0; c < 3; c++)
          if (keep) place(b, s, row, col)[c] = park(v[i][c]);
      });
      sum += part;
    }
  return (float)(block_sum(sum) / ((double)size * size));
}

// The window of a blur: it has rows low .. high, and what is above `done` is stored.
struct Window {
  int low, high, done;
};

// Takes the next strip of a blurred view through the window, and stores the rows that are complete.
DEVICE void roll(const float (&v)[PIXELS][3], const Block &b, const Strip &s, int x, int width, Window &w) {
  const int radius = b.drawn->kernel / 2, size = b.policy->size, pitch = 3 * width;
  blur_rows(v, b, s, x, width, b.window + (s.y - w.low) * pitch);
  w.high = s.y + s.rows;
  const int ready = w.high == size ? size : max(w.high - radius, w.done);
  blur_columns(b, x, width, w.done, ready, w.low, w.high);
  w.done = ready;
  // What later rows need moves to the front. A thread moves whole columns, so it waits for nobody.
  const int low = max(ready - radius, 0), shift = (low - w.low) * pitch;
  if (shift > 0)
    for (int e = threadIdx.x; e < pitch; e += blockDim.x)
      for (int at = e; at < (w.high - low) * pitch; at += pitch) b.window[at] = b.window[at + shift];
  w.low = low;
}

// Everything after the mean: jitter, gray, blur, solarize, normalise. If `kept`, the pixels have come to the contrast already, and are
// in `v` if `single`, in the output if not.
DEVICE void render(float (&v)[PIXELS][3], const Block &b, int tile, int rows, bool kept, bool single, float mean) {
  const Drawn &d = *b.drawn;
  const int size = b.policy->size, radius = d.kernel / 2;
  for (int x = 0; x < size; x += tile) {
    const int width = min(tile, size - x), left = max(x - radius, 0), right = min(x + width + radius, size);
    Window w = {};
    for (int y = 0; y < size; y += rows) {
      const Strip s = {left, y, right - left, min(rows, size - y)};
      if (!kept)
        resize(v, b, s);
      else if (!single)
        each_pixel(s, [&](int i, int row, int col) {
#pragma unroll
          for (int c = 0; c < 3; c++) v[i][c] = parked(place(b, s, row, col)[c]);
        });
      jitter(v, d, kept ? d.before : 0, d.count, mean);
      if (d.gray) {
#pragma unroll
        for (int i = 0; i < PIXELS; i++) v[i][0] = v[i][1] = v[i][2] = luma(v[i]);
      }
      if (d.kernel == 0)
        store(v, b, s);
      else
        roll(v, b, s, x, width, w);
    }
    __syncthreads();  // before the next tile fills the window
  }
}

// `size` of the policies is the same. The host chooses the strips: `rows` of at most `tile` columns (and what a blur of `halo` pixels
// reads beside them), `capacity` floats for their source; `purpose` is in the highest byte.
KERNEL void __launch_bounds__(256, 2) augment(T *y, const u8 *pixels, const u32 *table, const u32 *keys, const u32 *policies, int n,
                                           u32 seed_low, u32 seed_high, u32 purpose, int tile, int rows, int capacity, int halo) {
  SHARED_DYN(memory);
  SHARED(Drawn, drawn, [1]);
  const u32 view = blockIdx.x / n, image = blockIdx.x % n;
  const Policy &p = ((const Policy *)policies)[view];
  const int height = table[3 * image + 1], width = table[3 * image + 2], size = p.size;
  draw(drawn[0], p, Stream{{seed_low, seed_high}, keys[2 * image + 1], keys[2 * image], purpose | view}, height, width);

  const Drawn &d = drawn[0];
  int to_height = size, to_width = size;
  if (p.crop == CROP_CENTER) {  // the short side, the long side rounded down
    to_height = width <= height ? (int)((u64)p.resize * height / width) : p.resize;
    to_width = width <= height ? p.resize : (int)((u64)p.resize * width / height);
  }
  SHARED(Block, block, [1]);  // not in registers, which the pixels fill
  const Block &b = block[0];
  if (threadIdx.x == 0) {
    float *const lines = (float *)memory, *const kernel = lines + capacity;
    block[0] = {&p,
                &d,
                pixels + table[3 * image] + ((u64)d.top * width + d.left) * 3,
                (u64)width * 3,
                axis(p.cubic, d.height, to_height, size),
                axis(p.cubic, d.width, to_width, size),
                lines,
                capacity,
                kernel,
                kernel + 2 * halo + 1 + 3 * RUN,
                y + (u64)blockIdx.x * size * size * 3};
  }
  __syncthreads();
  if (d.kernel) gaussian(b.kernel, d.kernel, d.sigma);
  float v[PIXELS][3];
  const bool contrast = d.before < d.count, whole = tile >= size, single = whole && rows >= size;
  const float mean = contrast ? gray_mean(v, b, tile, rows, whole && !single) : 0.0f;
  render(v, b, tile, rows, contrast && whole, single, mean);
}
