// CUDA's words in C++17, so that g++ compiles kernels as they are. Included inside a namespace of the unit, after the system headers.
// All state is in the crate; this file only passes arguments on.
#pragma once
#define SIMT_HOST 1

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define KERNEL static
#define DEVICE static inline
#define GRID_CONSTANT const
#define UNCHECKED __attribute__((no_sanitize_thread, no_sanitize_undefined))

// The line that calls an intrinsic: CALLER ends a list of parameters, SITE one of arguments.
#define CALLER const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define SITE file_, line_

struct uint3 { u32 x, y, z; };
struct dim3 { u32 x, y, z; };
// Vectors are read and written whole, as on the GPU: g++ would take apart what is copied member by member.
#define EMU_VECTOR(name, part, bytes)                                                   \
  typedef part name##_whole __attribute__((vector_size(bytes), may_alias));             \
  struct alignas(bytes) name {                                                          \
    name() = default;                                                                   \
    name(const name &other) { *(name##_whole *)this = *(const name##_whole *)&other; }  \
    name &operator=(const name &other) {                                                \
      *(name##_whole *)this = *(const name##_whole *)&other;                            \
      return *this;                                                                     \
    }
#define EMU_VECTOR2(name, part)                    \
  EMU_VECTOR(name, part, 2 * sizeof(part))         \
    name(part x, part y) : x(x), y(y) {}           \
    part x, y;                                     \
  };                                               \
  static inline name make_##name(part x, part y) { return name(x, y); }
#define EMU_VECTOR4(name, part)                                                          \
  EMU_VECTOR(name, part, 4 * sizeof(part))                                               \
    name(part x, part y, part z, part w) : x(x), y(y), z(z), w(w) {}                     \
    part x, y, z, w;                                                                     \
  };                                                                                     \
  static inline name make_##name(part x, part y, part z, part w) { return name(x, y, z, w); }
EMU_VECTOR2(float2, float)
EMU_VECTOR2(double2, double)
EMU_VECTOR2(int2, int)
EMU_VECTOR2(uint2, u32)
EMU_VECTOR4(float4, float)
EMU_VECTOR4(int4, int)
EMU_VECTOR4(uint4, u32)
EMU_VECTOR4(uchar4, u8)
struct float3 { float x, y, z; };
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }

struct EmuShuffle { u64 value, out; u32 mode, by, width; };
struct EmuVote { u32 value, out, mode; };
struct EmuLdmatrix { u32 row, count, trans; u32 *r; };
struct EmuMma { float *d; const u32 *a, *b; };
struct EmuWgmma { float *d; const u32 *a; u64 desc_a, desc_b; u32 n, scale_d, trans_a, trans_b; };
enum { EMU_SYNCWARP, EMU_SHUFFLE, EMU_VOTE, EMU_REDUCE, EMU_MATCH, EMU_LDMATRIX, EMU_MMA, EMU_WGMMA };

extern "C" {
// const: they never change within one coroutine, so g++ may keep their results over suspensions.
uint3 emu_thread() __attribute__((const));
uint3 emu_block() __attribute__((const));
uint3 emu_block_size() __attribute__((const));
uint3 emu_grid() __attribute__((const));
void *emu_shared(const void *key, u64 size, const char *name);
void *emu_shared_dynamic(const char *file, int line);
u32 emu_shared_address(const void *p, const char *file, int line);
void emu_barrier(u32 id, u32 threads, u32 wait, const char *file, int line);
void emu_collective(u32 op, u32 mask, void *args, const char *file, int line);
void emu_cp_async(u32 to, const void *from, u32 bytes, u32 valid, const char *file, int line);
void emu_cp_commit();
void emu_cp_wait(u32 n);
void emu_mbarrier_init(u32 bar, u32 count, const char *file, int line);
void emu_mbarrier_arrive(u32 bar, u32 count, u32 bytes, const char *file, int line);
void emu_mbarrier_wait(u32 bar, u32 parity, const char *file, int line);
void emu_tma(u32 load, u32 shared, const void *map, u32 bar, int c0, int c1, int c2, int c3, int c4, const char *file, int line);
void emu_bulk_commit();
void emu_bulk_wait(u32 n);
void emu_wgmma_commit();
void emu_wgmma_wait(u32 n);
void emu_fence_proxy_async();
void emu_trap(const char *what, const char *file, int line);
}
#define threadIdx emu_thread()
#define blockIdx emu_block()
#define blockDim emu_block_size()
#define gridDim emu_grid()
#define warpSize 32

#define SHARED(type, name, dims)  \
  static const char name##_key = 0; \
  typedef type name##_type dims;    \
  name##_type &name = *(name##_type *)emu_shared(&name##_key, sizeof(name##_type), #name)
#define SHARED_DYN(name) u8 *name = (u8 *)emu_shared_dynamic(__FILE__, __LINE__)

UNCHECKED static inline void emu_ldmatrix(u32 *r, u32 count, u32 trans, u32 row, const char *file, int line) {
  EmuLdmatrix a{row, count, trans, r};
  emu_collective(EMU_LDMATRIX, ~0u, &a, file, line);
}
UNCHECKED static inline void emu_mma(float *d, const u32 *a, const u32 *b, const char *file, int line) {
  EmuMma x{d, a, b};
  emu_collective(EMU_MMA, ~0u, &x, file, line);
}

UNCHECKED static inline void emu_wgmma(
    float *d, const u32 *a, u64 desc_a, u64 desc_b, u32 n, int scale_d, u32 ta, u32 tb, const char *file, int line) {
  EmuWgmma x{d, a, desc_a, desc_b, n, (u32)scale_d, ta, tb};
  emu_collective(EMU_WGMMA, ~0u, &x, file, line);
}

// --- barriers, shuffles, votes -----------------------------------------------------------------------------------------------

static inline void __syncthreads(CALLER) { emu_barrier(0, 0, 1, SITE); }
static inline void __syncwarp(u32 mask = 0xffffffffu, CALLER) { emu_collective(EMU_SYNCWARP, mask, 0, SITE); }

template <class V> UNCHECKED static inline V emu_shuffle(u32 mask, V v, u32 mode, u32 by, u32 width, const char *file, int line) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8, "shuffles move 4 or 8 bytes");
  EmuShuffle a{0, 0, mode, by, width};
  __builtin_memcpy(&a.value, &v, sizeof(V));
  emu_collective(EMU_SHUFFLE, mask, &a, file, line);
  __builtin_memcpy(&v, &a.out, sizeof(V));
  return v;
}
template <class V> static inline V __shfl_sync(u32 m, V v, int lane, int w = 32, CALLER) { return emu_shuffle(m, v, 0, lane, w, SITE); }
template <class V> static inline V __shfl_up_sync(u32 m, V v, u32 by, int w = 32, CALLER) { return emu_shuffle(m, v, 1, by, w, SITE); }
template <class V> static inline V __shfl_down_sync(u32 m, V v, u32 by, int w = 32, CALLER) { return emu_shuffle(m, v, 2, by, w, SITE); }
template <class V> static inline V __shfl_xor_sync(u32 m, V v, int by, int w = 32, CALLER) { return emu_shuffle(m, v, 3, by, w, SITE); }

