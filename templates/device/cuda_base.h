// Primitives of primitives.md for CUDA: types, ids, memory, warp and block, numbers. Compiled by
// NVRTC or nvcc; needs no header. The namespace is open: kernels say `using namespace dev`.
#pragma once

#define MOEJIT_DEVICE __device__ __forceinline__
#define MOEJIT_UNROLL _Pragma("unroll")
#define MOEJIT_NO_UNROLL _Pragma("unroll 1")
#define MOEJIT_PARAM const __grid_constant__
#define MOEJIT_KERNEL(name, threads, min_blocks) \
  extern "C" __global__ void __launch_bounds__(threads, min_blocks) name
#define MOEJIT_KERNEL_MAPS(name, threads, min_blocks) MOEJIT_KERNEL(name, threads, min_blocks)

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
  return threadIdx.x;
}
MOEJIT_DEVICE u32 lane_id() {
  return threadIdx.x & 31u;
}
MOEJIT_DEVICE u32 warp_id() {
  return threadIdx.x >> 5;
}
MOEJIT_DEVICE u32 block_id() {
  return blockIdx.x;
}
MOEJIT_DEVICE u32 block_count() {
  return gridDim.x;
}

MOEJIT_DEVICE u32 shared_base() {
  extern __shared__ __align__(1024) u8 moejit_dynamic_shared[];
  return static_cast<u32>(__cvta_generic_to_shared(moejit_dynamic_shared));
}

// --- shared memory -----------------------------------------------------------------------------
MOEJIT_DEVICE u16 lds_u16(u32 a) {
  u16 v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(a));
  return v;
}
MOEJIT_DEVICE u32 lds_u32(u32 a) {
  u32 v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(a));
  return v;
}
MOEJIT_DEVICE u32x2 lds_u32x2(u32 a) {
  u32x2 v;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(a));
  return v;
}
MOEJIT_DEVICE u32x4 lds_u32x4(u32 a) {
  u32x4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(a));
  return v;
}
MOEJIT_DEVICE f32 lds_f32(u32 a) {
  f32 v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(a));
  return v;
}
MOEJIT_DEVICE f32x2 lds_f32x2(u32 a) {
  f32x2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(a));
  return v;
}
MOEJIT_DEVICE f32x4 lds_f32x4(u32 a) {
  f32x4 v;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(a));
  return v;
}
MOEJIT_DEVICE void sts_u16(u32 a, u16 v) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(a), "h"(v) : "memory");
}
MOEJIT_DEVICE void sts_u32(u32 a, u32 v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(a), "r"(v) : "memory");
}
MOEJIT_DEVICE void sts_u32x2(u32 a, u32x2 v) {
  asm volatile("st.shared.v2.u32 [%0], {%1,%2};" ::"r"(a), "r"(v.x), "r"(v.y) : "memory");
}
MOEJIT_DEVICE void sts_u32x4(u32 a, u32x4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}
MOEJIT_DEVICE void sts_f32(u32 a, f32 v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(a), "f"(v) : "memory");
}
MOEJIT_DEVICE void sts_f32x2(u32 a, f32x2 v) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(a), "f"(v.x), "f"(v.y) : "memory");
}
MOEJIT_DEVICE void sts_f32x4(u32 a, f32x4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(a), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
}
MOEJIT_DEVICE u32 atomic_add_shared(u32 a, u32 v) {
  u32 old;
  asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(old) : "r"(a), "r"(v) : "memory");
  return old;
}

