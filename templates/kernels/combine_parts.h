// Body of the entry `moe_combine`: out[t] = sum of the partial results y of the token's slots, in
// their order.
#pragma once

#include "kernels/common.h"

namespace moe {

constexpr int kCombineThreads = 256;

// y holds kParts rows of each slot, of f32, or of the element type where kHalf.
template <int kParts, bool kHalf>
MOEJIT_DEVICE void combine(const MoeArgs& a) {
  constexpr int kVector = kHalf ? 8 : 4;  // columns of a thread: 16 bytes of y
  constexpr int kVectors = kHiddenSize / kVector;
  grid_wait();
  const u8* y = region(a, kRegion_y);
  const i64 work = a.num_tokens * kVectors;
  const i64 stride = static_cast<i64>(block_count()) * kCombineThreads;
  for (i64 w = static_cast<i64>(block_id()) * kCombineThreads + thread_id(); w < work;
       w += stride) {
    const i64 token = w / kVectors;
    const i64 column = (w - token * kVectors) * kVector;
    f32 sum[kVector];
    MOEJIT_UNROLL
    for (int c = 0; c < kVector; ++c) sum[c] = 0.0f;
    MOEJIT_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      const i64 slot = token * kSlots + j;
      if (slot_expert(a, slot) < 0) continue;
      MOEJIT_UNROLL
      for (int part = 0; part < kParts; ++part) {
        const u8* from = y + ((slot * kParts + part) * kHiddenSize + column) * (kHalf ? 2 : 4);
        if constexpr (kHalf) {
          const u32x4 v = ldg_u32x4(from);
          const u32 pairs[4] = {v.x, v.y, v.z, v.w};
          MOEJIT_UNROLL
          for (int p = 0; p < 4; ++p) {
            sum[p * 2] += to_f32(static_cast<u16>(pairs[p]));
            sum[p * 2 + 1] += to_f32(static_cast<u16>(pairs[p] >> 16));
          }
        } else {
          const f32x4 v = ldg_f32x4(from);
          sum[0] += v.x;
          sum[1] += v.y;
          sum[2] += v.z;
          sum[3] += v.w;
        }
      }
    }
    u8* out = at(a.out, (token * kHiddenSize + column) * kElement);
    if constexpr (kHalf) {
      stg_u32x4(out, {pack2(sum[0], sum[1]), pack2(sum[2], sum[3]), pack2(sum[4], sum[5]),
                      pack2(sum[6], sum[7])});
    } else if constexpr (kIsF32) {
      stg_f32x4(out, {sum[0], sum[1], sum[2], sum[3]});
    } else {
      stg_u32x2(out, {pack2(sum[0], sum[1]), pack2(sum[2], sum[3])});
    }
  }
}

}  // namespace moe
