// Products whose columns are the rows of the layer: the weights are the 64-row operand of wgmma,
// and columns come in eights and sixteens, so that an expert pays for few rows that it does not
// have. A warpgroup takes 128 channels of a tile: two products of 64, gate and up of the same
// channels where the layer is gated.
#pragma once

#include "kernels/tile90_turn.h"

namespace moe {

// meanwhile() is called once, with products under way.
template <bool kGateUp, int kEights, typename Meanwhile>
MOEJIT_DEVICE void multiply_eights(const Shared90& s, u32 warpgroup, int count, Ring& ring,
                                   f32 (&lo)[kBm / 2], f32 (&hi)[kBm / 2], Meanwhile meanwhile) {
  constexpr int kN = kEights * 8;
  const int at = min_of(2, count - 1);
  [[maybe_unused]] u32 previous = 0;
  wgmma_hold(lo);
  wgmma_hold(hi);
  MOEJIT_NO_UNROLL
  for (int k = 0; k < count; ++k) {
    mbar_wait(s.full + ring.stage * 8, ring.phase);
    if constexpr (kGateUp)
      fence_proxy_async();  // the gathered rows were written by ordinary copies
    const u32 stage = s.ring + ring.stage * kStageBytes90;
    const u64 rows = descriptor(stage, false);
    const u64 weights = descriptor(stage + kStageBytesA + columns_of(warpgroup) * 16384, false);
    wgmma_fence();
    MOEJIT_UNROLL
    for (int j = 0; j < 4; ++j) {  // 32 bytes of the reduction
      if constexpr (kIsBf16) {
        wgmma_bf16<kN, 0>(lo, weights + j * 2u, rows + j * 2u, k > 0 || j > 0);
        wgmma_bf16<kN, 0>(hi, weights + 512u + j * 2u, rows + j * 2u, k > 0 || j > 0);
      } else {
        wgmma_f16<kN, 0>(lo, weights + j * 2u, rows + j * 2u, k > 0 || j > 0);
        wgmma_f16<kN, 0>(hi, weights + 512u + j * 2u, rows + j * 2u, k > 0 || j > 0);
      }
    }
    wgmma_commit();
    if (kInTurns && k == count - 1) {
      pass_turn(s, warpgroup);
    }
    if (k == at) meanwhile();
    if constexpr (kFewRows) {
      wgmma_wait<0>();
      release(s.empty + ring.stage * 8);
    } else {
      wgmma_wait<1>();
      if (k > 0) release(s.empty + previous * 8);
      previous = ring.stage;
    }
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_hold(lo);
  wgmma_hold(hi);
  if constexpr (!kFewRows) release(s.empty + previous * 8);
}

// The form for `eights` times eight rows, 1..kEights. Above kFineRows in sixteens: each form is
// compiled on its own, and takes its time.
template <bool kGateUp, int kEights, typename Meanwhile>
MOEJIT_DEVICE void multiply_rows(int eights, const Shared90& s, u32 warpgroup, int count,
                                 Ring& ring, f32 (&lo)[kBm / 2], f32 (&hi)[kBm / 2],
                                 Meanwhile meanwhile) {
  constexpr int kFewer = kEights * 8 > kFineRows ? kEights - 2 : kEights - 1;
  if constexpr (kFewer > 0) {
    if (eights <= kFewer) {
      multiply_rows<kGateUp, kFewer>(eights, s, warpgroup, count, ring, lo, hi, meanwhile);
      return;
    }
  }
  multiply_eights<kGateUp, kEights>(s, warpgroup, count, ring, lo, hi, meanwhile);
}

template <bool kGateUp>
MOEJIT_DEVICE void consume_swapped(const MoeArgs& a, const Shared90& s, u32 warpgroup,
                                   const Tile90& tile, int count, Ring& ring) {
  // Layers whose channels do not fill their last tile: a warpgroup without any leaves the tensor
  // cores, and their power, to the other.
  constexpr int kChannels = kGateUp ? kIntermediateSize : kHiddenSize;
  constexpr int kWide = kGateUp ? kHColumns : kBn;
  constexpr int kMine = kWide / kTileWarpgroups;
  const bool nothing =
      kChannels % kWide != 0 && kChannels % kWide <= kWide - kMine &&
      tile.n * kWide + static_cast<int>(columns_of(warpgroup)) * kMine >= kChannels;
  if ((kCluster > 1 && tile.rows == 0) || nothing) {
    pass_tile(s, count, ring);
    return;
  }
  f32 lo[kBm / 2], hi[kBm / 2];
  LaneRows<kWeightOnInput == kGateUp, !kGateUp> rows;
  rows.find(a, tile);
  multiply_rows<kGateUp, kBm / 8>(rows_read<kGateUp>(tile) / 8, s, warpgroup, count, ring, lo, hi,
                                  [&] { rows.weigh(a); });
  const u32 staged = s.staged + warpgroup * 4 * kStagedBytes;
  if constexpr (kGateUp) {
    finish_gate_up_turned(a, tile, rows, warpgroup, staged, lo, hi);
  } else {
    finish_down_turned(a, tile, rows, warpgroup, staged, lo, hi);
  }
}

}  // namespace moe
