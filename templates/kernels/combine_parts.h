// Body of the entry `moe_combine`: out[t] = sum of the partial results y of the token's slots, in
// their order. What was kept in the cache until then is discarded (keep.h). Needs the regions of
// plan.h and `h`, and kL2Bytes (emit_cache).
#pragma once

#include "kernels/keep.h"
#include "kernels/plan.h"

namespace moe {

constexpr int kCombineThreads = 256;

// y holds kParts rows of each slot, of f32, or of the element type where kHalf. A vector is what a
// thread adds up: 16 bytes of each row.
template <bool kHalf>
constexpr int kVector = kHalf ? 8 : 4;

template <int kParts, bool kHalf>
MOEJIT_DEVICE void combine_vector(const MoeArgs& a, const u8* y, i64 token, i64 column) {
  f32 sum[kVector<kHalf>];
  MOEJIT_UNROLL
  for (int c = 0; c < kVector<kHalf>; ++c) sum[c] = 0.0f;
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

template <int kParts, bool kHalf>
MOEJIT_DEVICE void combine(const MoeArgs& a) {
  using Keep = Kept<kParts, kHalf>;
  constexpr int kVectors = kHiddenSize / kVector<kHalf>;
  grid_wait();
  u8* y = region(a, kRegion_y);
  const i64 work = a.num_tokens * kVectors;
  const i64 stride = static_cast<i64>(block_count()) * kCombineThreads;
  const i64 first = static_cast<i64>(block_id()) * kCombineThreads + thread_id();
  const bool discards = Keep::y(a.num_tokens);
  for (i64 w = first; w - lane_id() < work; w += stride) {  // all of a warp or none
    const i64 token = w / kVectors;
    const i64 column = (w - token * kVectors) * kVector<kHalf>;
    if (w < work) combine_vector<kParts, kHalf>(a, y, token, column);
    if constexpr (Keep::kTokensY > 0) {
      if (!discards) continue;
      warp_sync();  // a line is read by eight lanes
      if (w >= work || lane_id() % 8 != 0) continue;
      MOEJIT_UNROLL
      for (int j = 0; j < kSlots; ++j) {
        const i64 slot = token * kSlots + j;
        if (slot_expert(a, slot) < 0) continue;
        MOEJIT_UNROLL
        for (int part = 0; part < kParts; ++part)
          discard_line(y + (slot * kParts + part) * Keep::kRowOfY + column * (kHalf ? 2 : 4));
      }
    }
  }
  if constexpr (Keep::kTokensH > 0) {
    if (!Keep::h(a.num_tokens)) return;
    const i64 rows = ldg_i32(plan_counts(a) + 1 + kExperts);
    for (i64 line = first; line < rows * Keep::kRowOfH / kLineBytes; line += stride)
      discard_line(region(a, kRegion_h) + line * kLineBytes);
  }
}

}  // namespace moe
