// What both forms of the sm_90a tile kernels share (tile90.h, tile90_swap.h). One producer
// warpgroup brings weights and rows of h with TMA and gathers rows of x with 16-byte asynchronous
// copies into a ring of stages; consumer warpgroups multiply with wgmma. Blocks are persistent. The
// producer alone knows which tiles a block has; consumers learn of one with its first stage.
//
// Narrow swapped tiles of many rows are taken in turns by two consumer warpgroups, so that one
// stores its results while the other multiplies.
//
// In a cluster of two each block brings half of the weights that both need and sends them to both;
// the rings of the two then move in step: a stage is free when the consumers of both have left it.
#pragma once

#include "kernels/combine_parts.h"
#include "kernels/route.h"
#include "kernels/tile90_walk.h"

namespace moe {

// Warpgroups of one tile: one for 64 rows, or where swapped one for 128 columns; as many for both
// products.
constexpr int kTileWarpgroups = kSwap > 0 ? kBn / 128 : kBm / 64;
static_assert(kSwap != 1 || kTileWarpgroups == kBm / 64);
constexpr bool kInTurns = kSwap == 2 && kTileWarpgroups == 1 && kBm >= 128 && kParts == 1;
static_assert(!kInTurns || (kCluster == 1 && kSched_blocks == 1));
constexpr int kConsumers = kInTurns ? 2 : kTileWarpgroups;
constexpr int kThreads90 = 128 * (1 + kConsumers);
constexpr int kStages90 = kSched_stages;
constexpr int kStageBytesA = kBm * 128;
constexpr int kStageBytesB = kBn * 128;
constexpr int kStageBytes90 = kStageBytesA + kStageBytesB;
// Columns of one TMA box.
template <bool kGateUp>
constexpr int kGroupN = kTransposed || kSwapped<kGateUp> ? 64 : kHalfN;
constexpr int kStagedBytes = kBm < 64 || kInTurns ? 1024 : 2048;  // of a consumer warp, for results
// With one consumer warpgroup every thread may have 255 registers anyway.
constexpr bool kMovesRegisters = kConsumers > 1;
// Rows of x are gathered; those of h lie side by side and come in boxes.
constexpr int kBoxRows = min_of(kBm, 32);
static_assert(kBm % kBoxRows == 0);

struct Shared90 {
  u32 ring, staged, full, empty;
  u32 tiles;  // [kStages90] u32x4: the tile that begins with the stage
  u32 turn;   // [2] barriers, one for each warpgroup, where they take turns
};
MOEJIT_DEVICE Shared90 shared90() {
  Shared90 s;
  s.ring = (shared_base() + 1023u) & ~1023u;
  s.staged = s.ring + kStages90 * kStageBytes90;
  s.full = s.staged + kConsumers * 4 * kStagedBytes;
  s.empty = s.full + kStages90 * 8;
  s.tiles = s.empty + kStages90 * 8;
  s.turn = s.tiles + kStages90 * 16;
  return s;
}

struct Ring {
  u32 stage = 0, phase = 0;
  MOEJIT_DEVICE void next() {
    if (++stage == kStages90) {
      stage = 0;
      phase ^= 1u;
    }
  }
  template <int kCount>
  MOEJIT_DEVICE void skip() {
    stage += kCount % kStages90;
    phase ^= kCount / kStages90 & 1u;
    if (stage >= kStages90) {
      stage -= kStages90;
      phase ^= 1u;
    }
  }
};

// A tile from the producer to the consumers, by way of its first stage: to learn from the plan what
// it is takes a few hundred instructions, which each consumer warp would execute while the tensor
// cores wait. One thread of the producer, before it arrives at the stage's barrier.
MOEJIT_DEVICE void announce(const Shared90& s, u32 stage, const Tile90& tile) {
  sts_u32x4(
      s.tiles + stage * 16,
      {static_cast<u32>(tile.expert) | static_cast<u32>(tile.part) << 16, static_cast<u32>(tile.n),
       static_cast<u32>(tile.first_row), static_cast<u32>(tile.rows)});
}
constexpr u32 kNoTile = 0xffffffffu;  // for rows: there are no more
MOEJIT_DEVICE void announce_end(const Shared90& s, u32 stage) {
  sts_u32x4(s.tiles + stage * 16, {0u, 0u, 0u, kNoTile});
}
// After a wait for the stage: false at the end. Warp-collective.
MOEJIT_DEVICE bool announced(const Shared90& s, u32 stage, Tile90* tile) {
  const u32x4 t = lds_u32x4(s.tiles + stage * 16);
  warp_sync();  // one lane gives the stage back for all
  tile->expert = static_cast<int>(t.x & 0xffffu);
  tile->part = kParts == 1 ? 0 : static_cast<int>(t.x >> 16);
  tile->n = static_cast<int>(t.y);
  tile->first_row = static_cast<int>(t.z);
  tile->rows = static_cast<int>(t.w);
  return t.w != kNoTile;
}

// 128B-swizzled operand at `address`: K-major, or for transposed weights 64-column groups of 64
// rows.
MOEJIT_DEVICE u64 descriptor(u32 address, bool mn_major) {
  const u64 leading = mn_major ? 8192u >> 4 : 1u;
  return static_cast<u64>((address & 0x3ffffu) >> 4) | leading << 16 |
         static_cast<u64>(1024u >> 4) << 32 | static_cast<u64>(1) << 62;
}

// Row (column, where transposed) of the weights where group g of column tile n begins.
template <bool kGateUp>
MOEJIT_DEVICE int group_row(int n, int g) {
  if constexpr (!kGateUp) return n * kBn + g * kGroupN<kGateUp>;
  if constexpr (!kPaired) return n * kBn + g * kGroupN<kGateUp>;
  if constexpr (kSwapped<kGateUp>) {  // a warpgroup's 64 gates, then its 64 ups
    const int i = n * kHalfN + g / 2 * 64;
    return g % 2 == 0 ? gate_row(i) : up_row(i);
  }
  constexpr int kPerHalf = kHalfN / kGroupN<kGateUp>;
  const int i = n * kHalfN + (g % kPerHalf) * kGroupN<kGateUp>;
  return g < kPerHalf ? gate_row(i) : up_row(i);
}

// Rows of a tile that the consumers look at: whole fragments of theirs.
template <bool kGateUp>
MOEJIT_DEVICE int rows_read(const Tile90& tile) {
  // By masks: of two divisions by constants the compiler makes one by a variable.
  const int low = !kSwapped<kGateUp> ? 63 : tile.rows > kFineRows ? 15 : 7;
  return (tile.rows + low) & ~low;
}
template <bool kGateUp>
MOEJIT_DEVICE int boxes_of_rows(const Tile90& tile) {
  return kGateUp ? 0 : ceil_div(rows_read<kGateUp>(tile), kBoxRows);
}

// Where box `g` of the weights of block `k` lies in their map.
struct WeightBox {
  i32 at[3];
};
template <bool kGateUp>
MOEJIT_DEVICE WeightBox weight_box(int expert, int n, int k, int g) {
  if (kGateUp && kSwapped<kGateUp> && kGated && kInterleaved) {
    // Every second row: the map has gate or up as its second dimension, channels as its third.
    return {{k * 64, (g % 2 == 1) != kUpFirst ? 1 : 0,
             expert * kIntermediateSize + n * kHalfN + g / 2 * 64}};
  }
  const int row = group_row<kGateUp>(n, g);
  if (kTransposed) return {{row, k * 64, expert}};
  return {{k * 64, row, expert}};
}

// The weights of block `k` of a tile, and the promise of what this thread brings; one thread.
template <bool kGateUp>
MOEJIT_DEVICE void load_weights(const TensorMap* map, const Tile90& tile, int k, u32 stage,
                                u32 full, u64 policy) {
  constexpr int kGroups = kBn / kGroupN<kGateUp>;
  if (kCluster > 1 && tile.rows == 0) {
    mbar_arrive(full);
    return;
  }
  mbar_arrive_expect_tx(full, kStageBytesB + boxes_of_rows<kGateUp>(tile) * kBoxRows * 128);
  const int mine = kCluster > 1 && tile.paired ? static_cast<int>(cluster_rank()) : -1;
  MOEJIT_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    if (mine >= 0 && g / (kGroups / 2) != mine) continue;
    const u32 b = stage + kStageBytesA + g * kGroupN<kGateUp> * 128;
    const WeightBox box = weight_box<kGateUp>(tile.expert, tile.n, k, g);
    if (mine >= 0) {
      tma_load_3d_multicast(b, map, box.at[0], box.at[1], box.at[2], full, (1u << kCluster) - 1u,
                            policy);
    } else {
      tma_load_3d(b, map, box.at[0], box.at[1], box.at[2], full, policy);
    }
  }
}

