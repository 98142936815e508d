// Entry `moe_combine`: out[t] = sum of the partial results y of the token's slots, in their order.
#pragma once

#include "kernels/common.h"

namespace moe {
constexpr int kCombineThreads = 256;
}

MOEJIT_KERNEL(moe_combine, moe::kCombineThreads, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  constexpr int kQuads = kHiddenSize / 4;
  grid_wait();
  const u8* y = region(a, kRegion_y);
  const i64 work = a.num_tokens * kQuads;
  const i64 stride = static_cast<i64>(block_count()) * kCombineThreads;
  for (i64 w = static_cast<i64>(block_id()) * kCombineThreads + thread_id(); w < work;
       w += stride) {
    const i64 token = w / kQuads;
    const i64 column = (w - token * kQuads) * 4;
    f32x4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    MOEJIT_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      const i64 slot = token * kSlots + j;
      if (slot_expert(a, slot) < 0) continue;
      const f32x4 v = ldg_f32x4(y + (slot * kHiddenSize + column) * 4);
      sum.x += v.x;
      sum.y += v.y;
      sum.z += v.z;
      sum.w += v.w;
    }
    u8* out = at(a.out, (token * kHiddenSize + column) * kElement);
    if constexpr (kIsF32) {
      stg_f32x4(out, sum);
    } else {
      stg_u32x2(out, {pack2(sum.x, sum.y), pack2(sum.z, sum.w)});
    }
  }
}
