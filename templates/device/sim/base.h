// Primitives of primitives.md on the simulator: types, ids, memory, warp and block, numbers.
// Each is a call into the simulator's table with the line of its caller.
#pragma once

#include "device/sim/runtime.h"

#define MOEJIT_DEVICE inline
#define MOEJIT_UNROLL
#define MOEJIT_NO_UNROLL
#define MOEJIT_PARAM const
#define MOEJIT_KERNEL(name, threads, min_blocks) \
  extern "C" __attribute__((visibility("default"))) void name
#define MOEJIT_KERNEL_MAPS(name, threads, min_blocks) MOEJIT_KERNEL(name, threads, min_blocks)

// The last parameter of every primitive that can meet a finding: the caller's line.
#define MOEJIT_SIM_LINE u32 line = __builtin_LINE()

extern "C" {
__attribute__((visibility("default"))) inline const moejit_sim::Runtime* moejit_sim_runtime =
    nullptr;
__attribute__((visibility("default"))) inline const moejit_sim::Self* moejit_sim_self = nullptr;

// Called once after loading; returns where the simulator must put the running thread's Self.
__attribute__((visibility("default"), used)) inline const moejit_sim::Self** moejit_sim_bind(
    const moejit_sim::Runtime* runtime) {
  moejit_sim_runtime = runtime;
  return &moejit_sim_self;
}
}

namespace dev {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;
using f32 = float;

struct alignas(8) u32x2 {
  u32 x, y;
};
struct alignas(16) u32x4 {
  u32 x, y, z, w;
};
struct alignas(8) f32x2 {
  f32 x, y;
};
struct alignas(16) f32x4 {
  f32 x, y, z, w;
};

// --- ids ---------------------------------------------------------------------------------------
MOEJIT_DEVICE u32 thread_id() {
  return moejit_sim_self->thread;
}
MOEJIT_DEVICE u32 lane_id() {
  return moejit_sim_self->thread & 31u;
}
MOEJIT_DEVICE u32 warp_id() {
  return moejit_sim_self->thread >> 5;
}
MOEJIT_DEVICE u32 block_id() {
  return moejit_sim_self->block;
}
MOEJIT_DEVICE u32 block_count() {
  return moejit_sim_self->block_count;
}
MOEJIT_DEVICE u32 shared_base() {
  return moejit_sim_self->shared_base;
}

// --- shared memory -----------------------------------------------------------------------------
#define MOEJIT_SIM_SHARED(TYPE, NAME)                             \
  MOEJIT_DEVICE TYPE lds_##NAME(u32 a, MOEJIT_SIM_LINE) {         \
    TYPE v;                                                       \
    moejit_sim_runtime->load_shared(a, &v, sizeof v, line);       \
    return v;                                                     \
  }                                                               \
  MOEJIT_DEVICE void sts_##NAME(u32 a, TYPE v, MOEJIT_SIM_LINE) { \
    moejit_sim_runtime->store_shared(a, &v, sizeof v, line);      \
  }
MOEJIT_SIM_SHARED(u16, u16)
MOEJIT_SIM_SHARED(u32, u32)
MOEJIT_SIM_SHARED(u32x2, u32x2)
MOEJIT_SIM_SHARED(u32x4, u32x4)
MOEJIT_SIM_SHARED(f32, f32)
MOEJIT_SIM_SHARED(f32x2, f32x2)
MOEJIT_SIM_SHARED(f32x4, f32x4)
#undef MOEJIT_SIM_SHARED
MOEJIT_DEVICE u32 atomic_add_shared(u32 a, u32 v, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->add_shared(a, v, line);
}

// --- global memory -----------------------------------------------------------------------------
#define MOEJIT_SIM_GLOBAL(TYPE, NAME)                               \
  MOEJIT_DEVICE TYPE ldg_##NAME(const void* p, MOEJIT_SIM_LINE) {   \
    TYPE v;                                                         \
    moejit_sim_runtime->load_global(p, &v, sizeof v, 0, line);      \
    return v;                                                       \
  }                                                                 \
  MOEJIT_DEVICE void stg_##NAME(void* p, TYPE v, MOEJIT_SIM_LINE) { \
    moejit_sim_runtime->store_global(p, &v, sizeof v, line);        \
  }
