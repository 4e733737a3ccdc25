// Augmented views from 8-bit images, one block per view: crop, resize, flip, jitter, gray, blur, solarize, normalise.
//
// A view is processed in strips whose pixels stay in registers. Shared memory holds the source rows of a strip and, for a blur, the rows
// that its kernel spans, so it does not grow with the source. Two blocks of 256 threads fill a multiprocessor. Views of up to 2048 pixels
// are one strip, with one thread per eight pixels. Source rows that two strips need are read again, from L1 or L2.
//
// Bytes of a view of 224 pixels from a photo of 375 x 500, in bf16: 562,500 in, 301,056 out; before a contrast, pixels wait in the output
// and 602,112 more pass through L2. Of 260,000 clocks per view (a million per second on 132 multiprocessors at 1.98 GHz), the
// load-store unit needs, by the emulator's count for a bicubic view with all jitter:
//
//   resize   81,000 to 93,000     four pixels at once: 4 loads, then 15 byte permutations, 12 subtractions, 12 FMA
//   blur     148,000, if drawn    23 taps twice, 8 outputs per thread: 16 loads for 64 FMA
//   the rest 15,000 to 30,000     jitter and the two passes through L2
//
// Half of SimCLR's views are blurred, which makes 184,000 in the mean. Arithmetic is estimated, not counted: 55,000 to 70,000 issue
// slots for the resize, 35,000 for the jitter, 100,000 for a blur.
#include "plain.cuh"
#include "resize.cuh"
#include "tone.cuh"

constexpr int PIXELS = 8;  // of a strip, per thread
constexpr int RUN = 8;     // values along an axis that a thread blurs at once
constexpr int GAP = 11;    // floats between the runs of a row: runs then begin 35 floats apart, and the banks of 32 threads differ

// A rectangle of the view that is worked on at once. Thread t has its pixels t, t + threads, ... in the order of rows.
struct Strip {
  int x, y, width, rows;
};