// Until the plan is there no tile is known, and the memory rests. Meanwhile the first weights of
// gate+up come into the L2 cache, of the tile that this block gets if every expert has rows, and
// all of them in one tile. An expert without rows is read for nothing; the tiles behind it then
// belong to other blocks, which find them there. One warp.
constexpr int kGuessBytes = 160 << 10;  // of a unit: about what arrives while a plan is made
MOEJIT_DEVICE void guess_weights(const MoeArgs& a, const TensorMap* map) {
  using C = Cut<true>;
  constexpr int kGroups = kBn / kGroupN<true>;
  constexpr int kBlocks = min_of(kGuessBytes / (kSched_blocks * kStageBytesB), C::kBlocksK);
  const i64 slots = a.num_tokens * kTopK;
  const int expert = static_cast<int>(block_id()) / C::kPerTile;
  if (slots < kNumExperts || slots > static_cast<i64>(kNumExperts) * kBm || expert >= kNumExperts)
    return;
  const int n = static_cast<int>(block_id()) % C::kPerTile;
  for (int i = static_cast<int>(lane_id()); i < kBlocks * kGroups; i += 32) {
    const WeightBox box = weight_box<true>(expert, n, i / kGroups, i % kGroups);
    tma_prefetch_3d(map, box.at[0], box.at[1], box.at[2]);
  }
}

