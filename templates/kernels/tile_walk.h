// The order in which persistent blocks take output tiles: experts one after the other; within an
// expert groups of kRaster row tiles; within a group column by column, so that blocks running at
// the same time share weights in the L2 cache.
#pragma once

#include "kernels/plan.h"

namespace moe {

struct Tile {
  int expert;
  int n;          // column tile
  int first_row;  // into the plan's rows
  int rows;       // 1..kPlanTile
  bool single;    // the expert has no other row tile: its weights are read once
};

MOEJIT_DEVICE Tile locate_tile(const MoeArgs& a, int item, int n_tiles) {
  constexpr int kRaster = kSched_raster;
  const u32x4 t = ldg_u32x4(plan_tiles(a) + item / n_tiles);
  const int first_tile = static_cast<int>(t.y);
  const int tiles = static_cast<int>(t.z);
  const int local = item - first_tile * n_tiles;
  const int group = local / (kRaster * n_tiles);
  const int in_group = local - group * kRaster * n_tiles;
  const int size = min_of(kRaster, tiles - group * kRaster);
  const int n = in_group / size;
  const int m = group * kRaster + (in_group - n * size);
  const int rows = min_of(kPlanTile, entry_rows(t) - m * kPlanTile);
  return {entry_expert(t), n, static_cast<int>(t.w) + m * kPlanTile, rows, tiles == 1};
}

}  // namespace moe
