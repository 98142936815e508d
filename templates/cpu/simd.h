// Vectors of the CPU target that the compiler was asked for, and what the kernels need of them.
#pragma once
#ifndef MOEJIT_GENERATED
#include "../config_example.h"
#endif

#define MOEJIT_INLINE static inline __attribute__((always_inline))
#define MOEJIT_UNROLL _Pragma("clang loop unroll(full)")

namespace moejit_cpu {
using namespace moejit_cfg;

typedef long long i64;
typedef unsigned int u32;
typedef unsigned short u16;

#ifdef __AVX512F__
constexpr int kLanes = 16;      // f32 of one vector
constexpr int kTileTokens = 6;  // 4 x 6 accumulators, 6 of x, 1 of weights: 31 of 32 registers
#else
constexpr int kLanes = 8;
constexpr int kTileTokens = 3;  // 4 x 3 accumulators, 3 of x, 1 of weights: all 16 registers
#endif
constexpr int kTileRows = 4;  // divides every H and I with 16-byte rows, so rows have no tail

typedef float F __attribute__((vector_size(4 * kLanes)));
typedef u32 U __attribute__((vector_size(4 * kLanes)));
typedef float F8 __attribute__((vector_size(32)));
typedef float F4 __attribute__((vector_size(16)));

template <typename V>
struct __attribute__((packed, may_alias)) Unaligned {
  V v;
};
template <typename V>
MOEJIT_INLINE V load(const void* p) {
  return ((const Unaligned<V>*)p)->v;
}
template <typename V>
MOEJIT_INLINE void store(void* p, V v) {
  ((Unaligned<V>*)p)->v = v;
}

// Element of a tensor, by DType: 0 f32, 1 bf16, 2 f16. `N` lanes at a time to and from f32.
template <int kType>
struct Element;
template <>
struct Element<0> {
  typedef float T;
  template <int N>
  static inline __attribute__((always_inline)) auto to_f32(const void* p) {
    typedef float V __attribute__((vector_size(4 * N)));
    return load<V>(p);
  }
  template <int N, typename V>
  static inline __attribute__((always_inline)) V round(V v) {
    return v;
  }
  template <int N, typename V>
  static inline __attribute__((always_inline)) void from_f32(void* p, V v) {
    store<V>(p, v);
  }
};
template <>
struct Element<1> {
  typedef u16 T;
  template <int N>
  static inline __attribute__((always_inline)) auto to_f32(const void* p) {
    typedef u16 H __attribute__((vector_size(2 * N)));
    typedef u32 W __attribute__((vector_size(4 * N)));
    typedef float V __attribute__((vector_size(4 * N)));
    return (V)(__builtin_convertvector(load<H>(p), W) << 16);
  }
  // Nearest, ties to even, in the upper half of each lane; a NaN stays one.
  template <int N, typename V>
  static inline __attribute__((always_inline)) auto upper(V v) {
    typedef u32 W __attribute__((vector_size(4 * N)));
    const W bits = (W)v;
    const W rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return (W)(v == v) ? rounded : (bits | 0x400000);
  }
  template <int N, typename V>
  static inline __attribute__((always_inline)) V round(V v) {
    return (V)(upper<N>(v) & 0xffff0000u);
  }
  template <int N, typename V>
  static inline __attribute__((always_inline)) void from_f32(void* p, V v) {
    typedef u16 H __attribute__((vector_size(2 * N)));
    store<H>(p, __builtin_convertvector(upper<N>(v) >> 16, H));
  }
};
template <>
struct Element<2> {
  typedef u16 T;
  template <int N>
  static inline __attribute__((always_inline)) auto to_f32(const void* p) {
    typedef _Float16 H __attribute__((vector_size(2 * N)));
    typedef float V __attribute__((vector_size(4 * N)));
    return __builtin_convertvector(load<H>(p), V);
  }
  template <int N, typename V>
  static inline __attribute__((always_inline)) V round(V v) {
    typedef _Float16 H __attribute__((vector_size(2 * N)));
    return __builtin_convertvector(__builtin_convertvector(v, H), V);
  }
  template <int N, typename V>
  static inline __attribute__((always_inline)) void from_f32(void* p, V v) {
    typedef _Float16 H __attribute__((vector_size(2 * N)));
    store<H>(p, __builtin_convertvector(v, H));
  }
};

typedef Element<kDType> E;
typedef E::T WElem;  // of the weights, and of every tensor of the caller

#ifdef __AVX512F__
typedef int I16 __attribute__((vector_size(64)));
// The first `n` of the 32-bit words at p, the rest 0. Words beyond are not touched.
MOEJIT_INLINE I16 load_words(const void* p, int n) {
  return (I16)__builtin_ia32_loaddqusi512_mask((const int*)p, I16{}, (u16)((1u << n) - 1));
}
#endif

// What one step along K multiplies. Where the target has a bf16 dot product and the layer is bf16,
// both operands stay bf16 and a step is 32 elements; elsewhere weights become f32 when they are
// loaded, x and h are kept as f32, and a step is kLanes elements.
#ifdef __AVX512BF16__
constexpr bool kNativeDot = kDType == 1;
#else
constexpr bool kNativeDot = false;
#endif

template <bool kNative>
struct Operand {
  typedef float X;  // element of x and h in the kernel's own memory
  static constexpr int kStep = kLanes;
  static inline __attribute__((always_inline)) F w(const WElem* p) { return E::to_f32<kLanes>(p); }
  static inline __attribute__((always_inline)) F x(const X* p) { return load<F>(p); }
  // `n` elements, a multiple of 16 bytes of the caller's dtype, fewer than a step; the rest 0.
  static inline __attribute__((always_inline)) F w_tail(const WElem* p, int n) {
    F v = {};
    for (int j = 0; j < n; j += 4) {
      const F4 part = E::to_f32<4>(p + j);
      MOEJIT_UNROLL for (int l = 0; l < kLanes / 4; ++l) {
        if (l * 4 == j) insert(v, l, part);
      }
    }
    return v;
  }
  static inline __attribute__((always_inline)) F x_tail(const X* p, int n) {
    F v = {};
    for (int j = 0; j < n; j += 4) {
      const F4 part = load<F4>(p + j);
      MOEJIT_UNROLL for (int l = 0; l < kLanes / 4; ++l) {
        if (l * 4 == j) insert(v, l, part);
      }
    }
    return v;
  }
  static inline __attribute__((always_inline)) F dot(F acc, F a, F b) { return a * b + acc; }