// Down: one thread, weights and rows by TMA.
MOEJIT_DEVICE void produce_down(const MoeArgs& a, const TensorMaps& maps, const Shared90& s) {
  if (thread_id() != 0) return;
  const u64 once = policy_evict_first(), again = policy_evict_normal();
  Items items(ldg_i32(plan_counts(a)) * Cut<false>::kPerTile);
  NextItem coming = next_item<false>(a, items);
  int ahead = 0;  // stages of the first tile whose weights are under way
  // The work list is complete (the entry before waited for it); only h is not. Weights go first.
  if (coming.item >= 0) {
    const Tile90 tile = locate90<false>(coming);
    if (!tile.paired || tile.rows > 0) {
      ahead = min_of(kStages90, tile.blocks<false>());
      announce(s, 0, tile);
    }
    for (int k = 0; k < ahead; ++k) {
      load_weights<false>(&maps.map[1], tile, tile.first_block<false>() + k,
                          s.ring + k * kStageBytes90, s.full + k * 8, tile.single ? once : again);
    }
  }
  grid_wait();
  fence_proxy_async_global();  // h was written by ordinary stores
  Ring ring;
  while (coming.item >= 0) {
    const Tile90 tile = locate90<false>(coming);
    coming = next_item<false>(a, items);
    if (tile.paired && tile.rows == 0) continue;
    const u64 policy = tile.single ? once : again;
    const int first = tile.first_block<false>(), count = tile.blocks<false>();
    const int boxes = boxes_of_rows<false>(tile);
    MOEJIT_NO_UNROLL
    for (int step = 0; step < count; ++step) {
      const u32 stage = s.ring + ring.stage * kStageBytes90;
      const u32 full = s.full + ring.stage * 8;
      mbar_wait(s.empty + ring.stage * 8, ring.phase ^ 1u);
      if (step == 0 && ahead == 0) announce(s, ring.stage, tile);
      if (step >= ahead) load_weights<false>(&maps.map[1], tile, first + step, stage, full, policy);
      MOEJIT_NO_UNROLL
      for (int i = 0; i < boxes; ++i) {
        // What lies behind the tile is another's, or was never written.
        tma_load_rows(stage + i * kBoxRows * 128, &maps.map[2], (first + step) * 64,
                      tile.first_row + i * kBoxRows, max_of(0, tile.rows - i * kBoxRows), full,
                      again);
      }
      ring.next();
    }
    ahead = 0;
  }
  if constexpr (kInTurns) return;  // consumers count their tiles
  mbar_wait(s.empty + ring.stage * 8, ring.phase ^ 1u);
  announce_end(s, ring.stage);
  mbar_arrive(s.full + ring.stage * 8);
}

