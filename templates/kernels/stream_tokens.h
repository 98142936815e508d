// down of few tokens: where all tokens fit one unit, the 8-token columns of the product are the
// tokens themselves, and a block sums all experts of a row tile in its accumulators, each scaled by
// its routing weight. No partial result leaves the block: no y, no counter, no combine. The
// reduction over (expert, I) is split over the block's warps.
#pragma once

#include "kernels/stream_units.h"

namespace moe {

// Whether all tokens fit one unit, and none has an expert twice (two rows of one column). Uses word
// 2 of s.sums. Block-collective.
MOEJIT_DEVICE bool sums_tokens(const MoeArgs& a, const StreamShared& s, const Plan& plan) {
  static_assert(kWarps > 2, "the schedule's rules leave room for the words of s.sums");
  if (!plan.listed || a.num_tokens > kUnitTokens) return false;
  if (thread_id() == 0) sts_u32(s.sums + 8, 0);
  block_sync();
  u32 twice = 0;
  for (int c = static_cast<int>(thread_id()); c < plan.chunks; c += kWarps * 32) {
    const int expert = lds_u16(s.owners + c * 2);
    const int end = static_cast<int>(lds_u32(s.ends + (expert + 1) * 4));
    for (int r = static_cast<int>(lds_u32(s.ends + expert * 4)) + 1; r < end; ++r) {
      if (lds_u16(s.slots + r * 2) / kSlots == lds_u16(s.slots + (r - 1) * 2) / kSlots) ++twice;
    }
  }
  if (twice > 0) atomic_add_shared(s.sums + 8, twice);
  block_sync();
  return lds_u32(s.sums + 8) == 0;
}

// A warp's steps through its row tiles: stages [first, end) of the row tile's chunks x kStagesI.
struct TokenSteps {
  int tile, tile_end;
  int first, end;
  int at;     // in [first, end)
  int chunk;  // of `at`
  int stage;  // of `at`
  u32 owners;

  MOEJIT_DEVICE void rewind() {
    at = first;
    chunk = at / kStagesI;
    stage = at - chunk * kStagesI;
  }
  MOEJIT_DEVICE void start(const StreamShared& s, const Plan& plan, u32 share, u32 shares) {
    tile = static_cast<int>(static_cast<i64>(kDownTiles) * share / shares);
    tile_end = static_cast<int>(static_cast<i64>(kDownTiles) * (share + 1) / shares);
    const i64 all = static_cast<i64>(plan.chunks) * kStagesI;
    first = static_cast<int>(all * warp_id() / kWarps);
    end = static_cast<int>(all * (warp_id() + 1) / kWarps);
    owners = s.owners;
    rewind();
  }
  MOEJIT_DEVICE bool done() const { return tile >= tile_end || first >= end; }
  MOEJIT_DEVICE int expert() const { return lds_u16(owners + chunk * 2); }
  // False where a row tile ends.
  MOEJIT_DEVICE bool next() {
    if (++at == end) {
      ++tile;
      rewind();
      return false;
    }
    if (++stage == kStagesI) {
      stage = 0;
      ++chunk;
    }
    return true;
  }
};

// Fills the ring along TokenSteps.
struct TokenFeeder {
  TokenSteps steps;
  int slot;
  u32 ring;
  u64 policy;
  const u8* w2;

  MOEJIT_DEVICE void issue() {
    if (!steps.done()) {
      const u8* base = w2 + static_cast<i64>(steps.expert()) * kHiddenSize * kPiecesI * 16;
      const u32 to = ring + slot * kStageBytes;
      const u32 column = lane_id() & 7u;
      const int piece = steps.stage * 8 + static_cast<int>(column);
      MOEJIT_UNROLL
      for (int r = 0; r < kTileM * 4; ++r) {
        const u32 m = r * 4 + (lane_id() >> 3);
        const int row = unit_row2(steps.tile, static_cast<int>(m));
        const bool valid = row >= 0 && piece < kPiecesI;
        const u8* from = valid ? base + (static_cast<i64>(row) * kPiecesI + piece) * 16 : w2;
        cp_async16_hint(to + (m >> 4) * 2048 + ring_offset(m & 15u, column), from, valid, policy);
      }
      slot = slot + 1 == kRing ? 0 : slot + 1;
      steps.next();
    }
    cp_async_commit();
  }
};

MOEJIT_DEVICE TokenFeeder make_token_feeder(const MoeArgs& a, const StreamShared& s,
                                            const TokenSteps& steps) {
  return {steps, 0, s.ring, policy_evict_first(), static_cast<const u8*>(a.w2)};
}

// Slot of the lane's token (lane / 4 of 8-token tile n) with `expert`, or -1.
MOEJIT_DEVICE void find_tokens(const StreamShared& s, int expert, i32 (&slot)[kTileN]) {
  const int first = static_cast<int>(lds_u32(s.ends + expert * 4));
  const int end = static_cast<int>(lds_u32(s.ends + (expert + 1) * 4));
  MOEJIT_UNROLL
  for (int n = 0; n < kTileN; ++n) slot[n] = -1;
  MOEJIT_NO_UNROLL
  for (int r = first; r < end; ++r) {
    const i32 candidate = lds_u16(s.slots + r * 2);
    const int token = candidate / kSlots;
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      if (token == n * 8 + static_cast<int>(lane_id() >> 2)) slot[n] = candidate;
    }
  }
}

