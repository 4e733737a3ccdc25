// Names of types and the few words that differ between NVRTC and the emulator. No CUDA or std header: NVRTC has no include path.
#pragma once

#ifndef SIMT_HOST
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__
#define DEVICE static __device__ __forceinline__
// A kernel parameter that is a structure passed by value.
#define GRID_CONSTANT const __grid_constant__
// An array in shared memory, at function scope: SHARED(float, part, [32]). Its contents are undefined at first.
#define SHARED(type, name, dims) __shared__ __align__(128) type name dims
// The dynamic shared memory of the launch, as bytes. Static and dynamic memory have no order a kernel may rely on.
#define SHARED_DYN(name) extern __shared__ __align__(1024) u8 name[]
#endif

// Arithmetic is done in f32; a bf16 is only stored.
struct bf16 {
  u16 bits;
};

// T is the type of activations; every .cu is compiled once for each.
#if BF16
typedef bf16 T;
#else
typedef float T;
#endif