// Gate+up: one thread brings the weights, all 128 gather rows of x. A stage takes many copies, and
// their instructions are power that the products could use: addresses run on in registers, four
// stages of them by constants.
MOEJIT_DEVICE void produce_gate_up(const MoeArgs& a, const TensorMaps& maps, const Shared90& s) {
  constexpr int kPieces = kHiddenSize / 8;
  constexpr int kCopies = kBm / 16;           // 16-byte pieces of a stage that one thread copies
  constexpr int kSteps = 4;                   // stages between two steps of the addresses
  constexpr int kLook = kCopies > 4 ? 4 : 1;  // copies between two looks at the end of the rows
  const u32 thread = thread_id();             // 0..127
  const u32 column = thread & 7u;
  const u32 row = thread >> 3;  // and every 16th after it
  const u32 to = row * 128 + ((column ^ (row & 7u)) << 4);
  const u8* source = static_cast<const u8*>(a.x) + column * 16;
  const i32* rows = plan_rows(a);
  const u64 once = policy_evict_first(), again = policy_evict_normal();
  Items items(ldg_i32(plan_counts(a)) * Cut<true>::kPerTile);
  NextItem coming = next_item<true>(a, items);
  Ring ring;
  while (coming.item >= 0) {
    const Tile90 tile = locate90<true>(coming);
    coming = next_item<true>(a, items);
    if (tile.paired && tile.rows == 0) continue;
    const u64 policy = tile.single ? once : again;
    const int used = rows_read<true>(tile);
    // Rows that pad the tile stand for its last one: loads without a condition wait once.
    const i32* first = rows + (tile.rows > 0 ? tile.first_row : 0);
    i32 slot[kCopies];
    MOEJIT_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int r = static_cast<int>(row) + i * 16;
      slot[i] = ldg_i32(first + max_of(0, min_of(r, tile.rows - 1)));
    }
    const u8* from[kCopies];
    u32 real = 0;  // bit i: row i of this thread does not pad the tile
    MOEJIT_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      from[i] = source + static_cast<i64>(slot[i] / kSlots) * (kHiddenSize * 2);
      if (static_cast<int>(row) + i * 16 < tile.rows) real |= 1u << i;
    }
    const int count = tile.blocks<true>();
    MOEJIT_NO_UNROLL
    for (int begin = 0; begin < count; begin += kSteps) {
      MOEJIT_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        const int k = begin + step;
        if (k >= count) break;
        const u32 stage = s.ring + ring.stage * kStageBytes90;
        const u32 full = s.full + ring.stage * 8;
        mbar_wait(s.empty + ring.stage * 8, ring.phase ^ 1u);
        if (thread == 0) {
          if (k == 0) announce(s, ring.stage, tile);
          load_weights<true>(&maps.map[0], tile, k, stage, full, policy);
        }
        const bool inside = kPieces % 8 == 0 || k * 8 + static_cast<int>(column) < kPieces;
        const u32 valid = inside ? real : 0u;
        MOEJIT_UNROLL
        for (int i = 0; i < kCopies; ++i) {
          if (i % kLook == 0 && i * 16 >= used) break;
          cp_async16(stage + to + i * 2048, from[i] + step * 128, (valid >> i & 1u) != 0);
        }
        cp_async_arrive_noinc(full);
        ring.next();
      }
      MOEJIT_UNROLL
      for (int i = 0; i < kCopies; ++i) {
        from[i] += kSteps * 128;
        opaque(from[i]);  // as it is, and not as a common distance from where it began
      }
    }
  }
  if constexpr (kInTurns) return;  // consumers count their tiles
  mbar_wait(s.empty + ring.stage * 8, ring.phase ^ 1u);
  if (thread == 0) {
    announce_end(s, ring.stage);
    mbar_arrive(s.full + ring.stage * 8);
  }
  mbar_arrive(s.full + ring.stage * 8);
}

// A warp has read a stage.
MOEJIT_DEVICE void release(u32 empty) {
  const u32 lane = lane_id();
  if constexpr (kCluster > 1) {
    if (lane < kCluster) {
      mbar_arrive_cluster(empty, lane);
    }
  } else {
    if (lane == 0) mbar_arrive(empty);
  }
}

