// Primitives of primitives.md for AMD's RDNA 3 (gfx1100): waves of 32 lanes and WMMA.
#pragma once

#define MOEJIT_WAVE 32
#include "device/hip_base.h"

namespace dev {

// Accumulators of a 16x16 product: 8 a lane.
typedef f32 facc8 __attribute__((ext_vector_type(8)));

namespace detail {
typedef short v16s __attribute__((ext_vector_type(16)));
typedef _Float16 v16h __attribute__((ext_vector_type(16)));
struct alignas(32) Pair {
  u32x4 v[2];
};

// d[i] += a of lane 2 i of this lane's 16 times b. By name: the compiler would move a first.
MOEJIT_DEVICE void rank_one(facc8& d, f32 a, f32 b) {
#define MOEJIT_RANK_ONE(i, lane)                                                 \
  asm("v_fmac_f32_dpp %0, %1, %2 row_share:" #lane " row_mask:0xf bank_mask:0xf" \
      : "+v"(v##i)                                                               \
      : "v"(a), "v"(b));
  f32 v0 = d[0], v1 = d[1], v2 = d[2], v3 = d[3], v4 = d[4], v5 = d[5], v6 = d[6], v7 = d[7];
  MOEJIT_RANK_ONE(0, 0)
  MOEJIT_RANK_ONE(1, 2)
  MOEJIT_RANK_ONE(2, 4)
  MOEJIT_RANK_ONE(3, 6)
  MOEJIT_RANK_ONE(4, 8)
  MOEJIT_RANK_ONE(5, 10)
  MOEJIT_RANK_ONE(6, 12)
  MOEJIT_RANK_ONE(7, 14)
#undef MOEJIT_RANK_ONE
  d = {v0, v1, v2, v3, v4, v5, v6, v7};
}
}  // namespace detail

// --- matrix instructions -----------------------------------------------------------------------
MOEJIT_DEVICE void wmma16_bf16(facc8& d, u32x4 a0, u32x4 a1, u32x4 b0, u32x4 b1) {
  d = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(
      __builtin_bit_cast(detail::v16s, detail::Pair{{a0, a1}}),
      __builtin_bit_cast(detail::v16s, detail::Pair{{b0, b1}}), d);
}
MOEJIT_DEVICE void wmma16_f16(facc8& d, u32x4 a0, u32x4 a1, u32x4 b0, u32x4 b1) {
  d = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(
      __builtin_bit_cast(detail::v16h, detail::Pair{{a0, a1}}),
      __builtin_bit_cast(detail::v16h, detail::Pair{{b0, b1}}), d);
}
// RDNA 3 has no such instruction for f32: the same product, eight deep, by FMAs that take one
// operand from another lane. Lanes 16-31 need the odd rows of A, so they change places in pairs.
MOEJIT_DEVICE void wmma16_f32(facc8& d, u32x4 a0, u32x4 a1, u32x4 b0, u32x4 b1) {
  const u32 a[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
  const u32 b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
  MOEJIT_UNROLL
  for (int k = 0; k < 8; ++k) {
    // quad_perm 1, 0, 3, 2 in the second 16 lanes alone
    const u32 turned = __builtin_amdgcn_update_dpp(a[k], a[k], 0xb1, 2, 0xf, false);
    detail::rank_one(d, as_f32(turned), as_f32(b[k]));
  }
}
// No instruction: products into d stay before it. The compiler would move them to where d is next
// used, and keep their operands until then.
MOEJIT_DEVICE void hold(facc8& d) {
  asm volatile("" : "+v"(d));
}
// v of lane ^ 16.
MOEJIT_DEVICE u32 swap_halves(u32 v) {
  return __builtin_amdgcn_permlanex16(v, v, 0x76543210u, 0xfedcba98u, false, false);
}

}  // namespace dev
