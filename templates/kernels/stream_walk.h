// How the work of the stream kernels is dealt to the blocks, and the feeders that walk it ahead of
// the products.
#pragma once

#include "kernels/stream_ring.h"

namespace moe {

// A unit of gate+up: kTileM times 8 gate rows and their 8 up rows (16 rows of h where not gated).
constexpr int kUnitH = kTileM * (kGated ? 8 : 16);
constexpr int kPiecesH = kHiddenSize / kPiece;
constexpr int kStagesH = ceil_div(kHiddenSize, kStageK);
// A unit of down: kTileM * 16 rows of w2.
constexpr int kUnitOut = kTileM * 16;
constexpr int kDownTiles = ceil_div(kHiddenSize, kUnitOut);
constexpr int kPiecesI = kIntermediateSize / kPiece;
constexpr int kStagesI = ceil_div(kIntermediateSize, kStageK);
constexpr i64 kPitchH = static_cast<i64>(kPiecesH) * 16;  // bytes of a row of w13, and of x
constexpr i64 kPitchI = static_cast<i64>(kPiecesI) * 16;  // of w2, and of h

// The expert that holds `chunk`, at or after `expert`.
MOEJIT_DEVICE int find_owner(const Plan& plan, u32 cum, u32 owners, int chunk, int expert) {
  if (plan.listed) return lds_u16(owners + chunk * 2);
  while (chunk >= static_cast<int>(lds_u32(cum + (expert + 1) * 4))) ++expert;
  return expert;
}

// Part `share` of `shares` of `all` pieces: [first, end), even to one piece.
struct Cut {
  i64 first, end;
};
MOEJIT_DEVICE Cut even_cut(i64 all, u32 share, u32 shares) {
  return {all * share / shares, all * (share + 1) / shares};
}
// The same of fewer than 2^31: weights wait for the division.
MOEJIT_DEVICE Cut even_cut(int all, u32 share, u32 shares) {
  const u32 each = static_cast<u32>(all) / shares;
  const u32 more = static_cast<u32>(all) - each * shares;
  const u32 first = each * share + (share < more ? share : more);
  return {first, first + each + (share < more ? 1u : 0u)};
}

// Position of a block in gate+up: rows of h, chunk by chunk, in units of up to kUnitH. The rows,
// not the units, are dealt alike: the launch lasts as long as the block with the most.
struct GateWalk {
  // A stage: rows 0-7 of each 16 are gate rows and 8-15 the same up rows, so that one lane holds
  // both results.
  static constexpr int kPieces = kPiecesH;
  static constexpr int kRows = kW13Rows;  // of an expert's weights
  static constexpr bool kPaired = kGated;
  static constexpr int kRowStep = kGated && kInterleaved ? 2 : 1;
  int left;    // rows of this block, those of the current unit included
  int expert;  // of the current unit
  int chunk;   // over all experts
  int row;     // first of the current unit, in [0, kIntermediateSize)
  int rows;    // of the current unit
  Plan plan;
  u32 cum, owners;
  u32 owner;  // address of the chunk's

  MOEJIT_DEVICE void settle() {
    rows = min_of(kUnitH, kIntermediateSize - row);
    if (left < rows) rows = left;
  }
  MOEJIT_DEVICE void bind(const StreamShared& s, const Plan& launch_plan) {
    cum = s.cum;
    owners = s.owners;
    plan = launch_plan;
    expert = 0;
    left = 0;
  }
  // Share `share` of `shares`; beyond the last nothing.
  MOEJIT_DEVICE void start(u32 share, u32 shares) {
    if (share >= shares) return;
    const Cut cut =
        plan.listed ? even_cut(plan.chunks * kIntermediateSize, share, shares)
                    : even_cut(static_cast<i64>(plan.chunks) * kIntermediateSize, share, shares);
    left = static_cast<int>(cut.end - cut.first);
    chunk = plan.listed ? static_cast<int>(cut.first) / kIntermediateSize
                        : static_cast<int>(cut.first / kIntermediateSize);
    row = static_cast<int>(cut.first - static_cast<i64>(chunk) * kIntermediateSize);
    enter();
  }
  MOEJIT_DEVICE void enter() {
    if (left == 0) return;
    settle();
    owner = owners + static_cast<u32>(chunk) * 2;
    find_expert();
  }
  MOEJIT_DEVICE void find_expert() {
    expert = plan.listed ? static_cast<int>(lds_u16(owner))
                         : find_owner(plan, cum, owners, chunk, expert);
  }
  MOEJIT_DEVICE bool done() const { return left == 0; }
  // True where the next unit has the rows behind this one's.
  MOEJIT_DEVICE bool next() {
    left -= rows;
    if (left == 0) return true;
    row += rows;
    const bool behind = row < kIntermediateSize;
    if (!behind) {
      row = 0;
      ++chunk;
      owner += 2;  // made from the chunk anew, ptxas 13.0 took a later chunk's
      find_expert();
    }
    settle();
    return behind;
  }
  MOEJIT_DEVICE int unit_rows() const { return rows; }
  MOEJIT_DEVICE int weight_row(int i) const { return gate_row(row + i); }
  MOEJIT_DEVICE int paired_row(int i) const { return up_row(row + i); }
  MOEJIT_DEVICE static const void* weights_of(const MoeArgs& a) { return a.w13; }
};

// Position of a block in down: units of a row tile and a chunk, row tile by row tile, so that whole
// output rows finish early.
struct DownWalk {
  static constexpr int kPieces = kPiecesI;
  static constexpr int kRows = kHiddenSize;
  static constexpr bool kPaired = false;
  static constexpr int kRowStep = 1;
  int unit, end;  // units of this block left: [unit, end)
  int expert;     // of the current unit
  int chunk;      // over all experts
  int tile;       // row tile
  Plan plan;
  u32 cum, owners;

