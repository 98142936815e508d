// The work of the decode kernels: each touched expert's weights are read once; a block finds its
// experts and their rows from topk_ids itself, so there is no sort launch.
#pragma once

#include "kernels/route.h"
#include "kernels/stream_ring.h"

namespace moe {

// A unit of gate+up: kTileM times 8 gate rows and their 8 up rows (16 rows of h where not gated).
constexpr int kUnitH = kTileM * (kGated ? 8 : 16);
constexpr int kGateTiles = ceil_div(kIntermediateSize, kUnitH);
constexpr int kPiecesH = kHiddenSize / kPiece;
constexpr int kStagesH = ceil_div(kHiddenSize, kStageK);
// A unit of down: kTileM * 16 rows of w2.
constexpr int kUnitOut = kTileM * 16;
constexpr int kDownTiles = ceil_div(kHiddenSize, kUnitOut);
constexpr int kPiecesI = kIntermediateSize / kPiece;
constexpr int kStagesI = ceil_div(kIntermediateSize, kStageK);

// Row of w13 in row m (0..kTileM*16-1) of the unit at `tile`, or -1 past the end. Rows 0-7 of each
// 16 are gate rows and 8-15 the same up rows, so that one lane holds both results.
MOEJIT_DEVICE int unit_row13(int tile, int m) {
  if constexpr (kGated) {
    const int i = tile * kUnitH + (m >> 4) * 8 + (m & 7);
    if (i >= kIntermediateSize) return -1;
    return (m & 8) != 0 ? up_row(i) : gate_row(i);
  } else {
    const int i = tile * kUnitH + m;
    return i < kIntermediateSize ? i : -1;
  }
}
MOEJIT_DEVICE int unit_row2(int tile, int m) {
  const int n = tile * kUnitOut + m;
  return n < kHiddenSize ? n : -1;
}

// Walks a block's units one stage at a time, ahead of the products, and fills the ring.
template <bool kGateUp>
struct Feeder {
  static constexpr int kRows = kGateUp ? kW13Rows : kHiddenSize;
  static constexpr int kPieces = kGateUp ? kPiecesH : kPiecesI;
  Walk<kGateUp> walk;
  Share share;
  int stage;  // of the current unit, 0..share.count-1
  int slot;   // of the ring
  u32 ring;
  u64 policy;
  const u8* weights;
  i32 row[kTileM * 4];  // rows of the current unit that this lane copies; -1: none
  const u8* base;       // of the current expert

  MOEJIT_DEVICE void enter_unit() {
    if (walk.done()) return;
    base = weights + static_cast<i64>(walk.expert) * kRows * kPieces * 16;
    MOEJIT_UNROLL
    for (int r = 0; r < kTileM * 4; ++r) {
      const int m = r * 4 + static_cast<int>(lane_id() >> 3);
      row[r] = kGateUp ? unit_row13(walk.tile, m) : unit_row2(walk.tile, m);
    }
  }
  // Issues the next stage, or an empty group when there is none left. Warp-collective.
  MOEJIT_DEVICE void issue() {
    if (!walk.done() && share.count > 0) {
      const u32 to = ring + slot * kStageBytes;
      const u32 column = lane_id() & 7u;
      const int piece = (share.first + stage) * 8 + static_cast<int>(column);
      MOEJIT_UNROLL
      for (int r = 0; r < kTileM * 4; ++r) {
        const u32 m = r * 4 + (lane_id() >> 3);
        const bool valid = row[r] >= 0 && piece < kPieces;
        const u8* from = valid ? base + (static_cast<i64>(row[r]) * kPieces + piece) * 16 : weights;
        cp_async16_hint(to + (m >> 4) * 2048 + ring_offset(m & 15u, column), from, valid, policy);
      }
      slot = slot + 1 == kRing ? 0 : slot + 1;
      if (++stage == share.count) {
        stage = 0;
        walk.next();
        enter_unit();
      }
    }
    cp_async_commit();
  }
};

template <bool kGateUp>
MOEJIT_DEVICE Feeder<kGateUp> make_feeder(const MoeArgs& a, const StreamShared& s,
                                          const Walk<kGateUp>& walk, Share share) {
  Feeder<kGateUp> f;
  f.walk = walk;
  f.share = share;
  f.stage = 0;
  f.slot = 0;
  f.ring = s.ring;
  f.policy = policy_evict_first();
  f.weights = static_cast<const u8*>(kGateUp ? a.w13 : a.w2);
  f.enter_unit();
  return f;
}

// Products of one unit over this warp's share. `slot` is the ring's read position.
template <bool kGateUp, typename AnyFeeder>
MOEJIT_DEVICE void multiply_unit(AnyFeeder& feeder, Share share, const TokenRows& tokens, int* slot,
                                 f32 (&acc)[kTileM][kTileN][4]) {
  constexpr int kPieces = kGateUp ? kPiecesH : kPiecesI;
  zero(acc);
  u32x4 x[kTileN][2];
  if (share.count > 0) load_tokens(tokens, share.first, kPieces, x);
  MOEJIT_NO_UNROLL
  for (int i = 0; i < share.count; ++i) {
    u32x4 ahead[kTileN][2];
    if (i + 1 < share.count) load_tokens(tokens, share.first + i + 1, kPieces, ahead);
    cp_async_wait<kRing - 2>();
    warp_sync();
    feeder.issue();  // into the slot that the previous step read
    multiply_stage(feeder.ring + *slot * kStageBytes, x, acc);
    *slot = *slot + 1 == kRing ? 0 : *slot + 1;
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      x[n][0] = ahead[n][0];
      x[n][1] = ahead[n][1];
    }
  }
}

