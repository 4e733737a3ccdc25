// Shared by the kernels of a network's first convolution: images of three channels, 7x7 with stride 2 or 3x3 with stride 1. Three channels
// do not fill the 16-byte chunks of conv.cu.
//
// Rows of images are copied to shared memory as they are, with zeros on both sides. In NHWC a pixel's window is a contiguous run of each
// row, since taps and channels form one axis: fragments are read from the rows directly, and nothing is gathered. Fragments are pairs of
// values (32-bit words), so a window must begin at an even value. Where its first tap is odd, it begins one value early, and that
// value's weight is zero.
#pragma once
#include "product.cuh"

template <int SIDE_> struct Stem {
  static constexpr int SIDE = SIDE_, STRIDE = SIDE == 7 ? 2 : 1, PAD = SIDE / 2;
  static constexpr int LINE = 3 * SIDE, TAPS = SIDE * LINE;                       // values of a row of taps, and of all
  static constexpr int LEAD = ((3 * PAD + 1) * (int)sizeof(T) + 15) / 16 * 16;  // bytes before the image in a copied row, zeros
  static constexpr int PARITIES = STRIDE == 1 ? 2 : 1;  // with stride 1 the next pixel is 3 values on, so odd columns begin at odd values

  // Values by which a column's window begins before its first tap: 0 or 1.
  static MEMBER int early(int parity) { return STRIDE == 1 ? 1 - parity : 1; }
  // Offset of column j's window in a copied row, bytes.
  static MEMBER int window(int j) { return LEAD + (3 * (j * STRIDE - PAD) - early(j & 1)) * (int)sizeof(T); }

  // Copies a row of an image to `to`, `pitch` bytes long; zeros if not `in`. Thread `first` of `threads`.
  static MEMBER void copy(u8 *to, const T *row, bool in, int width, int pitch, int first, int threads) {
    const int bytes = 3 * width * sizeof(T);
    if (bytes % 16 == 0) {
      for (int c = first * 16; c < pitch; c += threads * 16)
        cp_async<16>(smem_u32(to) + c, (const u8 *)row + (c - LEAD), in && (u32)(c - LEAD) < (u32)bytes);
    } else {
      for (int c = first * sizeof(T); c < pitch; c += threads * sizeof(T))
        *(T *)(to + c) = in && (u32)(c - LEAD) < (u32)bytes ? *(const T *)((const u8 *)row + (c - LEAD)) : from_f32(0.f);
    }
  }
};
