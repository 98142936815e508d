// The producer warpgroup of the sm_90a tile kernels, and the body of their entries: which boxes of
// weights, which rows of x and h come into the ring (tile90_ring.h), when, and for whom.
#pragma once

#include "kernels/tile90_sums.h"

namespace moe {

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

// The weights of `count` blocks of a tile from `k` on, 1..kBatch, into the stages from `ring`'s
// place on, and the promise of what this thread brings; one thread.
template <bool kGateUp>
MOEJIT_DEVICE void load_weights(const TensorMap* map, const Tile90& tile, int k, int count,
                                const Shared90& s, const Ring& ring, u64 policy) {
  constexpr int kGroups = kBn / kGroupN<kGateUp>;
  u32 to[kBatch<kGateUp>], full[kBatch<kGateUp>];
  Ring at = ring;
  MOEJIT_UNROLL
  for (int i = 0; i < kBatch<kGateUp>; ++i) {
    to[i] = s.ring + at.stage * kStageBytes90 + kStageBytesA;
    full[i] = s.full + at.stage * 8;
    at.next();
    if (i >= count) continue;
    if (kCluster > 1 && tile.rows == 0) {
      mbar_arrive(full[i]);
    } else {
      mbar_arrive_expect_tx(full[i], kStageBytesB + boxes_of_rows<kGateUp>(tile) * kBoxRows * 128);
    }
  }
  if (kCluster > 1 && tile.rows == 0) return;
  const int mine = kCluster > 1 && tile.paired ? static_cast<int>(cluster_rank()) : -1;
  MOEJIT_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    if (mine >= 0 && g / (kGroups / 2) != mine) continue;
    MOEJIT_UNROLL
    for (int i = 0; i < kBatch<kGateUp>; ++i) {
      if (i >= count) break;
      const u32 b = to[i] + g * kGroupN<kGateUp> * 128;
      const WeightBox box = weight_box<kGateUp>(tile.expert, tile.n, k + i, g);
      if (mine >= 0) {
        tma_load_3d_multicast(b, map, box.at[0], box.at[1], box.at[2], full[i],
                              (1u << kCluster) - 1u, policy);
      } else {
        tma_load_3d(b, map, box.at[0], box.at[1], box.at[2], full[i], policy);
      }
    }
  }
}
// Stages from `ring`'s place on that are asked for together, of `left` that a tile still needs;
// returns when all of them are free.
template <bool kGateUp>
MOEJIT_DEVICE int wait_for_batch(const Shared90& s, const Ring& ring, int left) {
  const int batch = kBatch<kGateUp> == 1 ? 1 : min_of(kBatch<kGateUp>, left);
  Ring at = ring;
  MOEJIT_UNROLL
  for (int i = 0; i < kBatch<kGateUp>; ++i) {
    if (i >= batch) break;
    mbar_wait(s.empty + at.stage * 8, at.phase ^ 1u);
    at.next();
  }
  return batch;
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

// Steps before a tile's end at which the next ticket is taken, and at which its entry of the plan
// is asked for; in gate+up one to four steps earlier. As late as answers of the L2 allow, so that a
// slow block does not keep items from a fast one.
constexpr int kAskAhead = 8, kLookAhead = 4;

// Down: one thread, weights and rows by TMA.
MOEJIT_DEVICE void produce_down(const MoeArgs& a, const TensorMaps& maps, const Shared90& s) {
  if (thread_id() != 0) return;
  constexpr int kTogether = kBatch<false>;
  if constexpr (kPlanRoutes) count_started(a);
  const u64 once = policy_evict_first(), again = policy_evict_normal();
  Items items(ldg_i32(plan_counts(a)) * Cut<false>::kPerTile);
  NextItem coming = next_item<false>(a, items);
  int ticket = 0;
  int ahead = 0;  // stages of the first tile whose weights are under way
  // The work list is complete (the entry before waited for it); only h is not. Weights go first.
  if (coming.item >= 0) {
    const Tile90 tile = locate90<false>(coming);
    if (!tile.paired || tile.rows > 0) {
      ahead = min_of(kStages90, tile.blocks<false>()) / kTogether * kTogether;
      announce(s, 0, tile);
    }
    Ring ring;
    MOEJIT_NO_UNROLL
    for (int k = 0; k < ahead; k += kTogether) {
      load_weights<false>(&maps.map[1], tile, tile.first_block<false>() + k, kTogether, s, ring,
                          tile.single ? once : again);
      ring.skip<kTogether>();
    }
  }
  grid_wait();
  fence_proxy_async_global();  // h was written by ordinary stores
  Ring ring;
  while (coming.item >= 0) {
    const Tile90 tile = locate90<false>(coming);
    if constexpr (!kByTicket) coming = next_item<false>(a, items);
    if (tile.paired && tile.rows == 0) continue;
    const u64 policy = tile.single ? once : again;
    const int first = tile.first_block<false>(), count = tile.blocks<false>();
    const int boxes = boxes_of_rows<false>(tile);
    MOEJIT_NO_UNROLL
    for (int step = 0; step < count;) {
      const int batch = wait_for_batch<false>(s, ring, count - step);
      if (step == 0 && ahead == 0) announce(s, ring.stage, tile);
      if (kByTicket && step == max_of(0, count - kAskAhead) / kTogether * kTogether)
        ticket = take_ticket<false>(a, items);
      if (kByTicket && step == max_of(0, count - kLookAhead) / kTogether * kTogether)
        coming = look_up<false>(a, ticket, items);
      if (step >= ahead)
        load_weights<false>(&maps.map[1], tile, first + step, batch, s, ring, policy);
      MOEJIT_UNROLL
      for (int of = 0; of < kTogether; ++of, ++step) {
        if (of >= batch) break;
        MOEJIT_NO_UNROLL
        for (int i = 0; i < boxes; ++i) {
          // What lies behind the tile is another's, or was never written.
          tma_load_rows(s.ring + ring.stage * kStageBytes90 + i * kBoxRows * 128, &maps.map[2],
                        (first + step) * 64, tile.first_row + i * kBoxRows,
                        max_of(0, tile.rows - i * kBoxRows), s.full + ring.stage * 8, again);
        }
        ring.next();
      }
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
  constexpr int kTogether = kBatch<true>;
  constexpr int kPieces = kHiddenSize / 8;
  constexpr int kCopies = kBm / 16;           // 16-byte pieces of a stage that one thread copies
  constexpr int kSteps = 4;                   // stages between two steps of the addresses
  constexpr int kLook = kCopies > 4 ? 4 : 1;  // copies between two looks at the end of the rows
  const u32 thread = thread_id();             // 0..127
  const u32 warp = shfl_u32(warp_id(), 0);
  const u32 column = thread & 7u;
  const u32 row = thread >> 3;  // and every 16th after it
  const u32 to = row * 128 + ((column ^ (row & 7u)) << 4);
  const u8* source = static_cast<const u8*>(a.x) + column * 16;
  const i32* rows = plan_rows(a);
  Items items(ldg_i32(plan_counts(a)) * Cut<true>::kPerTile);
  NextItem coming = next_item<true>(a, items);
  u32 next = s.next;
  Ring ring;
  while (coming.item >= 0) {
    const Tile90 tile = locate90<true>(coming);
    if constexpr (!kByTicket) coming = next_item<true>(a, items);
    if (tile.paired && tile.rows == 0) continue;
    const u64 policy = tile.single ? policy_evict_first() : policy_evict_normal();
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
    const int last = (count - 1) / kSteps * kSteps;  // of the values of `begin`
    MOEJIT_NO_UNROLL
    for (int begin = 0; begin < count; begin += kSteps) {
      // By a warp that brings no weights, which waits for the answer.
      if (kByTicket && thread == 32 && begin == max_of(0, last - kAskAhead))
        sts_u32(next, static_cast<u32>(take_ticket<true>(a, items)));
      if (kByTicket && begin == max_of(0, last - kLookAhead)) {
        bar_sync(kProducerBarrier, 128);
        coming = look_up<true>(a, static_cast<int>(lds_u32(next)), items);
        next ^= 4u;
      }
      MOEJIT_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        const int k = begin + step;
        if (k >= count) break;
        const u32 stage = s.ring + ring.stage * kStageBytes90;
        const u32 full = s.full + ring.stage * 8;
        if (step % kTogether == 0 && warp == 0) {
          // All of the warp waits, not the one lane that then loads: its branch is a short one.
          const int batch = wait_for_batch<true>(s, ring, count - k);
          if (thread == 0) {
            if (k == 0) announce(s, ring.stage, tile);
            load_weights<true>(&maps.map[0], tile, k, batch, s, ring, policy);
          }
          warp_sync();
        }
        if (warp != 0) {  // the first one has waited
          mbar_wait(s.empty + ring.stage * 8, ring.phase ^ 1u);
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
  // Nothing of the layer follows a down that adds up, and kernels of others are not to start before
  // `out` is complete.
  if constexpr (kGateUp || !kPlanRoutes) grid_launch_dependents();
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
    if constexpr (!kGateUp && kPlanRoutes) add_up(a, s.sums);
  }
  // The other block may still send weights here, or wait for this one's consumers.
  if constexpr (kCluster > 1) {
    cluster_sync();
  }
}

}  // namespace moe
