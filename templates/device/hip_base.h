// What the primitives of primitives.md are on all of AMD's GPUs. Included by hip_gfx9.h and
// hip_gfx11.h, which say how many lanes a wave has (MOEJIT_WAVE) and add their matrix instructions.
// Compiled by hiprtc or by Clang in HIP mode; needs no HIP header and no device library.
//
// What primitives.md calls a warp is 32 lanes that share a program counter: half of a wave of 64,
// or a whole wave of 32. Calls that are "wave-collective" take all lanes of a wave.
#pragma once

#ifndef MOEJIT_WAVE
#define MOEJIT_WAVE 64
#endif

#define MOEJIT_DEVICE __attribute__((device)) inline __attribute__((always_inline))
#define MOEJIT_UNROLL _Pragma("unroll")
#define MOEJIT_NO_UNROLL _Pragma("unroll 1")
#define MOEJIT_PARAM
// A unit has four SIMDs: `min_blocks` resident blocks put this many waves on each of them.
#define MOEJIT_KERNEL(name, threads, min_blocks)                                                   \
  extern "C" __attribute__((global, visibility("default"),                                         \
                            amdgpu_flat_work_group_size((threads), (threads)),                     \
                            amdgpu_waves_per_eu(((min_blocks) * (threads) + 4 * MOEJIT_WAVE - 1) / \
                                                (4 * MOEJIT_WAVE)))) void name

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
namespace detail {
typedef u32 v2u __attribute__((ext_vector_type(2)));
typedef u32 v4u __attribute__((ext_vector_type(4)));
typedef f32 v2f __attribute__((ext_vector_type(2)));
typedef f32 v4f __attribute__((ext_vector_type(4)));

// Address spaces are named, or the compiler would emit flat accesses, which count against LDS too.
#define MOEJIT_GLOBAL __attribute__((address_space(1)))
#define MOEJIT_SHARED __attribute__((address_space(3)))
template <typename T>
MOEJIT_DEVICE T load(const void* p) {
  return *(const MOEJIT_GLOBAL T*)p;
}
template <typename T>
MOEJIT_DEVICE void store(void* p, T v) {
  *(MOEJIT_GLOBAL T*)p = v;
}
template <typename T>
MOEJIT_DEVICE T load_shared(u32 a) {
  return *(const MOEJIT_SHARED T*)a;
}
template <typename T>
MOEJIT_DEVICE void store_shared(u32 a, T v) {
  *(MOEJIT_SHARED T*)a = v;
}
// Byte index, for ds_bpermute, of a lane of this warp.
MOEJIT_DEVICE int in_warp(u32 lane) {
  const u32 first = MOEJIT_WAVE == 64 ? __builtin_amdgcn_workitem_id_x() & 32u : 0u;
  return static_cast<int>((first | (lane & 31u)) * 4u);
}
}  // namespace detail

// --- ids ---------------------------------------------------------------------------------------
MOEJIT_DEVICE u32 thread_id() {
  return __builtin_amdgcn_workitem_id_x();
}
MOEJIT_DEVICE u32 lane_id() {
  return thread_id() & 31u;
}
MOEJIT_DEVICE u32 warp_id() {
  return thread_id() >> 5;
}
MOEJIT_DEVICE u32 wave_lane() {
  return thread_id() & (MOEJIT_WAVE - 1u);
}
MOEJIT_DEVICE u32 wave_id() {
  return static_cast<u32>(
      __builtin_amdgcn_readfirstlane(static_cast<int>(thread_id() / MOEJIT_WAVE)));
}
MOEJIT_DEVICE u32 block_id() {
  return __builtin_amdgcn_workgroup_id_x();
}
// From the dispatch packet, whose layout no version of the runtime changes: threads of the grid at
// byte 12, of a block at byte 4.
MOEJIT_DEVICE u32 block_count() {
  const auto* packet = (const __attribute__((address_space(4))) u8*)__builtin_amdgcn_dispatch_ptr();
  return *(const __attribute__((address_space(4))) u32*)(packet + 12) /
         *(const __attribute__((address_space(4))) u16*)(packet + 4);
}
extern __attribute__((shared)) u8 moejit_dynamic_shared[];
MOEJIT_DEVICE u32 shared_base() {
  return (u32)(MOEJIT_SHARED u8*)moejit_dynamic_shared;
}

