// Counter-based random numbers: Philox4x32-10, bit for bit those of src/random.rs, any word without the words before it.
#pragma once
#include "prelude.cuh"

// The stream of one view of one sample. The counter holds the block of four words, sample, epoch, purpose and view.
struct Stream {
  u32 key[2];
  u32 sample, epoch;
  u32 view;  // purpose << 24 | view
};

// Words 4 block .. 4 block + 3 of a stream: ten rounds.
DEVICE void philox(const Stream &s, u32 block, u32 (&c)[4]) {
  u32 k0 = s.key[0], k1 = s.key[1];
  c[0] = block, c[1] = s.sample, c[2] = s.epoch, c[3] = s.view;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const u32 a_high = __umulhi(c[0], 0xD2511F53u), a_low = c[0] * 0xD2511F53u;
    const u32 b_high = __umulhi(c[2], 0xCD9E8D57u), b_low = c[2] * 0xCD9E8D57u;
    c[0] = b_high ^ c[1] ^ k0, c[1] = b_low, c[2] = a_high ^ c[3] ^ k1, c[3] = a_low;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
}

// Uniform in [0, 1), a multiple of 2^-24.
DEVICE float uniform(u32 word) { return (float)(word >> 8) * (1.0f / (1u << 24)); }

// Uniform in [low, high). A fused multiply-add would round otherwise than the CPU.
DEVICE float range(float low, float high, u32 word) { return __fadd_rn(low, __fmul_rn(high - low, uniform(word))); }

// Uniform in 0..n by the high half of a product.
DEVICE u32 below(u32 n, u32 word) { return __umulhi(word, n); }