// --- global memory -----------------------------------------------------------------------------
MOEJIT_DEVICE u16 ldg_u16(const void* p) {
  return *static_cast<const u16*>(p);
}
MOEJIT_DEVICE u32 ldg_u32(const void* p) {
  return *static_cast<const u32*>(p);
}
MOEJIT_DEVICE i32 ldg_i32(const void* p) {
  return *static_cast<const i32*>(p);
}
MOEJIT_DEVICE f32 ldg_f32(const void* p) {
  return *static_cast<const f32*>(p);
}
MOEJIT_DEVICE u32x2 ldg_u32x2(const void* p) {
  return *static_cast<const u32x2*>(p);
}
MOEJIT_DEVICE u32x4 ldg_u32x4(const void* p) {
  return *static_cast<const u32x4*>(p);
}
MOEJIT_DEVICE f32x2 ldg_f32x2(const void* p) {
  return *static_cast<const f32x2*>(p);
}
MOEJIT_DEVICE f32x4 ldg_f32x4(const void* p) {
  return *static_cast<const f32x4*>(p);
}
MOEJIT_DEVICE u32x4 ldg_stream(const void* p, u64 policy) {
  u32x4 v;
  asm volatile(
      "ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v4.b32 {%0,%1,%2,%3}, [%4], %5;"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p), "l"(policy));
  return v;
}
MOEJIT_DEVICE void stg_u16(void* p, u16 v) {
  *static_cast<u16*>(p) = v;
}
MOEJIT_DEVICE void stg_u32(void* p, u32 v) {
  *static_cast<u32*>(p) = v;
}
MOEJIT_DEVICE void stg_i32(void* p, i32 v) {
  *static_cast<i32*>(p) = v;
}
MOEJIT_DEVICE void stg_f32(void* p, f32 v) {
  *static_cast<f32*>(p) = v;
}
MOEJIT_DEVICE void stg_u32x2(void* p, u32x2 v) {
  *static_cast<u32x2*>(p) = v;
}
MOEJIT_DEVICE void stg_u32x4(void* p, u32x4 v) {
  *static_cast<u32x4*>(p) = v;
}
MOEJIT_DEVICE void stg_u32x4_hint(void* p, u32x4 v, u64 policy) {
  asm volatile("st.global.L2::cache_hint.v4.b32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(p), "r"(v.x),
               "r"(v.y), "r"(v.z), "r"(v.w), "l"(policy)
               : "memory");
}
MOEJIT_DEVICE void stg_f32x2(void* p, f32x2 v) {
  *static_cast<f32x2*>(p) = v;
}
MOEJIT_DEVICE void stg_f32x4(void* p, f32x4 v) {
  *static_cast<f32x4*>(p) = v;
}
MOEJIT_DEVICE void discard_line(void* p) {
  asm volatile("discard.global.L2 [%0], 128;" ::"l"(p) : "memory");
}
MOEJIT_DEVICE u32 atomic_add_global(u32* p, u32 v) {
  u32 old;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(p), "r"(v)
               : "memory");
  return old;
}
MOEJIT_DEVICE u32 atomic_add_acq_rel(u32* p, u32 v) {
  u32 old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(p), "r"(v)
               : "memory");
  return old;
}
MOEJIT_DEVICE u32 ld_acquire(const u32* p) {
  u32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
MOEJIT_DEVICE u64 word_add(u64* p, u64 v) {
  u64 old;
  asm volatile("atom.relaxed.gpu.global.add.u64 %0, [%1], %2;"
               : "=l"(old)
               : "l"(p), "l"(v)
               : "memory");
  return old;
}
MOEJIT_DEVICE void word_add_release(u64* p, u64 v) {
  asm volatile("red.release.gpu.global.add.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}
MOEJIT_DEVICE u64 word_swap_if(u64* p, u64 expected, u64 v) {
  u64 old;
  asm volatile("atom.relaxed.gpu.global.cas.b64 %0, [%1], %2, %3;"
               : "=l"(old)
               : "l"(p), "l"(expected), "l"(v)
               : "memory");
  return old;
}
MOEJIT_DEVICE u64 word_acquire(const u64* p) {
  u64 v;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
MOEJIT_DEVICE void fence_gpu() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}
MOEJIT_DEVICE u64 policy_evict_first() {
#if __CUDA_ARCH__ >= 900
  return 0x12F0000000000000ull;  // what createpolicy makes; a constant stays out of the registers
#endif
  u64 p;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
  return p;
}
MOEJIT_DEVICE u64 policy_evict_last() {
#if __CUDA_ARCH__ >= 900
  return 0x14F0000000000000ull;
#endif
  u64 p;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(p));
  return p;
}
// The encoding that createpolicy has no need to make: no preference. (One made by createpolicy for
// evict_normal stopped some kernels on sm_90 with an illegal instruction at a cp.async.)
MOEJIT_DEVICE u64 policy_evict_normal() {
  return 0x1000000000000000ull;
}

// --- warp and block ----------------------------------------------------------------------------
MOEJIT_DEVICE void warp_sync() {
  __syncwarp();
}
MOEJIT_DEVICE void block_sync() {
  __syncthreads();
}
MOEJIT_DEVICE void bar_sync(u32 id, u32 threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
MOEJIT_DEVICE void bar_arrive(u32 id, u32 threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
MOEJIT_DEVICE u32 shfl_u32(u32 v, u32 lane) {
  return __shfl_sync(0xffffffffu, v, static_cast<int>(lane));
}
MOEJIT_DEVICE f32 shfl_f32(f32 v, u32 lane) {
  return __shfl_sync(0xffffffffu, v, static_cast<int>(lane));
}
MOEJIT_DEVICE u32 shfl_xor_u32(u32 v, u32 mask) {
  return __shfl_xor_sync(0xffffffffu, v, static_cast<int>(mask));
}
MOEJIT_DEVICE f32 shfl_xor_f32(f32 v, u32 mask) {
  return __shfl_xor_sync(0xffffffffu, v, static_cast<int>(mask));
}
MOEJIT_DEVICE u32 shfl_up_u32(u32 v, u32 delta) {
  return __shfl_up_sync(0xffffffffu, v, delta);
}
MOEJIT_DEVICE u32 warp_ballot(bool p) {
  return __ballot_sync(0xffffffffu, p);
}
MOEJIT_DEVICE u32 warp_max_u32(u32 v) {
  return __reduce_max_sync(0xffffffffu, v);
}
MOEJIT_DEVICE u32 warp_min_u32(u32 v) {
  return __reduce_min_sync(0xffffffffu, v);
}
MOEJIT_DEVICE u32 warp_add_u32(u32 v) {
  return __reduce_add_sync(0xffffffffu, v);
}

// --- numbers -----------------------------------------------------------------------------------
MOEJIT_DEVICE f32 as_f32(u32 v) {
  return __uint_as_float(v);
}
MOEJIT_DEVICE u32 as_u32(f32 v) {
  return __float_as_uint(v);
}
MOEJIT_DEVICE f32 bf16_to_f32(u16 v) {
  return __uint_as_float(static_cast<u32>(v) << 16);
}
MOEJIT_DEVICE u16 f32_to_bf16(f32 v) {
  u16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
  return r;
}
MOEJIT_DEVICE f32 f16_to_f32(u16 v) {
  f32 r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v));
  return r;
}
MOEJIT_DEVICE u16 f32_to_f16(f32 v) {
  u16 r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
  return r;
}
MOEJIT_DEVICE u32 pack_bf16(f32 lo, f32 hi) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
MOEJIT_DEVICE u32 pack_f16(f32 lo, f32 hi) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
MOEJIT_DEVICE f32 exp_f32(f32 x) {
  return expf(x);
}
MOEJIT_DEVICE f32 tanh_f32(f32 x) {
  return tanhf(x);
}
MOEJIT_DEVICE f32 erf_f32(f32 x) {
  return erff(x);
}
MOEJIT_DEVICE f32 log1p_f32(f32 x) {
  return log1pf(x);
}
MOEJIT_DEVICE f32 sqrt_f32(f32 x) {
  return sqrtf(x);
}
MOEJIT_DEVICE f32 fast_exp_f32(f32 x) {
  f32 r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x * 1.44269504088896340736f));
  return r;
}
MOEJIT_DEVICE f32 fast_div(f32 a, f32 b) {
  f32 r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  return a * r;
}
MOEJIT_DEVICE f32 fma_f32(f32 a, f32 b, f32 c) {
  return __fmaf_rn(a, b, c);
}
MOEJIT_DEVICE u32 popc(u32 v) {
  return static_cast<u32>(__popc(static_cast<int>(v)));
}
MOEJIT_DEVICE u32 ffs(u32 v) {
  return static_cast<u32>(__ffs(static_cast<int>(v)));
}

// --- dependent launch --------------------------------------------------------------------------
MOEJIT_DEVICE void grid_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
MOEJIT_DEVICE void grid_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace dev