// --- shared memory -----------------------------------------------------------------------------
MOEJIT_DEVICE u16 lds_u16(u32 a) {
  return detail::load_shared<u16>(a);
}
MOEJIT_DEVICE u32 lds_u32(u32 a) {
  return detail::load_shared<u32>(a);
}
MOEJIT_DEVICE f32 lds_f32(u32 a) {
  return detail::load_shared<f32>(a);
}
MOEJIT_DEVICE u32x2 lds_u32x2(u32 a) {
  const auto v = detail::load_shared<detail::v2u>(a);
  return {v.x, v.y};
}
MOEJIT_DEVICE u32x4 lds_u32x4(u32 a) {
  const auto v = detail::load_shared<detail::v4u>(a);
  return {v.x, v.y, v.z, v.w};
}
MOEJIT_DEVICE f32x2 lds_f32x2(u32 a) {
  const auto v = detail::load_shared<detail::v2f>(a);
  return {v.x, v.y};
}
MOEJIT_DEVICE f32x4 lds_f32x4(u32 a) {
  const auto v = detail::load_shared<detail::v4f>(a);
  return {v.x, v.y, v.z, v.w};
}
MOEJIT_DEVICE void sts_u16(u32 a, u16 v) {
  detail::store_shared(a, v);
}
MOEJIT_DEVICE void sts_u32(u32 a, u32 v) {
  detail::store_shared(a, v);
}
MOEJIT_DEVICE void sts_f32(u32 a, f32 v) {
  detail::store_shared(a, v);
}
MOEJIT_DEVICE void sts_u32x2(u32 a, u32x2 v) {
  detail::store_shared(a, detail::v2u{v.x, v.y});
}
MOEJIT_DEVICE void sts_u32x4(u32 a, u32x4 v) {
  detail::store_shared(a, detail::v4u{v.x, v.y, v.z, v.w});
}
MOEJIT_DEVICE void sts_f32x2(u32 a, f32x2 v) {
  detail::store_shared(a, detail::v2f{v.x, v.y});
}
MOEJIT_DEVICE void sts_f32x4(u32 a, f32x4 v) {
  detail::store_shared(a, detail::v4f{v.x, v.y, v.z, v.w});
}
MOEJIT_DEVICE u32 atomic_add_shared(u32 a, u32 v) {
  return __hip_atomic_fetch_add((MOEJIT_SHARED u32*)a, v, __ATOMIC_RELAXED,
                                __HIP_MEMORY_SCOPE_WORKGROUP);
}