// Where two warpgroups take turns, a tile is the next one's when this one has seen the last stage
// of its own: a barrier's parity tells a stage from the one before it alone, not from an older one.
MOEJIT_DEVICE void pass_turn(const Shared90& s, u32 warpgroup) {
  if (lane_id() != 0) return;
  mbar_arrive(s.turn + (warpgroup ^ 1u) * 8);
}
// The 128 columns of a swapped tile that a warpgroup takes.
MOEJIT_DEVICE u32 columns_of(u32 warpgroup) {
  return kInTurns ? 0u : warpgroup;
}

// Passes `count` stages by, for a warpgroup whose part of the tile does not exist.
MOEJIT_DEVICE void pass_tile(const Shared90& s, int count, Ring& ring) {
  MOEJIT_NO_UNROLL
  for (int k = 0; k < count; ++k) {
    mbar_wait(s.full + ring.stage * 8, ring.phase);
    warp_sync();  // one lane releases for all
    release(s.empty + ring.stage * 8);
    ring.next();
  }
}

// The body of an entry. consume(warpgroup, tile, blocks, ring) multiplies a tile, from the ring's
// place on over `blocks` stages that it releases, and stores what comes out.
template <bool kGateUp, typename Consume>
MOEJIT_DEVICE void run90(const MoeArgs& a, const TensorMaps& maps, const Shared90& s,
                         Consume consume) {
  if (thread_id() == 0) {
    tma_prefetch_map(&maps.map[kGateUp ? 0 : 1]);
    if constexpr (!kGateUp) tma_prefetch_map(&maps.map[2]);
    for (int i = 0; i < kStages90; ++i) {
      mbar_init(s.full + i * 8, kGateUp ? 1 + 128 : 1);
      mbar_init(s.empty + i * 8, kTileWarpgroups * 4 * kCluster);
    }
    if constexpr (kInTurns) {
      mbar_init(s.turn, 4);
      mbar_init(s.turn + 8, 4);
    }
    fence_mbar_init();
  }
  // Clusters are for experts of many rows, whose first tiles are not to be guessed.
  if (kGateUp && kCluster == 1 && warp_id() == 1) guess_weights(a, &maps.map[0]);
  if constexpr (kCluster > 1) {
    cluster_sync();
  } else {
    block_sync();
  }
  if constexpr (kGateUp) grid_wait();  // down waits in its producer
  grid_launch_dependents();
  const u32 warpgroup = shfl_u32(warp_id() >> 2, 0);  // from one lane: the compiler sees it uniform
  if (warpgroup == 0) {
    if constexpr (kMovesRegisters) reg_dec<56>();
    if constexpr (kGateUp) {
      produce_gate_up(a, maps, s);
    } else {
      produce_down(a, maps, s);
    }
    warp_sync();
  } else {
    if constexpr (kMovesRegisters) reg_inc<224>();
    Ring ring;
    Tile90 tile;
    if constexpr (kInTurns) {
      constexpr int kCount = Cut<kGateUp>::kBlocksK;  // of every tile
      const u32 mine = warpgroup - 1;
      const int tiles = Items(ldg_i32(plan_counts(a)) * Cut<kGateUp>::kPerTile).count();
      if (mine == 1) {
        ring.skip<kCount>();
      }
      u32 turn = 0;
      MOEJIT_NO_UNROLL
      for (int at = static_cast<int>(mine); at < tiles; at += 2) {
        if (at > 0) {
          mbar_wait(s.turn + mine * 8, turn);
          turn ^= 1u;
        }
        mbar_wait(s.full + ring.stage * 8, ring.phase);
        announced(s, ring.stage, &tile);
        consume(mine, tile, kCount, ring);
        ring.skip<kCount>();
      }
    } else {
      MOEJIT_NO_UNROLL
      for (;;) {
        mbar_wait(s.full + ring.stage * 8, ring.phase);
        if (!announced(s, ring.stage, &tile)) break;
        consume(warpgroup - 1, tile, tile.blocks<kGateUp>(), ring);
      }
    }
  }
  // The other block may still send weights here, or wait for this one's consumers.
  if constexpr (kCluster > 1) {
    cluster_sync();
  }
}

}  // namespace moe