UNCHECKED static inline u32 emu_vote(u32 op, u32 mode, u32 mask, u32 v, const char *file, int line) {
  EmuVote a{v, 0, mode};
  emu_collective(op, mask, &a, file, line);
  return a.out;
}
static inline u32 __ballot_sync(u32 m, int p, CALLER) { return emu_vote(EMU_VOTE, 0, m, p != 0, SITE); }
static inline int __any_sync(u32 m, int p, CALLER) { return emu_vote(EMU_VOTE, 0, m, p != 0, SITE) != 0; }
static inline int __all_sync(u32 m, int p, CALLER) { return emu_vote(EMU_VOTE, 1, m, p != 0, SITE); }
static inline u32 __match_any_sync(u32 m, u32 v, CALLER) { return emu_vote(EMU_MATCH, 0, m, v, SITE); }
static inline u32 __reduce_add_sync(u32 m, u32 v, CALLER) { return emu_vote(EMU_REDUCE, 0, m, v, SITE); }
static inline u32 __reduce_min_sync(u32 m, u32 v, CALLER) { return emu_vote(EMU_REDUCE, 1, m, v, SITE); }
static inline u32 __reduce_max_sync(u32 m, u32 v, CALLER) { return emu_vote(EMU_REDUCE, 2, m, v, SITE); }
static inline int __reduce_add_sync(u32 m, int v, CALLER) { return (int)emu_vote(EMU_REDUCE, 0, m, (u32)v, SITE); }
static inline int __reduce_min_sync(u32 m, int v, CALLER) { return (int)emu_vote(EMU_REDUCE, 3, m, (u32)v, SITE); }
static inline int __reduce_max_sync(u32 m, int v, CALLER) { return (int)emu_vote(EMU_REDUCE, 4, m, (u32)v, SITE); }