  // Share `share` of `shares`; beyond the last nothing.
  MOEJIT_DEVICE void start(const StreamShared& s, const Plan& launch_plan, u32 share, u32 shares) {
    cum = s.cum;
    owners = s.owners;
    plan = launch_plan;
    unit = end = 0;
    expert = 0;
    if (share >= shares) return;
    const Cut cut = plan.listed
                        ? even_cut(plan.chunks * kDownTiles, share, shares)
                        : even_cut(static_cast<i64>(plan.chunks) * kDownTiles, share, shares);
    unit = static_cast<int>(cut.first);
    end = static_cast<int>(cut.end);
    if (unit >= end) return;
    chunk = unit % plan.chunks;
    tile = unit / plan.chunks;
    expert = find_owner(plan, cum, owners, chunk, expert);
  }
  MOEJIT_DEVICE bool done() const { return unit >= end; }
  MOEJIT_DEVICE bool next() {
    ++unit;
    if (unit >= end) return true;
    if (++chunk == plan.chunks) {
      chunk = 0;
      expert = 0;
      ++tile;
    }
    expert = find_owner(plan, cum, owners, chunk, expert);
    return false;
  }
  MOEJIT_DEVICE int unit_rows() const { return min_of(kUnitOut, kHiddenSize - tile * kUnitOut); }
  MOEJIT_DEVICE int weight_row(int i) const { return tile * kUnitOut + i; }
  MOEJIT_DEVICE int paired_row(int i) const { return weight_row(i); }
  MOEJIT_DEVICE static const void* weights_of(const MoeArgs& a) { return a.w2; }
};

// Walks a block's units one stage at a time, ahead of the products, and fills the ring. A lane
// copies 16 bytes of every fourth row of a stage.
template <typename Walk>
struct Feeder {
  Walk walk;
  Share share;
  int turn;                // of the current unit, 0..share.count-1
  u32 to, ring, ring_end;  // of the lane
  u64 policy;
  const u8* weights;
  int rows_left;  // of the unit, from the lane's first row
  const u8 *from, *from_pair;

  MOEJIT_DEVICE bool done() const { return walk.done() || share.count == 0; }
  MOEJIT_DEVICE void enter_rows() {
    rows_left = walk.unit_rows() - static_cast<int>(lane_id() >> 3);
  }
  MOEJIT_DEVICE void enter_unit() {
    if (walk.done()) return;
    constexpr i64 kPitch = static_cast<i64>(Walk::kPieces) * 16;
    const int row = static_cast<int>(lane_id() >> 3);
    const u8* base = weights + static_cast<i64>(walk.expert) * Walk::kRows * kPitch +
                     (share.first * 8 + static_cast<int>(lane_id() & 7u)) * 16;
    from = base + static_cast<i64>(walk.weight_row(row)) * kPitch;
    if (Walk::kPaired) from_pair = base + static_cast<i64>(walk.paired_row(row)) * kPitch;
    enter_rows();
  }
  // Asks for the next stage, of which there must be one, in no group yet. Warp-collective.
  MOEJIT_DEVICE void issue_stage() {
    constexpr i64 kPitch = static_cast<i64>(Walk::kPieces) * 16;
    const bool piece = Walk::kPieces % 8 == 0 ||
                       share.stage(turn) * 8 + static_cast<int>(lane_id() & 7u) < Walk::kPieces;
    MOEJIT_UNROLL
    for (int r = 0; r < kTileM * 4; ++r) {
      const int row = Walk::kPaired ? (r >> 2) * 8 + (r & 1) * 4 : r * 4;
      const u8* base = Walk::kPaired && (r & 2) != 0 ? from_pair : from;
      cp_async16_hint(to + r * 512, base + row * Walk::kRowStep * kPitch, piece && rows_left > row,
                      policy);
    }
    to = to + kStageBytes == ring_end ? ring : to + kStageBytes;
    from += kTurnBytes;
    if (Walk::kPaired) from_pair += kTurnBytes;
    if (++turn < share.count) return;
    turn = 0;
    if (walk.next()) {
      const i64 hop = kUnitH * Walk::kRowStep * kPitch - share.count * kTurnBytes;
      from += hop;
      if (Walk::kPaired) from_pair += hop;
      enter_rows();
    } else {
      enter_unit();
    }
  }
  // The next stage, or an empty group when there is none left. Warp-collective.
  MOEJIT_DEVICE void issue() {
    if (!done()) issue_stage();
    cp_async_commit();
  }
};

template <typename Walk>
MOEJIT_DEVICE Feeder<Walk> make_feeder(const MoeArgs& a, const StreamShared& s, const Walk& walk,
                                       Share share) {
  Feeder<Walk> f;
  f.walk = walk;
  f.share = share;
  f.turn = 0;
  f.ring = s.ring + ring_offset(lane_id() >> 3, lane_id() & 7u);
  f.ring_end = f.ring + kRingBytes;
  f.to = f.ring;
  f.policy = policy_evict_first();
  f.weights = static_cast<const u8*>(Walk::weights_of(a));
  f.enter_unit();
  return f;
}

}  // namespace moe