MOEJIT_SIM_GLOBAL(u16, u16)
MOEJIT_SIM_GLOBAL(u32, u32)
MOEJIT_SIM_GLOBAL(i32, i32)
MOEJIT_SIM_GLOBAL(f32, f32)
MOEJIT_SIM_GLOBAL(u32x2, u32x2)
MOEJIT_SIM_GLOBAL(u32x4, u32x4)
MOEJIT_SIM_GLOBAL(f32x2, f32x2)
MOEJIT_SIM_GLOBAL(f32x4, f32x4)
#undef MOEJIT_SIM_GLOBAL
MOEJIT_DEVICE void stg_u32x4_hint(void* p, u32x4 v, u64 policy, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->store_global(p, &v, sizeof v, line);
  if (policy == moejit_sim::kEvictLast) moejit_sim_runtime->count_kept(sizeof v);
}
MOEJIT_DEVICE void discard_line(void* p, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->discard(p, line);
}
MOEJIT_DEVICE u32x4 ldg_stream(const void* p, u64, MOEJIT_SIM_LINE) {
  u32x4 v;
  moejit_sim_runtime->load_global(p, &v, sizeof v, 1, line);
  return v;
}
MOEJIT_DEVICE u32 atomic_add_global(u32* p, u32 v, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->add_global(p, v, moejit_sim::kRelaxed, line);
}
MOEJIT_DEVICE u32 atomic_add_acq_rel(u32* p, u32 v, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->add_global(p, v, moejit_sim::kAcqRel, line);
}
MOEJIT_DEVICE u32 ld_acquire(const u32* p, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->load_acquire(p, line);
}
MOEJIT_DEVICE u64 word_add(u64* p, u64 v, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->update_word(p, moejit_sim::kWordAdd, v, 0, line);
}
MOEJIT_DEVICE void word_add_release(u64* p, u64 v, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->update_word(p, moejit_sim::kWordAddRelease, v, 0, line);
}
MOEJIT_DEVICE u64 word_swap_if(u64* p, u64 expected, u64 v, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->update_word(p, moejit_sim::kWordSwapIf, v, expected, line);
}
MOEJIT_DEVICE u64 word_acquire(const u64* p, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->update_word(const_cast<u64*>(p), moejit_sim::kWordAcquire, 0, 0, line);
}
MOEJIT_DEVICE void fence_gpu(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->fence(moejit_sim::kFenceGpu, line);
}
MOEJIT_DEVICE u64 policy_evict_first() {
  return 0x12F0000000000000ull;
}
MOEJIT_DEVICE u64 policy_evict_last() {
  return moejit_sim::kEvictLast;
}
MOEJIT_DEVICE u64 policy_evict_normal() {
  return 0x1000000000000000ull;
}

// --- warp and block ----------------------------------------------------------------------------
MOEJIT_DEVICE void warp_sync(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->collective(moejit_sim::kWarpSync, nullptr, line);
}
MOEJIT_DEVICE void block_sync(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->block_sync(line);
}
MOEJIT_DEVICE void bar_sync(u32 id, u32 threads, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->named_barrier(id, threads, 1, line);
}
MOEJIT_DEVICE void bar_arrive(u32 id, u32 threads, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->named_barrier(id, threads, 0, line);
}
#define MOEJIT_SIM_SHUFFLE(NAME, MODE)                                 \
  MOEJIT_DEVICE u32 NAME(u32 v, u32 operand, MOEJIT_SIM_LINE) {        \
    moejit_sim::ShuffleArgs args{moejit_sim::MODE, v, operand, 0};     \
    moejit_sim_runtime->collective(moejit_sim::kShuffle, &args, line); \
    return args.result;                                                \
  }
MOEJIT_SIM_SHUFFLE(shfl_u32, kIndex)
MOEJIT_SIM_SHUFFLE(shfl_xor_u32, kXor)
MOEJIT_SIM_SHUFFLE(shfl_up_u32, kUp)
#undef MOEJIT_SIM_SHUFFLE
#define MOEJIT_SIM_SHUFFLE(NAME, MODE)                                                      \
  MOEJIT_DEVICE f32 NAME(f32 v, u32 operand, MOEJIT_SIM_LINE) {                             \
    moejit_sim::ShuffleArgs args{moejit_sim::MODE, __builtin_bit_cast(u32, v), operand, 0}; \
    moejit_sim_runtime->collective(moejit_sim::kShuffle, &args, line);                      \
    return __builtin_bit_cast(f32, args.result);                                            \
  }
MOEJIT_SIM_SHUFFLE(shfl_f32, kIndex)
MOEJIT_SIM_SHUFFLE(shfl_xor_f32, kXor)
#undef MOEJIT_SIM_SHUFFLE
MOEJIT_DEVICE u32 warp_ballot(bool p, MOEJIT_SIM_LINE) {
  moejit_sim::BallotArgs args{p ? 1u : 0u, 0};
  moejit_sim_runtime->collective(moejit_sim::kBallot, &args, line);
  return args.result;
}
#define MOEJIT_SIM_REDUCE(NAME, OP)                                   \
  MOEJIT_DEVICE u32 NAME(u32 v, MOEJIT_SIM_LINE) {                    \
    moejit_sim::ReduceArgs args{moejit_sim::OP, v, 0};                \
    moejit_sim_runtime->collective(moejit_sim::kReduce, &args, line); \
    return args.result;                                               \
  }