// --- memory, atomics on integers -----------------------------------------------------------------------------------------------

static inline void __threadfence() {}
static inline void __threadfence_block() {}
template <class V> static inline V __ldg(const V *p) { return *p; }
template <class V> static inline V __ldcs(const V *p) { return *p; }
template <class V> static inline V __ldcg(const V *p) { return *p; }
template <class V> static inline void __stcs(V *p, V v) { *p = v; }
template <class V> static inline void __stcg(V *p, V v) { *p = v; }

static inline u32 atomicAdd(u32 *p, u32 v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline int atomicAdd(int *p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline u64 atomicAdd(u64 *p, u64 v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline u32 atomicOr(u32 *p, u32 v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }
static inline u32 atomicAnd(u32 *p, u32 v) { return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }
static inline u32 atomicExch(u32 *p, u32 v) { return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); }
static inline int atomicExch(int *p, int v) { return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); }
static inline u32 atomicCAS(u32 *p, u32 c, u32 v) {
  __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return c;
}
template <class F> static inline u32 emu_update(u32 *p, F f) {
  u32 old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, f(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return old;
}
static inline u32 atomicMax(u32 *p, u32 v) { return emu_update(p, [=](u32 o) { return o > v ? o : v; }); }
static inline u32 atomicMin(u32 *p, u32 v) { return emu_update(p, [=](u32 o) { return o < v ? o : v; }); }
static inline int atomicMax(int *p, int v) { return (int)emu_update((u32 *)p, [=](u32 o) { return (int)o > v ? o : (u32)v; }); }
static inline int atomicMin(int *p, int v) { return (int)emu_update((u32 *)p, [=](u32 o) { return (int)o < v ? o : (u32)v; }); }

// --- arithmetic ------------------------------------------------------------------------------------------------------------------

template <class A, class B> static inline A emu_bits(B b) {
  static_assert(sizeof(A) == sizeof(B), "of one size");
  A a;
  __builtin_memcpy(&a, &b, sizeof(A));
  return a;
}
static inline float __uint_as_float(u32 u) { return emu_bits<float>(u); }
static inline u32 __float_as_uint(float f) { return emu_bits<u32>(f); }
static inline float __int_as_float(int i) { return emu_bits<float>(i); }
static inline int __float_as_int(float f) { return emu_bits<int>(f); }
static inline double __longlong_as_double(long long i) { return emu_bits<double>(i); }
static inline long long __double_as_longlong(double d) { return emu_bits<long long>(d); }

// The _rn functions are never contracted to a fused multiply-add.
template <class F> static inline F emu_rounded(F f) {
  __asm__("" : "+x"(f));
  return f;
}
static inline float __fadd_rn(float a, float b) { return emu_rounded(a + b); }
static inline float __fsub_rn(float a, float b) { return emu_rounded(a - b); }
static inline float __fmul_rn(float a, float b) { return emu_rounded(a * b); }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return emu_rounded(a + b); }
static inline double __dmul_rn(double a, double b) { return emu_rounded(a * b); }
static inline float __expf(float x) { return expf(x); }
static inline float __exp2f(float x) { return exp2f(x); }
static inline float __logf(float x) { return logf(x); }
static inline float __log2f(float x) { return log2f(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline float cospif(float x) { return (float)cos(M_PI * (double)x); }
static inline float sinpif(float x) { return (float)sin(M_PI * (double)x); }
static inline double cospi(double x) { return cos(M_PI * x); }
static inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }

// Conversions saturate and send NaN to 0, as the GPU's do.
template <class I> static inline I emu_convert(double x, double low, double high) {
  return x != x ? I(0) : x <= low ? I(low) : x >= high ? I(high) : I(x);
}
static inline int emu_int(double x) { return emu_convert<int>(x, -2147483648.0, 2147483647.0); }
static inline u32 emu_uint(double x) { return emu_convert<u32>(x, 0.0, 4294967295.0); }
static inline int __float2int_rn(float x) { return emu_int(rint((double)x)); }
static inline int __float2int_rz(float x) { return emu_int(trunc((double)x)); }
static inline int __float2int_rd(float x) { return emu_int(floor((double)x)); }
static inline int __float2int_ru(float x) { return emu_int(ceil((double)x)); }
static inline u32 __float2uint_rn(float x) { return emu_uint(rint((double)x)); }
static inline u32 __float2uint_rz(float x) { return emu_uint(trunc((double)x)); }
static inline u32 __float2uint_rd(float x) { return emu_uint(floor((double)x)); }
static inline int __double2int_rn(double x) { return emu_int(rint(x)); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(u32 x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }

static inline int __popc(u32 x) { return __builtin_popcount(x); }
static inline int __popcll(u64 x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((u32)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline u32 __brev(u32 x) {
  u32 r = 0;
  for (int i = 0; i < 32; i++) r |= ((x >> i) & 1u) << (31 - i);
  return r;
}
static inline u32 __umulhi(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
static inline int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
static inline u64 __umul64hi(u64 a, u64 b) { return (u64)(((unsigned __int128)a * b) >> 64); }
static inline u32 __funnelshift_l(u32 low, u32 high, u32 n) { return (u32)(((((u64)high << 32) | low) << (n & 31)) >> 32); }
static inline u32 __funnelshift_r(u32 low, u32 high, u32 n) { return (u32)((((u64)high << 32) | low) >> (n & 31)); }
static inline u32 __byte_perm(u32 a, u32 b, u32 s) {
  u64 v = ((u64)b << 32) | a;
  u32 r = 0;
  for (int i = 0; i < 4; i++) r |= (u32)((v >> (8 * ((s >> (4 * i)) & 7))) & 255) << (8 * i);
  return r;
}
template <class V> static inline V min(V a, V b) { return b < a ? b : a; }
template <class V> static inline V max(V a, V b) { return a < b ? b : a; }
static inline void __trap(CALLER) { emu_trap("__trap()", SITE); }
#undef assert
#define assert(c) ((c) ? (void)0 : emu_trap("assert(" #c ")", __FILE__, __LINE__))

// --- entry points: one word per parameter; of a structure, its address -------------------------------------------------------------

template <class A> UNCHECKED static inline A emu_argument(const u64 *word) {
  if constexpr (sizeof(A) > 8) return *(const A *)*word;
  A a;
  __builtin_memcpy(&a, word, sizeof(A) > 8 ? 8 : sizeof(A));
  return a;
}
template <class... A, size_t... I> UNCHECKED static void emu_call_with(void (*f)(A...), const u64 *words, std::index_sequence<I...>) {
  f(emu_argument<A>(words + I)...);
}
template <class... A> UNCHECKED static void emu_call(void (*f)(A...), const u64 *words) {
  emu_call_with(f, words, std::index_sequence_for<A...>());
}
static inline int emu_bounds(int threads, int = 0) { return threads; }