// --- global memory -----------------------------------------------------------------------------
MOEJIT_DEVICE u16 ldg_u16(const void* p) {
  return detail::load<u16>(p);
}
MOEJIT_DEVICE u32 ldg_u32(const void* p) {
  return detail::load<u32>(p);
}
MOEJIT_DEVICE i32 ldg_i32(const void* p) {
  return detail::load<i32>(p);
}
MOEJIT_DEVICE f32 ldg_f32(const void* p) {
  return detail::load<f32>(p);
}
MOEJIT_DEVICE u32x2 ldg_u32x2(const void* p) {
  const auto v = detail::load<detail::v2u>(p);
  return {v.x, v.y};
}
MOEJIT_DEVICE u32x4 ldg_u32x4(const void* p) {
  const auto v = detail::load<detail::v4u>(p);
  return {v.x, v.y, v.z, v.w};
}
MOEJIT_DEVICE f32x2 ldg_f32x2(const void* p) {
  const auto v = detail::load<detail::v2f>(p);
  return {v.x, v.y};
}
MOEJIT_DEVICE f32x4 ldg_f32x4(const void* p) {
  const auto v = detail::load<detail::v4f>(p);
  return {v.x, v.y, v.z, v.w};
}
// Through the scalar cache where the address is the same in all lanes: such a load does not wait
// for the vector loads before it.
MOEJIT_DEVICE i32 ldk_i32(const void* p) {
  return *(const __attribute__((address_space(4))) i32*)p;
}
MOEJIT_DEVICE u32x4 ldk_u32x4(const void* p) {
  const auto v = *(const __attribute__((address_space(4))) detail::v4u*)p;
  return {v.x, v.y, v.z, v.w};
}
// Non-temporal: the lines leave the caches first. The hint does not depend on the policy.
MOEJIT_DEVICE u32x4 ldg_stream(const void* p, u64) {
  const auto v = __builtin_nontemporal_load((const MOEJIT_GLOBAL detail::v4u*)p);
  return {v.x, v.y, v.z, v.w};
}
MOEJIT_DEVICE void stg_u16(void* p, u16 v) {
  detail::store(p, v);
}
MOEJIT_DEVICE void stg_u32(void* p, u32 v) {
  detail::store(p, v);
}
MOEJIT_DEVICE void stg_i32(void* p, i32 v) {
  detail::store(p, v);
}
MOEJIT_DEVICE void stg_f32(void* p, f32 v) {
  detail::store(p, v);
}
MOEJIT_DEVICE void stg_u32x2(void* p, u32x2 v) {
  detail::store(p, detail::v2u{v.x, v.y});
}
MOEJIT_DEVICE void stg_u32x4(void* p, u32x4 v) {
  detail::store(p, detail::v4u{v.x, v.y, v.z, v.w});
}
MOEJIT_DEVICE void stg_f32x2(void* p, f32x2 v) {
  detail::store(p, detail::v2f{v.x, v.y});
}
MOEJIT_DEVICE void stg_f32x4(void* p, f32x4 v) {
  detail::store(p, detail::v4f{v.x, v.y, v.z, v.w});
}
// No instruction here says that a line is dead.
MOEJIT_DEVICE void discard_line(void*) {}
MOEJIT_DEVICE u32 atomic_add_global(u32* p, u32 v) {
  return __hip_atomic_fetch_add((MOEJIT_GLOBAL u32*)p, v, __ATOMIC_RELAXED,
                                __HIP_MEMORY_SCOPE_AGENT);
}
MOEJIT_DEVICE u32 atomic_add_acq_rel(u32* p, u32 v) {
  return __hip_atomic_fetch_add((MOEJIT_GLOBAL u32*)p, v, __ATOMIC_ACQ_REL,
                                __HIP_MEMORY_SCOPE_AGENT);
}
MOEJIT_DEVICE u32 ld_acquire(const u32* p) {
  return __hip_atomic_load((const MOEJIT_GLOBAL u32*)p, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_AGENT);
}
MOEJIT_DEVICE void fence_gpu() {
  __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "agent");
}
MOEJIT_DEVICE u64 policy_evict_first() {
  return 0;
}
MOEJIT_DEVICE u64 policy_evict_last() {
  return 0;
}
MOEJIT_DEVICE u64 policy_evict_normal() {
  return 0;
}

