// Prefill with mma.sync (sm_80 and later): entries `moe_tile80_gate_up` and `moe_tile80_down`.
// Eight warps share a tile; each holds the gate and up columns of its part in one thread.
#pragma once

#include "kernels/combine.h"
#include "kernels/route.h"
#include "kernels/tile_stage.h"

namespace moe {

constexpr int kWarpsM80 = kSched_warps_m;
constexpr int kWarpsN80 = 8 / kWarpsM80;
constexpr int kWarpM80 = kBm80 / kWarpsM80;  // rows of a warp
constexpr int kWarpN80 = kBn80 / kWarpsN80;  // columns of a warp
constexpr int kTilesM80 = kWarpM80 / 16;
constexpr int kTilesN80 = kWarpN80 / 8;
// Where kPaired, the first half of a warp's columns are gate columns and the others the same up
// columns.
constexpr int kPartN80 = kPaired ? kWarpN80 / 2 : kWarpN80;

// Column of the tile where 16-column group g of this warp begins.
template <bool kGateUp>
MOEJIT_DEVICE int group_column(int warp_n, int g) {
  if constexpr (kGateUp && kPaired) {
    constexpr int kGroups = kPartN80 / 16;
    return g < kGroups ? warp_n * kPartN80 + g * 16
                       : kHalf80 + warp_n * kPartN80 + (g - kGroups) * 16;
  } else {
    return warp_n * kWarpN80 + g * 16;
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void multiply80(u32 stage, int warp_m, int warp_n,
                              f32 (&acc)[kTilesM80][kTilesN80][4]) {
  const u32 lane = lane_id();
  const u32 b_base = stage + kStageA80;
  MOEJIT_UNROLL
  for (int k = 0; k < kStageK80 / 16; ++k) {
    u32 af[kTilesM80][4];
    MOEJIT_UNROLL
    for (int m = 0; m < kTilesM80; ++m) {
      const u32 row = warp_m * kWarpM80 + m * 16 + (lane & 15u);
      ldmatrix_x4(af[m], stage + row * 128 + (((k * 2 + (lane >> 4)) ^ (row & 7u)) << 4));
    }
    MOEJIT_UNROLL
    for (int g = 0; g < kTilesN80 / 2; ++g) {
      u32 bf[4];
      const u32 column = static_cast<u32>(group_column<kGateUp>(warp_n, g));
      if constexpr (!kTransposed) {
        const u32 row = column + (lane & 7u) + ((lane >> 4) << 3);
        ldmatrix_x4(bf, b_base + row * 128 + (((k * 2 + ((lane >> 3) & 1u)) ^ (row & 7u)) << 4));
      } else {
        const u32 line = k * 16 + (lane & 15u);
        const u32 piece = column / 8 + (lane >> 4);
        ldmatrix_x4_trans(bf, b_base + line * (kBn80 * 2) + ((piece ^ (line & 7u)) << 4));
      }
      const u32 b0[2] = {bf[0], bf[1]};
      const u32 b1[2] = {bf[2], bf[3]};
      MOEJIT_UNROLL
      for (int m = 0; m < kTilesM80; ++m) {
        mma(acc[m][g * 2], af[m], b0);
        mma(acc[m][g * 2 + 1], af[m], b1);
      }
    }
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void tile80(const MoeArgs& a) {
  constexpr int kTiles = kGateUp ? kGateTiles80 : kDownTiles80;
  grid_wait();
  grid_launch_dependents();
  const u32 ring = shared_base();
  const int warp_m = static_cast<int>(warp_id()) % kWarpsM80;
  const int warp_n = static_cast<int>(warp_id()) / kWarpsM80;
  const int items = ldg_i32(plan_counts(a)) * kTiles;
  for (int item = static_cast<int>(block_id()); item < items;
       item += static_cast<int>(block_count())) {
    const Tile tile = locate_tile(a, item, kTiles);
    f32 acc[kTilesM80][kTilesN80][4];
    MOEJIT_UNROLL
    for (int m = 0; m < kTilesM80; ++m) {
      MOEJIT_UNROLL
      for (int n = 0; n < kTilesN80; ++n) {
        MOEJIT_UNROLL
        for (int i = 0; i < 4; ++i) acc[m][n][i] = 0.0f;
      }
    }
    run_stages<kGateUp>(a, tile, ring,
                        [&](u32 stage) { multiply80<kGateUp>(stage, warp_m, warp_n, acc); });
    MOEJIT_UNROLL
    for (int m = 0; m < kTilesM80; ++m) {
      MOEJIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int r = warp_m * kWarpM80 + m * 16 + half * 8 + static_cast<int>(lane_id() >> 2);
        if (r >= tile.rows) continue;
        if constexpr (kGateUp) {
          finish_gate_up_row<kPartN80 / 8>(
              a, tile, r, tile.n * (kPaired ? kHalf80 : kBn80) + warp_n * kPartN80,
              [&](int j, int c, bool up) {
                return acc[m][j + (up ? kPartN80 / 8 : 0)][half * 2 + c];
              });
        } else {
          finish_down_row<kTilesN80>(a, tile, r, tile.n * kBn80 + warp_n * kWarpN80,
                                     [&](int j, int c) { return acc[m][j][half * 2 + c]; });
        }
      }
    }
  }
}

}  // namespace moe

MOEJIT_KERNEL(moe_tile80_gate_up, moe::kThreads80, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  moe::tile80<true>(a);
}

MOEJIT_KERNEL(moe_tile80_down, moe::kThreads80, moejit_cfg::kSched_blocks)(moejit_abi::MoeArgs a) {
  moe::tile80<false>(a);
}
