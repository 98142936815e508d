// Which part of a product each block of the sm_90a tile kernels takes. A unit is one block, or a
// cluster of two: its blocks take two row tiles of an expert that share their weights, and of an
// odd last row tile two column tiles. Items are numbered expert by expert as in tile_walk.h; a
// product may also be cut into kParts ranges of its reduction, whose columns follow each other.
#pragma once

#include "kernels/tile_epilogue.h"

namespace moe {

// The products whose columns are the rows of the layer (tile90_swap.h): none, gate+up, both.
constexpr int kSwap = kSched_swap;
template <bool kGateUp>
constexpr bool kSwapped = kGateUp ? kSwap >= 1 : kSwap == 2;
constexpr int kBm = kSched_tile_m;
constexpr int kBn = kSched_tile_n;  // columns of a product: half gate and half up, in gate+up
constexpr int kHalfN = kBn / 2;
// Up to so many rows of a swapped tile count in eights, more in sixteens.
constexpr int kFineRows = 32;
static_assert(kBm <= kFineRows || kBm % 16 == 0);
constexpr int kHColumns = kGated ? kHalfN : kBn;  // columns of h of a tile
constexpr int kCluster = kSched_cluster;
constexpr int kParts = kSched_split;  // of the reduction of down
constexpr bool kPartial16 = kSched_partial == 16;
// Warpgroups of one tile: one for 64 rows, or where swapped one for 128 columns; as many for both
// products.
constexpr int kTileWarpgroups = kSwap > 0 ? kBn / 128 : kBm / 64;
static_assert(kSwap != 1 || kTileWarpgroups == kBm / 64);
static_assert(kPlanRoutes == (kSched_launches == 3));
constexpr bool kInTurns = kSwap == 2 && kTileWarpgroups == 1 && kBm >= 128 && kParts == 1;

template <bool kGateUp>
struct Cut {
  static constexpr int kTiles =
      kGateUp ? ceil_div(kIntermediateSize, kHColumns) : ceil_div(kHiddenSize, kBn);
  static constexpr int kRanges = kGateUp ? 1 : kParts;
  // Column tiles, padded so that a cluster's two of an odd row tile exist and are of one range.
  static constexpr int kColumns = ceil_div(kTiles, kCluster) * kCluster;
  static constexpr int kWide = kColumns * kRanges;
  static constexpr int kPerTile = kWide / kCluster;  // items of a row tile, on average
  static constexpr int kBlocksK = ceil_div(kGateUp ? kHiddenSize : kIntermediateSize, 64);
};

struct Tile90 : Tile {
  int part;     // range of the reduction
  bool paired;  // the cluster's blocks have two row tiles and one column tile
  // Blocks of the reduction, 64 elements each.
  template <bool kGateUp>
  MOEJIT_DEVICE int first_block() const {
    return part * Cut<kGateUp>::kBlocksK / Cut<kGateUp>::kRanges;
  }
  template <bool kGateUp>
  MOEJIT_DEVICE int blocks() const {
    return (part + 1) * Cut<kGateUp>::kBlocksK / Cut<kGateUp>::kRanges - first_block<kGateUp>();
  }
};

// A single block takes its first item by its place and each other one by ticket: a tenth of an
// H200's units read weights a fifth faster than the rest. Clusters get an item in each turn of all
// units, and so do blocks whose warpgroups take turns: with tickets they were 4 to 7 % slower where
// products are the limit. Neighbouring items may differ in cost (a full row tile and the last one
// of its expert), so units change places from turn to turn.
constexpr bool kByTicket = kCluster == 1 && !kInTurns;
struct Items {
  int base = 0, offset, units, total;
  MOEJIT_DEVICE Items(int items)
      : offset(static_cast<int>(block_id()) / kCluster),
        units(static_cast<int>(block_count()) / kCluster),
        total(items) {}
  // All that this unit gets, without tickets.
  MOEJIT_DEVICE int count() const {
    const int turns = total / units, last = (offset + turns) % units;
    return turns + (last < total - turns * units ? 1 : 0);
  }
  MOEJIT_DEVICE void next() {
    base += units;
    if (++offset == units) offset = 0;
  }
};

// An item and its entry of the plan. The load takes as long as a step of the product: it is asked
// for ahead.
struct NextItem {
  u32x4 entry;
  int item;  // -1: none is left
};
template <bool kGateUp>
MOEJIT_DEVICE NextItem look_up(const MoeArgs& a, int item, const Items& items) {
  NextItem next = {{0u, 0u, 0u, 0u}, -1};
  if (item >= items.total) return next;
  next.item = item;
  next.entry = ldg_u32x4(plan_tiles(a) + item / Cut<kGateUp>::kPerTile);
  return next;
}
// The next one without tickets, and the first one of every unit.
template <bool kGateUp>
MOEJIT_DEVICE NextItem next_item(const MoeArgs& a, Items& items) {
  while (items.base < items.total && items.base + items.offset >= items.total) items.next();
  const NextItem next = look_up<kGateUp>(a, items.base + items.offset, items);
  items.next();
  return next;
}
template <bool kGateUp>
MOEJIT_DEVICE int take_ticket(const MoeArgs& a, const Items& items) {
  u32* tickets = reinterpret_cast<u32*>(region(a, kRegion_counts)) + kPlanTickets;
  return static_cast<int>(atomic_add_global(tickets + (kGateUp ? 0 : 1), 1)) + items.units;
}

// This block's tile of an item; no rows where the item has no column tile for it.
template <bool kGateUp>
MOEJIT_DEVICE Tile90 locate90(const NextItem& next) {
  using C = Cut<kGateUp>;
  constexpr int kRaster = kSched_raster / kCluster;
  const u32x4& t = next.entry;
  const int tiles = static_cast<int>(t.z);
  const int local = next.item - static_cast<int>(t.y) * C::kPerTile;
  const int rank = static_cast<int>(block_id()) % kCluster;
  const int sets = tiles / kCluster;
  Tile90 tile;
  int column, m;
  if (kCluster > 1 && local >= sets * C::kWide) {
    column = (local - sets * C::kWide) * kCluster + rank;
    m = tiles - 1;
    tile.paired = false;
  } else {
    const int group = local / (kRaster * C::kWide);
    const int in_group = local - group * kRaster * C::kWide;
    const int size = min_of(kRaster, sets - group * kRaster);
    column = in_group / size;
    m = (group * kRaster + (in_group - column * size)) * kCluster + rank;
    tile.paired = kCluster > 1;
  }
  tile.expert = entry_expert(t);
  tile.part = C::kRanges == 1 ? 0 : column / C::kColumns;
  tile.n = column - tile.part * C::kColumns;
  const int first = static_cast<int>(t.w), rows = entry_rows(t);
  if constexpr (kSwapped<kGateUp>) {  // tiles of an expert alike, but for what counts as one
    constexpr int kGranule = kBm > kFineRows ? 16 : 8;
    const int granules = ceil_div(rows, kGranule);
    const int begin = granules * m / tiles * kGranule;
    tile.first_row = first + begin;
    tile.rows = min_of(rows, granules * (m + 1) / tiles * kGranule) - begin;
  } else {
    tile.first_row = first + m * kPlanTile;
    tile.rows = min_of(kPlanTile, rows - m * kPlanTile);
  }
  if (C::kColumns > C::kTiles && tile.n >= C::kTiles) tile.rows = 0;
  tile.single = tiles <= kCluster;
  return tile;
}

}  // namespace moe