// --- warp and block ----------------------------------------------------------------------------
MOEJIT_DEVICE void warp_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
// Loads return in their order, and the compiler waits for the last that a use needs on any path:
// one order on all paths keeps the others under way.
MOEJIT_DEVICE void in_order() {
#if __has_builtin(__builtin_amdgcn_sched_barrier)
  __builtin_amdgcn_sched_barrier(0);
#endif
}
MOEJIT_DEVICE void block_sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
MOEJIT_DEVICE u32 shfl_u32(u32 v, u32 lane) {
  return static_cast<u32>(__builtin_amdgcn_ds_bpermute(detail::in_warp(lane), static_cast<int>(v)));
}
MOEJIT_DEVICE f32 shfl_f32(f32 v, u32 lane) {
  return __builtin_bit_cast(f32, shfl_u32(__builtin_bit_cast(u32, v), lane));
}
MOEJIT_DEVICE u32 shfl_xor_u32(u32 v, u32 mask) {
  return shfl_u32(v, lane_id() ^ mask);
}
MOEJIT_DEVICE f32 shfl_xor_f32(f32 v, u32 mask) {
  return shfl_f32(v, lane_id() ^ mask);
}
MOEJIT_DEVICE u32 shfl_up_u32(u32 v, u32 delta) {
  const u32 lane = lane_id();
  return shfl_u32(v, lane >= delta ? lane - delta : lane);
}
MOEJIT_DEVICE u32 warp_ballot(bool p) {
#if MOEJIT_WAVE == 64
  const u64 both = __builtin_amdgcn_uicmp(p ? 1u : 0u, 0u, 33);  // 33: not equal
  return static_cast<u32>(both >> (thread_id() & 32u));
#else
  return __builtin_amdgcn_ballot_w32(p);
#endif
}
MOEJIT_DEVICE u32 warp_max_u32(u32 v) {
  MOEJIT_UNROLL
  for (u32 m = 16; m > 0; m >>= 1) {
    const u32 other = shfl_xor_u32(v, m);
    v = other > v ? other : v;
  }
  return v;
}
MOEJIT_DEVICE u32 warp_min_u32(u32 v) {
  MOEJIT_UNROLL
  for (u32 m = 16; m > 0; m >>= 1) {
    const u32 other = shfl_xor_u32(v, m);
    v = other < v ? other : v;
  }
  return v;
}
MOEJIT_DEVICE u32 warp_add_u32(u32 v) {
  MOEJIT_UNROLL
  for (u32 m = 16; m > 0; m >>= 1) v += shfl_xor_u32(v, m);
  return v;
}

// Not of this target; declared so that templates which never call them can name them.
__attribute__((device)) void mma_bf16(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
__attribute__((device)) void mma_f16(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);

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
// To nearest even; a NaN stays one.
MOEJIT_DEVICE u16 f32_to_bf16(f32 v) {
  const u32 bits = as_u32(v);
  const u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<u16>(v != v ? 0x7fffu : rounded);
}
MOEJIT_DEVICE f32 f16_to_f32(u16 v) {
  return static_cast<f32>(__builtin_bit_cast(_Float16, v));
}
MOEJIT_DEVICE u16 f32_to_f16(f32 v) {
  return __builtin_bit_cast(u16, static_cast<_Float16>(v));
}
MOEJIT_DEVICE u32 pack_bf16(f32 lo, f32 hi) {
  return f32_to_bf16(lo) | static_cast<u32>(f32_to_bf16(hi)) << 16;
}
MOEJIT_DEVICE u32 pack_f16(f32 lo, f32 hi) {
  return f32_to_f16(lo) | static_cast<u32>(f32_to_f16(hi)) << 16;
}
MOEJIT_DEVICE f32 fma_f32(f32 a, f32 b, f32 c) {
  return __builtin_fmaf(a, b, c);
}
MOEJIT_DEVICE f32 sqrt_f32(f32 x) {
  return __builtin_sqrtf(x);
}
MOEJIT_DEVICE f32 fast_exp_f32(f32 x) {
  const f32 scaled = x * 1.44269504088896340736f;
#if __has_builtin(__builtin_amdgcn_exp2f)
  return __builtin_amdgcn_exp2f(scaled);
#else  // Clang before 18, which knows no gfx942 and thus none of its hazards around this
  f32 r;
  asm("v_exp_f32 %0, %1" : "=v"(r) : "v"(scaled));
  return r;
#endif
}
// a * v_rcp_f32(b): 0 for an infinite b, as __fdividef has it from 2^126 on.
MOEJIT_DEVICE f32 fast_div(f32 a, f32 b) {
  return a * __builtin_amdgcn_rcpf(b);
}
MOEJIT_DEVICE u32 popc(u32 v) {
  return static_cast<u32>(__builtin_popcount(v));
}
MOEJIT_DEVICE u32 ffs(u32 v) {
  return static_cast<u32>(__builtin_ffs(static_cast<int>(v)));
}

// --- dependent launch: entries run one after the other -----------------------------------------
MOEJIT_DEVICE void grid_wait() {}
MOEJIT_DEVICE void grid_launch_dependents() {}

}  // namespace dev

#include "device/hip_math.h"
