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

static_assert(!kInTurns || (kCluster == 1 && kSched_blocks == 1 && !kByTicket));
constexpr int kConsumers = kInTurns ? 2 : kTileWarpgroups;
constexpr int kThreads90 = 128 * (1 + kConsumers);
constexpr int kStages90 = kSched_stages;
// Tiles of few rows wait for memory alone. A stage of theirs is given back as soon as it has been
// multiplied, and where a tile takes many stages, two are asked for together: 256 bytes of a row
// side by side come faster than two times 128. (Measured: with 12 stages a tile it is slower.)
constexpr bool kFewRows = kSwap == 2 && kBm <= 64;
template <bool kGateUp>
constexpr int kBatch = !kFewRows || Cut<kGateUp>::kBlocksK < 24 * Cut<kGateUp>::kRanges ? 1 : 2;
constexpr int kStageBytesA = kBm * 128;
constexpr int kStageBytesB = kBn * 128;
constexpr int kStageBytes90 = kStageBytesA + kStageBytesB;
// Columns of one TMA box.
template <bool kGateUp>
constexpr int kGroupN = kTransposed || kSwapped<kGateUp> ? 64 : kHalfN;
constexpr int kStagedBytes = kBm < 64 || kInTurns ? 1024 : 2048;  // of a consumer warp, for results
// With one consumer warpgroup every thread may have 255 registers anyway.
constexpr bool kMovesRegisters = kConsumers > 1;
constexpr u32 kProducerBarrier = 1;  // of the named barriers; those of the consumers follow
// Rows of x are gathered; those of h lie side by side and come in boxes.
constexpr int kBoxRows = min_of(kBm, 32);
static_assert(kBm % kBoxRows == 0);

struct Shared90 {
  u32 ring, staged, full, empty;
  u32 tiles;  // [kStages90] u32x4: the tile that begins with the stage
  u32 turn;   // [2] barriers, one for each warpgroup, where they take turns
  u32 next;   // [2] u32: the items that the producer takes next, in turn
  u32 sums;   // [2] u32: the tickets of sums (tile90_sums.h), in turn
};
MOEJIT_DEVICE Shared90 shared90() {
  Shared90 s;
  s.ring = (shared_base() + 1023u) & ~1023u;
  s.staged = s.ring + kStages90 * kStageBytes90;
  s.full = s.staged + kConsumers * 4 * kStagedBytes;
  s.empty = s.full + kStages90 * 8;
  s.tiles = s.empty + kStages90 * 8;
  s.turn = s.tiles + kStages90 * 16;
  s.next = s.turn + 16;
  s.sums = s.next + 8;
  return s;
}

// How h and y are stored (keep.h).
using Keep90 = Kept<kParts, kPartial16>;
MOEJIT_DEVICE u64 policy_for(bool kept) {
  return kept ? policy_evict_last() : policy_evict_normal();
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

}  // namespace moe