// The units of a walk: x, w13 -> h [T * kSlots, I] in the order of the slots. `slot` is the ring's
// read position. Block-collective.
template <typename AnyFeeder>
MOEJIT_DEVICE void gate_up_units(const MoeArgs& a, const StreamShared& s, const Plan& plan,
                                 Walk<true> walk, AnyFeeder& feeder, Share share, int* slot) {
  const u32 warp = warp_id();
  const u32 lane = lane_id();
  u8* h = region(a, kRegion_h);
  int chunk = -1;
  i32 my_slot = -1;  // of row `lane` of the chunk
  TokenRows tokens;
  for (u32 turn = 0; !walk.done(); walk.next(), ++turn) {
    if (walk.chunk != chunk) {
      chunk = walk.chunk;
      my_slot = find_rows(a, s, plan, walk.expert, walk.first_row());
      MOEJIT_UNROLL
      for (int n = 0; n < kTileN; ++n) {
        const i32 row_slot =
            static_cast<i32>(shfl_u32(static_cast<u32>(my_slot), n * 8 + (lane >> 2)));
        tokens.row[n] = row_slot < 0
                            ? nullptr
                            : at(a.x, static_cast<i64>(row_slot / kSlots) * kHiddenSize * kElement);
      }
    }
    f32 acc[kTileM][kTileN][4];
    multiply_unit<true>(feeder, share, tokens, slot, acc);
    const u32 buffer = s.reduce + (turn & 1u) * (kReduceBytes / 2);
    store_fragments(buffer, warp, acc);
    block_sync();
    // The next unit writes the other buffer; this one is free again after the next barrier.
    MOEJIT_NO_UNROLL
    for (int f = static_cast<int>((warp + turn) % kWarps); f < kFragments; f += kWarps) {
      const int m = f / kTileN;
      const int n = f % kTileN;
      const f32x4 sum = reduce_fragment(buffer, f);
      MOEJIT_UNROLL
      for (int c = 0; c < 2; ++c) {
        const i32 out =
            static_cast<i32>(shfl_u32(static_cast<u32>(my_slot), n * 8 + (lane & 3u) * 2 + c));
        if (out < 0) continue;
        f32 top = c == 0 ? sum.x : sum.y;
        f32 low = c == 0 ? sum.z : sum.w;
        if constexpr (kWeightOnInput) {
          const f32 weight = slot_weight(a, out);
          top *= weight;
          low *= weight;
        }
        const int i = walk.tile * kUnitH + m * (kGated ? 8 : 16) + static_cast<int>(lane >> 2);
        if constexpr (kGated) {
          if (i >= kIntermediateSize) continue;
          if constexpr (kBias) {
            top += bias13(a, walk.expert, gate_row(i));
            low += bias13(a, walk.expert, up_row(i));
          }
          store_element(h, static_cast<i64>(out) * kIntermediateSize + i, activate(top, low));
        } else {
          MOEJIT_UNROLL
          for (int part = 0; part < 2; ++part) {
            if (i + part * 8 >= kIntermediateSize) continue;
            f32 v = part == 0 ? top : low;
            if constexpr (kBias) v += bias13(a, walk.expert, i + part * 8);
            store_element(h, static_cast<i64>(out) * kIntermediateSize + i + part * 8,
                          activate(v, v));
          }
        }
      }
    }
  }
}

