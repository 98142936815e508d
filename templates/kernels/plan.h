// Entry `moe_plan`: the work list of the tile kernels, made on the device by one block, or by one
// cluster of MOEJIT_PLAN_BLOCKS blocks that each count and place a part of the slots. Rows are the
// slots of this process, sorted by expert; a tile is up to kPlanTile rows of one expert.
//
// Where MOEJIT_PLAN_ROUTES, a layer takes three launches: the plan is the router, too, and down
// adds up (tile90_sums.h).
#pragma once

#include "kernels/route.h"

namespace moe {

constexpr int kPlanThreads = 1024;
constexpr int kPlanBatch = 8;  // ids that a thread has under way at a time
constexpr int kPlanTile = kSched_tile_m;

// Regions. counts: [0] number of tiles, [1 + e] rows before expert e, [1 + kExperts] all rows,
// [kPlanTickets] and behind it the tickets that blocks took of gate+up and of down (tile90_walk.h),
// then, where the plan routes, the words of sums (tile90_sums.h).
// rows: slot of each row. tiles: {expert and padding, first tile of the expert, its tiles, its
// first row}, so that one load says all of a tile.
constexpr int kPlanTickets = kExperts + 2;
constexpr bool kPlanRoutes = MOEJIT_PLAN_ROUTES == 1;
constexpr int kPlanCleared = kPlanRoutes ? 5 : 2;  // words from there on, plan_words()
MOEJIT_DEVICE const i32* plan_counts(const MoeArgs& a) {
  return reinterpret_cast<const i32*>(region(a, kRegion_counts));
}
MOEJIT_DEVICE const i32* plan_rows(const MoeArgs& a) {
  return reinterpret_cast<const i32*>(region(a, kRegion_rows));
}
MOEJIT_DEVICE const u32x4* plan_tiles(const MoeArgs& a) {
  return reinterpret_cast<const u32x4*>(region(a, kRegion_tiles));
}

MOEJIT_DEVICE int entry_expert(const u32x4& entry) {
  return static_cast<int>(entry.x & 0xffffu);
}
MOEJIT_DEVICE int entry_rows(const u32x4& entry) {  // of the expert
  return static_cast<int>(entry.z * kPlanTile - (entry.x >> 16));
}

// visit(i, id) for every routed id of this process that falls to this block, i counting through
// topk_ids.
template <typename Visit>
MOEJIT_DEVICE void for_each_id(const MoeArgs& a, Visit visit) {
  constexpr int kStride = MOEJIT_PLAN_BLOCKS * kPlanThreads;
  const i64 ids = a.num_tokens * kTopK;
  for (i64 base = block_id() * kPlanThreads + thread_id(); base < ids;
       base += kPlanBatch * kStride) {
    i32 id[kPlanBatch];
    MOEJIT_UNROLL
    for (int j = 0; j < kPlanBatch; ++j) {
      const i64 i = base + j * kStride;
      id[j] = i < ids ? ldg_i32(a.topk_ids + i) : -1;
    }
    MOEJIT_UNROLL
    for (int j = 0; j < kPlanBatch; ++j) {
      if (id[j] >= 0 && id[j] < kNumExperts) visit(base + j * kStride, id[j]);
    }
  }
}

// The same for tokens that this launch routes, a warp for each; the first pass routes them.
// `scratch`: as in route_token, of this warp.
template <bool kFirst, typename Visit>
MOEJIT_DEVICE void for_each_routed(const MoeArgs& a, u32 scratch, Visit visit) {
  constexpr int kWarps = MOEJIT_PLAN_BLOCKS * kPlanThreads / 32;
  const int lane = static_cast<int>(lane_id());
  MOEJIT_NO_UNROLL
  for (i64 token = warp_id() * MOEJIT_PLAN_BLOCKS + block_id(); token < a.num_tokens;
       token += kWarps) {
    i32 id = -1;
    if constexpr (kFirst) {
      const Choice choice = route_token(a, token, scratch, [](i32) {});
      store_choice(a, token, choice);
      id = choice.id;
    } else if (lane < kTopK) {
      id = ldg_i32(a.topk_ids + token * kTopK + lane);  // which this thread wrote
    }
    if (lane < kTopK) visit(token * kTopK + lane, id);
  }
}
template <bool kFirst, typename Visit>
MOEJIT_DEVICE void for_each_choice(const MoeArgs& a, u32 scratch, Visit visit) {
  if constexpr (kPlanRoutes) {
    if (a.routed != 0) {
      for_each_routed<kFirst>(a, scratch, visit);
      return;
    }
  }
  for_each_id(a, visit);
}

}  // namespace moe

