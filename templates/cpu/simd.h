// Vectors of the CPU target that the compiler was asked for, and what the kernels need of them.
#pragma once
#ifndef MOEJIT_GENERATED
#include "../config_example.h"
#endif

#define MOEJIT_INLINE static inline __attribute__((always_inline))
#define MOEJIT_INLINE_MEMBER inline __attribute__((always_inline))
#define MOEJIT_UNROLL _Pragma("clang loop unroll(full)")

namespace moejit_cpu {
using namespace moejit_cfg;

typedef long long i64;
typedef unsigned int u32;
typedef unsigned short u16;

#ifdef __AVX512F__
constexpr int kLanes = 16;      // f32 of one vector
constexpr int kTileTokens = 6;  // 4 x 6 accumulators, 4 of weights, 1 of x: 29 of 32 registers
#else
constexpr int kLanes = 8;
constexpr int kTileTokens = 3;  // 4 x 3 accumulators, 3 of x, 1 of weights: all 16 registers
#endif

typedef float F __attribute__((vector_size(4 * kLanes)));
typedef u32 U __attribute__((vector_size(4 * kLanes)));
typedef float F8 __attribute__((vector_size(32)));
typedef float F4 __attribute__((vector_size(16)));
typedef i64 L __attribute__((vector_size(4 * kLanes)));

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

// 16 bytes in every 128-bit part of a vector.
MOEJIT_INLINE F repeat(F4 v) {
#ifdef __AVX512F__
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
#else
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3);
#endif
}

// What one step along K multiplies. Where the target has a bf16 dot product and the layer is bf16,
// both operands stay bf16 and a step is 32 elements; elsewhere weights become f32 when they are
// loaded, x and h are kept as f32, and a step is kLanes elements. `spread` and `packed` are for
// tiles (tile.h): 16 bytes of x in every 128-bit part, and a vector of a packed panel.
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
  static inline __attribute__((always_inline)) F spread(const X* p) { return repeat(load<F4>(p)); }
  static inline __attribute__((always_inline)) F packed(const X* p) { return load<F>(p); }
  // One step of x for every lane (packed.h).
  static inline __attribute__((always_inline)) F broadcast(const X* p) {
    return (F)(U{} + load<u32>(p));  // as bits: 0 + x is an addition, for the sake of -0
  }
  // As packed: a vector of one row of weights, and one quad.
  static inline __attribute__((always_inline)) F w_quads(const WElem* p) { return w(p); }
  static inline __attribute__((always_inline)) void store_quad(X* to, const WElem* p) {
    store<F4>(to, E::to_f32<4>(p));
  }
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
  static inline __attribute__((always_inline)) B spread(const X* p) {
    return (B)repeat(load<F4>(p));
  }
  static inline __attribute__((always_inline)) B packed(const X* p) { return load<B>(p); }
  static inline __attribute__((always_inline)) B broadcast(const X* p) {
    return (B)(U{} + load<u32>(p));
  }
  static inline __attribute__((always_inline)) B w_quads(const WElem* p) { return w(p); }
  static inline __attribute__((always_inline)) void store_quad(X* to, const WElem* p) {
    store<F4>(to, load<F4>(p));
  }
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

// To the L2: what streams by would push the work at hand out of the L1.
MOEJIT_INLINE void prefetch(const char* p) {
  __builtin_prefetch(p, 0, 2);
}

// The lower (`part` 0) or upper pairs of every 128-bit part, those of `a` and `b` in turn.
template <int part>
MOEJIT_INLINE F interleave(F a, F b) {
#ifdef __AVX512F__
  if constexpr (part == 0) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  } else {
    return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15,
                                   31);
  }
#else
  if constexpr (part == 0) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
  } else {
    return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  }
#endif
}

// The sums of each vector's 128-bit parts, those of the first parts first: lane 4 * part + vector.
MOEJIT_INLINE F sum_quads(F a, F b, F c, F d) {
  typedef double D __attribute__((vector_size(4 * kLanes)));
  const D ab = (D)(interleave<0>(a, b) + interleave<1>(a, b));
  const D cd = (D)(interleave<0>(c, d) + interleave<1>(c, d));
#ifdef __AVX512F__
  return (F)__builtin_shufflevector(ab, cd, 0, 8, 2, 10, 4, 12, 6, 14) +
         (F)__builtin_shufflevector(ab, cd, 1, 9, 3, 11, 5, 13, 7, 15);
#else
  return (F)__builtin_shufflevector(ab, cd, 0, 4, 2, 6) +
         (F)__builtin_shufflevector(ab, cd, 1, 5, 3, 7);
#endif
}

// The sum of a vector's 128-bit parts.
MOEJIT_INLINE F4 sum_parts(F v) {
#ifdef __AVX512F__
  const F8 half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                  __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const F8 half = v;
#endif
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) +
         __builtin_shufflevector(half, half, 4, 5, 6, 7);
}

// Elements from one row of x or h to the next in the kernel's own memory: an odd number of cache
// lines, so that the rows of a tile do not fall into one set of the L1.
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