// out[t] for the rows of one tile: the partial results of each token in the order of its slots.
MOEJIT_DEVICE void combine_tile(const MoeArgs& a, const u8* y, int tile) {
  constexpr int kPairs = kUnitOut / 2;
  const i64 work = a.num_tokens * kPairs;
  for (i64 w = thread_id(); w < work; w += kWarps * 32) {
    const i64 token = w / kPairs;
    const int column = tile * kUnitOut + static_cast<int>(w - token * kPairs) * 2;
    if (column >= kHiddenSize) continue;
    f32 lo = 0.0f, hi = 0.0f;
    MOEJIT_NO_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      const i64 slot = token * kSlots + j;
      if (slot_expert(a, slot) < 0) continue;
      const f32x2 v = ldg_f32x2(y + (slot * kHiddenSize + column) * 4);
      lo += v.x;
      hi += v.y;
    }
    stg_u32(at(a.out, (token * kHiddenSize + column) * 2), pack2(lo, hi));
  }
}

// No expert of this process: zeros.
MOEJIT_DEVICE void write_zeros(const MoeArgs& a) {
  for (int tile = static_cast<int>(block_id()); tile < kDownTiles;
       tile += static_cast<int>(block_count())) {
    combine_tile(a, region(a, kRegion_y), tile);
  }
}

// The units of a walk: h, w2 -> out; the block that completes a row tile combines it.
template <typename AnyFeeder>
MOEJIT_DEVICE void down_units(const MoeArgs& a, const StreamShared& s, const Plan& plan,
                              Walk<false> walk, AnyFeeder& feeder, Share share, int* slot) {
  const u32 warp = warp_id();
  const u32 lane = lane_id();
  u32* counters = reinterpret_cast<u32*>(region(a, kRegion_counters));
  const u8* h = region(a, kRegion_h);
  u8* y = region(a, kRegion_y);
  u32 units_done = 0;  // of the current row tile
  for (u32 turn = 0; !walk.done(); ++turn) {
    const i32 my_slot = find_rows(a, s, plan, walk.expert, walk.first_row());
    TokenRows tokens;
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      const i32 row_slot =
          static_cast<i32>(shfl_u32(static_cast<u32>(my_slot), n * 8 + (lane >> 2)));
      tokens.row[n] =
          row_slot < 0 ? nullptr : h + static_cast<i64>(row_slot) * kIntermediateSize * kElement;
    }
    f32 acc[kTileM][kTileN][4];
    multiply_unit<false>(feeder, share, tokens, slot, acc);
    const u32 buffer = s.reduce + (turn & 1u) * (kReduceBytes / 2);
    store_fragments(buffer, warp, acc);
    block_sync();
    MOEJIT_NO_UNROLL
    for (int f = static_cast<int>((warp + turn) % kWarps); f < kFragments; f += kWarps) {
      const int m = f / kTileN;
      const int n = f % kTileN;
      const f32x4 sum = reduce_fragment(buffer, f);
      MOEJIT_UNROLL
      for (int c = 0; c < 2; ++c) {
        const i32 from =
            static_cast<i32>(shfl_u32(static_cast<u32>(my_slot), n * 8 + (lane & 3u) * 2 + c));
        if (from < 0) continue;
        const f32 weight = kWeightOnInput ? 1.0f : slot_weight(a, from);
        MOEJIT_UNROLL
        for (int part = 0; part < 2; ++part) {
          const int column = walk.tile * kUnitOut + m * 16 + part * 8 + static_cast<int>(lane >> 2);
          if (column >= kHiddenSize) continue;
          f32 v = part == 0 ? (c == 0 ? sum.x : sum.y) : (c == 0 ? sum.z : sum.w);
          if constexpr (kBias)
            v += load_element(a.b2, static_cast<i64>(walk.expert) * kHiddenSize + column);
          stg_f32(y + (static_cast<i64>(from) * kHiddenSize + column) * 4, v * weight);
        }
      }
    }
    const int tile = walk.tile;
    ++units_done;
    walk.next();
    if (!walk.done() && walk.tile == tile) continue;
    // The last of this block's units of the row tile: count them; the block that completes the tile
    // has every partial result before it.
    fence_gpu();
    block_sync();
    if (thread_id() == 0) {
      sts_u32(s.sums, atomic_add_acq_rel(counters + tile, units_done));
    }
    block_sync();
    const bool last = lds_u32(s.sums) + units_done == static_cast<u32>(plan.chunks);
    if (last) {
      fence_gpu();
      combine_tile(a, y, tile);
    }
    units_done = 0;
  }
}

}  // namespace moe
