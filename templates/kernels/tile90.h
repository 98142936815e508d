// Tiles on sm_90a: entries `moe_tile90_gate_up` and `moe_tile90_down`. A product that is not
// swapped (tile90_swap.h) has the weights as its columns, and 64 rows for each consumer warpgroup.
#pragma once

#include "kernels/tile90_finish.h"
#include "kernels/tile90_produce.h"
#include "kernels/tile90_swap.h"

namespace moe {

// One tile's product over `count` blocks. `warpgroup` 0.. takes rows 64 * warpgroup. meanwhile() is
// called once, with products under way.
template <bool kGateUp, typename Meanwhile>
MOEJIT_DEVICE void multiply_tile(const Shared90& s, u32 warpgroup, int count, Ring& ring,
                                 f32 (&acc)[kBn / 2], Meanwhile meanwhile) {
  const int at = min_of(2, count - 1);
  u32 previous = 0;
  wgmma_hold(acc);
  MOEJIT_NO_UNROLL
  for (int k = 0; k < count; ++k) {
    mbar_wait(s.full + ring.stage * 8, ring.phase);
    if constexpr (kGateUp)
      fence_proxy_async();  // the gathered rows were written by ordinary copies
    const u32 stage = s.ring + ring.stage * kStageBytes90;
    const u64 da = descriptor(stage + warpgroup * 8192, false);
    const u64 db = descriptor(stage + kStageBytesA, kTransposed);
    wgmma_fence();
    MOEJIT_UNROLL
    for (int j = 0; j < 4; ++j) {
      const u64 step_b = kTransposed ? 128u : 2u;  // 16 rows of 128 bytes, or 32 bytes
      if constexpr (kIsBf16) {
        wgmma_bf16<kBn, kTransposed ? 1 : 0>(acc, da + j * 2u, db + j * step_b, k > 0 || j > 0);
      } else {
        wgmma_f16<kBn, kTransposed ? 1 : 0>(acc, da + j * 2u, db + j * step_b, k > 0 || j > 0);
      }
    }
    wgmma_commit();
    if (k == at) meanwhile();
    wgmma_wait<1>();
    if (k > 0) release(s.empty + previous * 8);
    previous = ring.stage;
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_hold(acc);
  release(s.empty + previous * 8);
}

template <bool kGateUp>
MOEJIT_DEVICE void consume_straight(const MoeArgs& a, const Shared90& s, u32 warpgroup,
                                    const Tile90& tile, int count, Ring& ring) {
  if (static_cast<int>(warpgroup) * 64 >= tile.rows) {
    pass_tile(s, count, ring);
    return;
  }
  f32 acc[kBn / 2];
  const int warp = static_cast<int>(warp_id()) - 4;
  DownRows rows;  // looked up while the tensor cores work
  if constexpr (!kGateUp) rows.find(a, tile, warp * 16);
  multiply_tile<kGateUp>(s, warpgroup, count, ring, acc, [&] {
    if constexpr (!kGateUp) rows.weigh(a);
  });
  const u32 staged = s.staged + warp * kStagedBytes;
  if constexpr (kGateUp) {
    finish_gate_up(a, tile, warp * 16, staged, acc);
  } else {
    finish_down(a, tile, rows, warp * 16, staged, acc);
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void tile90(const MoeArgs& a, const TensorMaps& maps) {
  const Shared90 s = shared90();
  run90<kGateUp>(a, maps, s, [&](u32 warpgroup, const Tile90& tile, int count, Ring& ring) {
    if constexpr (kSwapped<kGateUp>) {
      consume_swapped<kGateUp>(a, s, warpgroup, tile, count, ring);
    } else {
      consume_straight<kGateUp>(a, s, warpgroup, tile, count, ring);
    }
  });
}

}  // namespace moe

MOEJIT_KERNEL_MAPS(moe_tile90_gate_up, moe::kThreads90, moejit_cfg::kSched_blocks)
(MOEJIT_PARAM moejit_abi::MoeArgs a, MOEJIT_PARAM dev::TensorMaps maps) {
  moe::tile90<true>(a, maps);
}

MOEJIT_KERNEL_MAPS(moe_tile90_down, moe::kThreads90, moejit_cfg::kSched_blocks)
(MOEJIT_PARAM moejit_abi::MoeArgs a, MOEJIT_PARAM dev::TensorMaps maps) {
  moe::tile90<false>(a, maps);
}

#if MOEJIT_PLAN_ROUTES == 0
MOEJIT_KERNEL(moe_combine, moe::kCombineThreads, 1)(moejit_abi::MoeArgs a) {
  moe::combine<moe::kParts, moe::kPartial16>(a);
}
#endif