// The row tiles of this block. `feeder` runs ahead of `steps`, both from the same beginning.
template <typename AnyFeeder>
MOEJIT_DEVICE void down_tokens(const MoeArgs& a, const StreamShared& s, TokenSteps steps,
                               AnyFeeder& feeder, int* slot) {
  constexpr int kAhead = 2;  // steps whose rows of h are under way
  const u32 warp = warp_id();
  const u32 lane = lane_id();
  const u8* h = region(a, kRegion_h);
  const int count = steps.end - steps.first;
  int tile = steps.tile;
  TokenSteps ahead = steps;  // whose rows are asked for
  i32 ahead_slots[kTileN], slots[kTileN];
  u32x4 x[kAhead + 1][kTileN][2];
  const auto rows = [&](u32x4(&to)[kTileN][2]) {
    if (ahead.done()) return;
    if (ahead.stage == 0 || ahead.at == ahead.first) find_tokens(s, ahead.expert(), ahead_slots);
    TokenRows tokens;
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      tokens.row[n] = ahead_slots[n] < 0
                          ? nullptr
                          : h + static_cast<i64>(ahead_slots[n]) * kIntermediateSize * kElement;
    }
    load_tokens(tokens, ahead.stage, kPiecesI, to);
    ahead.next();
  };
  if (count > 0) {
    MOEJIT_UNROLL
    for (int i = 0; i < kAhead; ++i) rows(x[i]);
  }
  MOEJIT_NO_UNROLL
  for (u32 turn = 0; tile < steps.tile_end; ++tile, ++turn) {
    f32 total[kTileM][kTileN][4], acc[kTileM][kTileN][4];
    zero(total);
    zero(acc);
    MOEJIT_NO_UNROLL
    for (int i = 0; i < count; ++i) {
      rows(x[kAhead]);
      const int expert = steps.expert();
      const bool opens = steps.stage == 0;
      const bool closes = steps.stage + 1 == kStagesI || i + 1 == count;
      cp_async_wait<kRing - 2>();
      warp_sync();
      feeder.issue();  // into the slot that the previous step read
      multiply_stage(feeder.ring + *slot * kStageBytes, x[0], acc);
      *slot = *slot + 1 == kRing ? 0 : *slot + 1;
      MOEJIT_UNROLL
      for (int d = 0; d < kAhead; ++d) {
        MOEJIT_UNROLL
        for (int n = 0; n < kTileN; ++n) {
          x[d][n][0] = x[d + 1][n][0];
          x[d][n][1] = x[d + 1][n][1];
        }
      }
      if (kBias && opens) {  // this warp has the beginning of the expert's reduction
        MOEJIT_UNROLL
        for (int m = 0; m < kTileM; ++m) {
          MOEJIT_UNROLL
          for (int part = 0; part < 2; ++part) {
            const int row = unit_row2(tile, m * 16 + part * 8 + static_cast<int>(lane >> 2));
            if (row < 0) continue;
            const f32 bias = load_element(a.b2, static_cast<i64>(expert) * kHiddenSize + row);
            MOEJIT_UNROLL
            for (int n = 0; n < kTileN; ++n) {
              acc[m][n][part * 2] += bias;
              acc[m][n][part * 2 + 1] += bias;
            }
          }
        }
      }
      if (closes) {
        find_tokens(s, expert, slots);
        MOEJIT_UNROLL
        for (int n = 0; n < kTileN; ++n) {
          MOEJIT_UNROLL
          for (u32 c = 0; c < 2; ++c) {
            const i32 of =
                static_cast<i32>(shfl_u32(static_cast<u32>(slots[n]), ((lane & 3u) * 2 + c) * 4));
            f32 weight = 0.0f;
            if (of >= 0) weight = kWeightOnInput ? 1.0f : slot_weight(a, of);
            MOEJIT_UNROLL
            for (int m = 0; m < kTileM; ++m) {
              // A token without the expert has a zero column, but for the bias.
              if (of >= 0) {
                total[m][n][c] += weight * acc[m][n][c];
                total[m][n][2 + c] += weight * acc[m][n][2 + c];
              }
            }
          }
        }
        zero(acc);
      }
      steps.next();
    }
    const u32 buffer = s.reduce + (turn & 1u) * (kReduceBytes / 2);
    store_fragments(buffer, warp, total);
    block_sync();
    MOEJIT_NO_UNROLL
    for (int f = static_cast<int>((warp + turn) % kWarps); f < kFragments; f += kWarps) {
      const int m = f / kTileN;
      const int n = f % kTileN;
      const f32x4 sum = reduce_fragment(buffer, f);
      MOEJIT_UNROLL
      for (int part = 0; part < 2; ++part) {
        const int row = unit_row2(tile, m * 16 + part * 8 + static_cast<int>(lane >> 2));
        MOEJIT_UNROLL
        for (int c = 0; c < 2; ++c) {
          const i64 token = n * 8 + static_cast<int>(lane & 3u) * 2 + c;
          if (row < 0 || token >= a.num_tokens) continue;
          const f32 v = part == 0 ? (c == 0 ? sum.x : sum.y) : (c == 0 ? sum.z : sum.w);
          store_element(a.out, token * kHiddenSize + row, v);
        }
      }
    }
  }
}

}  // namespace moe