MOEJIT_KERNEL(moe_plan, moe::kPlanThreads, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  static_assert(kExperts <= kPlanThreads);
  grid_launch_dependents();  // gate+up of tile90 asks for weights before it waits for this entry
  grid_wait();
  const int thread = static_cast<int>(thread_id());
  const u32 cursor = shared_base();  // [kPlanThreads] rows, then the next free row, of each expert
  const u32 sums = cursor + kPlanThreads * 4;  // [32] u32x2 totals of the warps
  const u32 scratch = sums + 32 * 8 + warp_id() * ((kNumExperts + kNGroup) * 4);
  i32* counts = reinterpret_cast<i32*>(region(a, kRegion_counts));
  i32* rows = reinterpret_cast<i32*>(region(a, kRegion_rows));
  u32x4* tiles = reinterpret_cast<u32x4*>(region(a, kRegion_tiles));

  sts_u32(cursor + thread * 4, 0);
  block_sync();
  for_each_choice<true>(a, scratch, [&](i64, i32 id) { atomic_add_shared(cursor + id * 4, 1); });
  block_sync();
  // Rows of expert `thread`: of all blocks, and of the blocks before this one.
  u32 mine = 0, before = 0;
#if MOEJIT_PLAN_BLOCKS > 1
  cluster_sync();
  if (thread < kNumExperts) {
    MOEJIT_UNROLL
    for (u32 r = 0; r < MOEJIT_PLAN_BLOCKS; ++r) {
      const u32 rows_of_block = ld_cluster_u32(cursor + thread * 4, r);
      if (r < block_id()) before += rows_of_block;
      mine += rows_of_block;
    }
  }
  cluster_sync();  // the counts have been read everywhere; the cursors may take their place
#else
  if (thread < kNumExperts) mine = lds_u32(cursor + thread * 4);
#endif
  if (thread >= kNumExperts && thread < kExperts) mine = static_cast<u32>(a.num_tokens);
  const u32 my_tiles = (mine + kPlanTile - 1) / kPlanTile;
  u32 row_end = mine, tile_end = my_tiles;  // inclusive scans
  MOEJIT_UNROLL
  for (u32 d = 1; d < 32; d <<= 1) {
    const u32 r = shfl_up_u32(row_end, d);
    const u32 t = shfl_up_u32(tile_end, d);
    if (lane_id() >= d) {
      row_end += r;
      tile_end += t;
    }
  }
  if (lane_id() == 31) sts_u32x2(sums + warp_id() * 8, {row_end, tile_end});
  block_sync();
  for (u32 w = 0; w < warp_id(); ++w) {
    const u32x2 v = lds_u32x2(sums + w * 8);
    row_end += v.x;
    tile_end += v.y;
  }
  const u32 first_row = row_end - mine;
  const u32 first_tile = tile_end - my_tiles;
  if (block_id() == 0) {
    if (thread < kExperts) stg_i32(counts + 1 + thread, static_cast<i32>(first_row));
    if (thread == kExperts - 1) {
      stg_i32(counts, static_cast<i32>(tile_end));
      stg_i32(counts + 1 + kExperts, static_cast<i32>(row_end));
    }
    if (thread < kPlanCleared) {
      stg_i32(counts + kPlanTickets + thread, 0);
    }
    const u32 entry = static_cast<u32>(thread) | (my_tiles * kPlanTile - mine) << 16;
    for (u32 t = 0; t < my_tiles; ++t) {
      stg_u32x4(tiles + first_tile + t, {entry, first_tile, my_tiles, first_row});
    }
  }
  block_sync();
  sts_u32(cursor + thread * 4, first_row + before);
  block_sync();
  // The order of the rows of an expert is left to chance: no result depends on it.
  for_each_choice<false>(a, scratch, [&](i64 i, i32 id) {
    const u32 row = atomic_add_shared(cursor + id * 4, 1);
    const i64 token = i / kTopK;
    stg_i32(rows + row, static_cast<i32>(token * kSlots + (i - token * kTopK)));
  });
  if constexpr (kNumSharedExperts > 0) {
    for (int e = kNumExperts; e < kExperts; ++e) {
      const u32 first = lds_u32(cursor + e * 4);
      for (i64 token = block_id() * kPlanThreads + thread; token < a.num_tokens;
           token += MOEJIT_PLAN_BLOCKS * kPlanThreads) {
        stg_i32(rows + first + token, static_cast<i32>(token * kSlots + kTopK + (e - kNumExperts)));
      }
    }
  }
}