MOEJIT_SIM_REDUCE(warp_max_u32, kMax)
MOEJIT_SIM_REDUCE(warp_min_u32, kMin)
MOEJIT_SIM_REDUCE(warp_add_u32, kAdd)
#undef MOEJIT_SIM_REDUCE

// --- numbers -----------------------------------------------------------------------------------
MOEJIT_DEVICE f32 as_f32(u32 v) {
  return __builtin_bit_cast(f32, v);
}
MOEJIT_DEVICE u32 as_u32(f32 v) {
  return __builtin_bit_cast(u32, v);
}
MOEJIT_DEVICE f32 bf16_to_f32(u16 v) {
  return as_f32(static_cast<u32>(v) << 16);
}
// cvt.rn: to nearest even; a NaN becomes the canonical one, as on the device.
MOEJIT_DEVICE u16 f32_to_bf16(f32 v) {
  const u32 bits = as_u32(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
MOEJIT_DEVICE f32 f16_to_f32(u16 v) {
  const u32 sign = static_cast<u32>(v & 0x8000u) << 16;
  const u32 exponent = (v >> 10) & 31u;
  const u32 fraction = v & 0x3ffu;
  if (exponent == 31u) return as_f32(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0u) {
    const f32 magnitude = static_cast<f32>(fraction) * 0x1p-24f;
    return as_f32(sign | as_u32(magnitude));
  }
  return as_f32(sign | (exponent + 112u) << 23 | fraction << 13);
}
MOEJIT_DEVICE u16 f32_to_f16(f32 v) {
  const u32 bits = as_u32(v);
  const u32 sign = (bits >> 16) & 0x8000u;
  const u32 magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<u16>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 lines the fraction up and rounds it
    const u32 rounded = as_u32(as_f32(magnitude) + 0.5f) - 0x3f000000u;
    return static_cast<u16>(sign | rounded);
  }
  const u32 rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return static_cast<u16>(sign | rounded >> 13);
}
MOEJIT_DEVICE u32 pack_bf16(f32 lo, f32 hi) {
  return f32_to_bf16(lo) | static_cast<u32>(f32_to_bf16(hi)) << 16;
}
MOEJIT_DEVICE u32 pack_f16(f32 lo, f32 hi) {
  return f32_to_f16(lo) | static_cast<u32>(f32_to_f16(hi)) << 16;
}
#ifndef MOEJIT_OWN_MATH  // a target whose own functions are sums and products
MOEJIT_DEVICE f32 exp_f32(f32 x) {
  return moejit_sim_runtime->math(moejit_sim::kExp, x);
}
MOEJIT_DEVICE f32 tanh_f32(f32 x) {
  return moejit_sim_runtime->math(moejit_sim::kTanh, x);
}
MOEJIT_DEVICE f32 erf_f32(f32 x) {
  return moejit_sim_runtime->math(moejit_sim::kErf, x);
}
MOEJIT_DEVICE f32 log1p_f32(f32 x) {
  return moejit_sim_runtime->math(moejit_sim::kLog1p, x);
}
#endif
MOEJIT_DEVICE f32 sqrt_f32(f32 x) {
  return moejit_sim_runtime->math(moejit_sim::kSqrt, x);
}
MOEJIT_DEVICE f32 fast_exp_f32(f32 x) {
  return moejit_sim_runtime->math(moejit_sim::kExp2, x * 1.44269504088896340736f);
}
// __fdividef: 0 where 2^126 < |b| < 2^128, but for an infinite or NaN a.
MOEJIT_DEVICE f32 fast_div(f32 a, f32 b) {
  const u32 magnitude = as_u32(b) & 0x7fffffffu;
  if (magnitude > 0x7e800000u && magnitude < 0x7f800000u) return a * 0.0f;
  return a / b;
}
MOEJIT_DEVICE f32 fma_f32(f32 a, f32 b, f32 c) {
  return __builtin_fmaf(a, b, c);
}
MOEJIT_DEVICE u32 popc(u32 v) {
  return static_cast<u32>(__builtin_popcount(v));
}
MOEJIT_DEVICE u32 ffs(u32 v) {
  return static_cast<u32>(__builtin_ffs(static_cast<int>(v)));
}

// --- dependent launch --------------------------------------------------------------------------
MOEJIT_DEVICE void grid_wait(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->grid_wait(line);
}
MOEJIT_DEVICE void grid_launch_dependents(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->grid_launch_dependents(line);
}

}  // namespace dev