// The block's parameters, in shared memory because registers are for pixels. Loops copy what they need to registers first.
struct Block {
  int size;       // of the view
  const u8 *box;  // its first pixel
  u64 pitch;      // bytes of a row of the source
  Axis rows, columns;
  float mean[3], scale[3];
  float *lines;  // [capacity]: resized source rows, then the strip before its blur or after its normalisation
  int capacity;
  float *kernel;  // the blur's: RUN zeros, the weights, 2 RUN zeros; aligned to 16 bytes
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
DEVICE void resize(float (&v)[PIXELS][3], const Block &b, const Strip &s, bool flip) {
  const Axis &rows = b.rows;
  const float *lines = b.lines;
  float total[PIXELS] = {};
#pragma unroll
  for (int i = 0; i < PIXELS; i++) v[i][0] = v[i][1] = v[i][2] = 0.0f;
  const int room = b.capacity / (3 * s.width), end = span(rows, s.y + s.rows - 1).end;
  for (int at = span(rows, s.y).first; at < end; at += room) {
    const int count = min(room, end - at);
    __syncthreads();  // `lines` is no longer read
    columns(b.box + (u64)at * b.pitch, b.pitch, b.columns, flip, b.size, count, s.x, s.width, b.lines);
    __syncthreads();
    each_pixel(s, [&](int i, int row, int col) {
      const Span taps = span(rows, s.y + row);
      const int last = min(taps.end, at + count);
#pragma unroll 1  // as in `columns`
      for (int k = max(taps.first, at); k < last; k++) {
        const float w = weight(taps, k), *line = lines + ((k - at) * s.width + col) * 3;
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

// The contrast needs the mean of the whole view first. Until then pixels wait in the output, which is cheaper than resizing twice: in f32 as
// they are, in bf16 as 16-bit fixed point over [-0.5, 1.5], which covers the overshoot of bicubic resizing. Each row then holds its three
// channels one after the other, so that neighbouring threads write neighbouring addresses.
#if BF16
DEVICE T park(float v) { return T{(u16)__float2uint_rn(__saturatef(v * 0.5f + 0.25f) * 65535.0f)}; }
DEVICE float parked(T v) { return (float)v.bits * (2.0f / 65535.0f) - 0.5f; }
#else
DEVICE T park(float v) { return v; }
DEVICE float parked(T v) { return v; }
#endif

template <class F> DEVICE void each_waiting(const Block &b, const Strip &s, F f) {
  const int size = b.size;
  T *y = b.y;
  each_pixel(s, [&](int i, int row, int col) {
#pragma unroll
    for (int c = 0; c < 3; c++) f(y[((s.y + row) * 3 + c) * size + s.x + col], i, c);
  });
}

// Solarizes and normalises.
DEVICE float finish(float v, float threshold, float mean, float scale) { return ((v >= threshold ? 1.0f - v : v) - mean) * scale; }

// Stores a strip that is not blurred, through `lines` so that neighbouring threads write neighbouring values.
DEVICE void store(const float (&v)[PIXELS][3], const Block &b, const Strip &s, float threshold) {
  float *lines = b.lines;
  const float mean[3] = {b.mean[0], b.mean[1], b.mean[2]}, scale[3] = {b.scale[0], b.scale[1], b.scale[2]};
  __syncthreads();  // `lines` is no longer read
  each_pixel(s, [&](int i, int row, int col) {
#pragma unroll
    for (int c = 0; c < 3; c++) lines[(row * s.width + col) * 3 + c] = finish(v[i][c], threshold, mean[c], scale[c]);
  });
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = 3 * s.width;
  for (int row = warp; row < s.rows; row += blockDim.x / 32) {
    T *to = b.y + ((s.y + row) * b.size + s.x) * 3;
    for (int e = lane; e < pitch; e += 32) to[e] = from_f32(lines[row * pitch + e]);
  }
}

// The sampled Gaussian with sum one; all threads call it.
DEVICE void gaussian(float *kernel, int width, float sigma) {
  float sum = 0.0f;
  for (int i = threadIdx.x; i < width + 3 * RUN; i += blockDim.x) {
    const float x = (float)(i - RUN - width / 2) / sigma;
    const float value = i >= RUN && i < RUN + width ? expf(-0.5f * x * x) : 0.0f;
    kernel[i] = value, sum += value;
  }
  const float scale = 1.0f / block_sum(sum);
  for (int i = threadIdx.x; i < width + 3 * RUN; i += blockDim.x) kernel[i] *= scale;
  __syncthreads();
}

// RUN blurred values along an axis of `size` places, the first at place `at`. value(p - low) reads place p, for p in low .. high. Weights
// and values slide through registers: 8 loads of values and 2 of weights for 64 products.
template <class F>
DEVICE void blur(const float *kernel, int width, int size, int at, int low, int high, float (&sum)[RUN], F value) {
  float k[2 * RUN - 1] = {};
#pragma unroll
  for (int o = 0; o < RUN; o++) sum[o] = 0.0f;
  at -= width / 2;
#pragma unroll 1
  for (int from = 0; from < width + RUN - 1; from += RUN, at += RUN) {
    float v[RUN], four[4];
    const bool inside = at >= low && at + RUN <= high;
#pragma unroll
    for (int i = 0; i < RUN; i++) {
      int p = at + i;
      if (!inside) {  // reflected at the borders; places that no result needs are clamped to a valid one
        p = abs(p);
        p = p < size ? p : 2 * (size - 1) - p;
        p = min(max(p, low), high - 1);
      }
      v[i] = value(p - low);
    }
#pragma unroll
    for (int i = 0; i < RUN; i++) {
      if (i % 4 == 0) load16(kernel + from + RUN + i, four);
      k[RUN - 1 + i] = four[i % 4];
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
DEVICE void blur_rows(const float (&v)[PIXELS][3], const Block &b, const Strip &s, int taps, int x, int width, float *to) {
  float *lines = b.lines;
  const float *kernel = b.kernel;
  const int pitch = 3 * s.width + GAP * (s.width / RUN), size = b.size;
  __syncthreads();  // `lines` is no longer read
  each_pixel(s, [&](int i, int row, int col) {
#pragma unroll
    for (int c = 0; c < 3; c++) lines[row * pitch + 3 * col + GAP * (col / RUN) + c] = v[i][c];
  });
  __syncthreads();
  const int each = 3 * ((width + RUN - 1) / RUN);  // runs of a row
  for (int item = threadIdx.x; item < each * s.rows; item += blockDim.x) {
    const int row = item / each, c = item % each % 3, first = item % each / 3 * RUN;
    const float *line = lines + row * pitch + c;
    float sum[RUN];
    blur(kernel, taps, size, x + first, s.x, s.x + s.width, sum, [&](int p) { return line[3 * p + GAP * (p / RUN)]; });
#pragma unroll
    for (int o = 0; o < RUN; o++)
      if (first + o < width) to[(row * width + first + o) * 3 + c] = sum[o];
  }
  __syncthreads();
}

// Blurs rows y .. end of the view along its columns, where the window holds rows low .. high, and stores them.
DEVICE void blur_columns(const Block &b, const Drawn &d, int x, int width, int y, int end, int low, int high) {
  const int pitch = 3 * width, size = b.size, taps = d.kernel;
  const float *kernel = b.kernel;
  for (int item = threadIdx.x; item < (end - y + RUN - 1) / RUN * pitch; item += blockDim.x) {
    const int e = item % pitch, first = y + item / pitch * RUN;
    const float *column = b.window + e, threshold = d.threshold, mean = b.mean[e % 3], scale = b.scale[e % 3];
    float sum[RUN];
    blur(kernel, taps, size, first, low, high, sum, [&](int p) { return column[p * pitch]; });
    T *to = b.y + (first * size + x) * 3 + e;
#pragma unroll
    for (int o = 0; o < RUN; o++)
      if (first + o < end) to[o * size * 3] = from_f32(finish(sum[o], threshold, mean, scale));
  }
  __syncthreads();
}

// The mean of the gray image before the contrast. The pixels stay in `v` if one strip is the whole view, in the output if `keep`.
DEVICE float gray_mean(float (&v)[PIXELS][3], const Block &b, const Drawn &d, int tile, int rows, bool keep) {
  const int size = b.size;
  double sum = 0.0;
  for (int x = 0; x < size; x += tile)
    for (int y = 0; y < size; y += rows) {
      const Strip s = {x, y, min(tile, size - x), min(rows, size - y)};
      resize(v, b, s, d.flip);
      jitter(v, d, 0, d.before, 0.0f);
      float part = 0.0f;
      each_pixel(s, [&](int i, int, int) { part += luma(v[i]); });
      sum += part;
      if (keep) each_waiting(b, s, [&](T &y, int i, int c) { y = park(v[i][c]); });
    }
  return (float)(block_sum(sum) / ((double)size * size));
}

// The window of a blur: it has rows low .. high, and what is above `done` is stored.
struct Window {
  int low, high, done;
};

// Takes the next strip of a blurred view through the window, and stores the rows that are complete.
DEVICE void roll(const float (&v)[PIXELS][3], const Block &b, const Drawn &d, const Strip &s, int x, int width, Window &w) {
  const int radius = d.kernel / 2, size = b.size, pitch = 3 * width;
  float *window = b.window;
  blur_rows(v, b, s, d.kernel, x, width, window + (s.y - w.low) * pitch);
  w.high = s.y + s.rows;
  const int ready = w.high == size ? size : max(w.high - radius, w.done);
  blur_columns(b, d, x, width, w.done, ready, w.low, w.high);
  w.done = ready;
  // What later rows need moves to the front. A thread moves whole columns, so it waits for nobody.
  const int low = max(ready - radius, 0), shift = (low - w.low) * pitch;
  if (shift > 0)
    for (int e = threadIdx.x; e < pitch; e += blockDim.x)
      for (int at = e; at < (w.high - low) * pitch; at += pitch) window[at] = window[at + shift];
  w.low = low;
}

// Everything after the mean: jitter, gray, blur, solarize, normalise. If `kept`, the pixels have come to the contrast already, and are
// in `v` if `single`, in the output if not.
DEVICE void render(float (&v)[PIXELS][3], const Block &b, const Drawn &d, int tile, int rows, bool kept, bool single, float mean) {
  const int size = b.size, radius = d.kernel / 2;
  for (int x = 0; x < size; x += tile) {
    const int width = min(tile, size - x), left = max(x - radius, 0), right = min(x + width + radius, size);
    Window w = {};
    for (int y = 0; y < size; y += rows) {
      const Strip s = {left, y, right - left, min(rows, size - y)};
      if (!kept)
        resize(v, b, s, d.flip);
      else if (!single)
        each_waiting(b, s, [&](T &y, int i, int c) { v[i][c] = parked(y); });
      jitter(v, d, kept ? d.before : 0, d.count, mean);
      if (d.gray) {
#pragma unroll
        for (int i = 0; i < PIXELS; i++) v[i][0] = v[i][1] = v[i][2] = luma(v[i]);
      }
      if (d.kernel == 0)
        store(v, b, s, d.threshold);
      else
        roll(v, b, d, s, x, width, w);
    }
    __syncthreads();  // before the next tile fills the window
  }
}

// `size` of the policies is the same. The host chooses the strips: `rows` of at most `tile` columns (and what a blur of `halo` pixels
// reads beside them), `capacity` floats for their source; `purpose` is the purpose in the highest byte, and the number of the first view.
KERNEL void __launch_bounds__(256, 2) augment(T *y, const u8 *pixels, const u32 *table, const u32 *keys, const u32 *policies, int n,
                                           u32 seed_low, u32 seed_high, u32 purpose, int tile, int rows, int capacity, int halo) {
  SHARED_DYN(memory);
  SHARED(Drawn, drawn, [1]);
  const u32 view = blockIdx.x / n, image = blockIdx.x % n;
  const Policy &p = ((const Policy *)policies)[view];
  const int height = table[3 * image + 1], width = table[3 * image + 2], size = p.size;
  int to_height = size, to_width = size;
  if (p.crop == CROP_CENTER) {  // the short side, the long side rounded down
    to_height = width <= height ? (int)((u64)p.resize * height / width) : p.resize;
    to_width = width <= height ? p.resize : (int)((u64)p.resize * width / height);
  } else if (p.crop == CROP_SQUARE) {
    to_height = to_width = p.resize;
  }
  if (p.tones & PLAIN) {
    plain(y + (u64)blockIdx.x * size * size * 3, p, pixels + table[3 * image], height, width, to_height, to_width);
    return;
  }
  draw(drawn[0], p, Stream{{seed_low, seed_high}, keys[2 * image + 1], keys[2 * image], purpose + view}, height, width);

  const Drawn &d = drawn[0];
  SHARED(Block, block, [1]);
  Block &b = block[0];
  if (threadIdx.x == 0) {
    b.size = size;
    b.box = pixels + table[3 * image] + ((u64)d.top * width + d.left) * 3, b.pitch = (u64)width * 3;
    b.rows = axis(p.cubic, d.height, to_height, size), b.columns = axis(p.cubic, d.width, to_width, size);
    for (int c = 0; c < 3; c++) b.mean[c] = p.mean[c], b.scale[c] = p.scale[c];
    b.lines = (float *)memory, b.capacity = capacity;
    b.kernel = b.lines + capacity, b.window = b.kernel + 2 * halo + 1 + 3 * RUN;
    b.y = y + (u64)blockIdx.x * size * size * 3;
  }
  __syncthreads();
  if (d.kernel) gaussian(b.kernel, d.kernel, d.sigma);
  float v[PIXELS][3];
  const bool contrast = d.before < d.count, whole = tile >= size, single = whole && rows >= size;
  const float mean = contrast ? gray_mean(v, b, d, tile, rows, whole && !single) : 0.0f;
  render(v, b, d, tile, rows, contrast && whole, single, mean);
}