 private:
  static inline __attribute__((always_inline)) void insert(F& v, int l, F4 part) {
    MOEJIT_UNROLL for (int i = 0; i < 4; ++i) v[l * 4 + i] = part[i];
  }
};

#ifdef __AVX512BF16__
template <>
struct Operand<true> {
  typedef u16 X;
  typedef __bf16 B __attribute__((vector_size(64)));
  static constexpr int kStep = 32;
  static inline __attribute__((always_inline)) B w(const WElem* p) { return load<B>(p); }
  static inline __attribute__((always_inline)) B x(const X* p) { return load<B>(p); }
  static inline __attribute__((always_inline)) B w_tail(const WElem* p, int n) {
    return (B)load_words(p, n / 2);
  }
  static inline __attribute__((always_inline)) B x_tail(const X* p, int n) {
    return (B)load_words(p, n / 2);
  }
  static inline __attribute__((always_inline)) F dot(F acc, B a, B b) {
    return __builtin_ia32_dpbf16ps_512(acc, a, b);
  }
};
#endif

typedef Operand<kNativeDot> Op;
typedef Op::X XElem;
constexpr int kStep = Op::kStep;

// Stores `v`'s lanes as x or h is kept (rounded to the dtype either way).
template <int N, typename V>
MOEJIT_INLINE void store_x(XElem* p, V v) {
  if constexpr (kNativeDot) {
    E::from_f32<N>(p, v);
  } else {
    store<V>(p, E::round<N>(v));
  }
}

// Elements from one row of x or h to the next in the kernel's own memory: an odd number of cache
// lines, so that the rows of a tile do not fall into one set of the L1 (a stride of 4 KiB costs a
// third of the speed).
constexpr i64 padded_stride(i64 elements) {
  const i64 per_line = 64 / (i64)sizeof(XElem);
  const i64 lines = (elements + per_line - 1) / per_line;
  return (lines | 1) * per_line;
}

// memcpy and memset, in case the compiler makes calls of loops: nothing is linked.
extern "C" __attribute__((weak, visibility("hidden"))) void* memset(void* to, int value,
                                                                    unsigned long n) {
  char* p = (char*)to;
  for (unsigned long i = 0; i < n; ++i) {
    p[i] = (char)value;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}
extern "C" __attribute__((weak, visibility("hidden"))) void* memcpy(void* to, const void* from,
                                                                    unsigned long n) {
  char* p = (char*)to;
  const char* q = (const char*)from;
  for (unsigned long i = 0; i < n; ++i) {
    p[i] = q[i];
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

}  // namespace moejit_cpu
