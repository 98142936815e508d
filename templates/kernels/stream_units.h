// The work of the decode kernels: each touched expert's weights are read once.
#pragma once

#include "kernels/stream_walk.h"

namespace moe {

// Products of one unit over this warp's share.
template <int kPieces, typename AnyFeeder>
MOEJIT_DEVICE void multiply_unit(AnyFeeder& feeder, Share share, const TokenRows& tokens,
                                 Reader& reader, f32 (&acc)[kTileM][kTileN][4]) {
  zero(acc);
  u32x4 x[kTileN][2];
  if (share.count > 0) load_tokens<kPieces>(tokens, share.first, x);
  MOEJIT_NO_UNROLL
  for (int i = 0; i < share.count; ++i) {
    u32x4 ahead[kTileN][2];
    if (i + 1 < share.count) load_tokens<kPieces>(tokens, share.stage(i + 1), ahead);
    cp_async_wait<kRing - 2>();
    warp_sync();
    feeder.issue();  // into the slot that the previous step read
    multiply_stage(reader, x, acc);
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      x[n][0] = ahead[n][0];
      x[n][1] = ahead[n][1];
    }
  }
}

// The units of a walk: x, w13 -> h [T * kSlots, I] in the order of the slots. Block-collective.
template <typename AnyFeeder>
MOEJIT_DEVICE void gate_up_units(const MoeArgs& a, const StreamShared& s, const Plan& plan,
                                 GateWalk walk, AnyFeeder& feeder, Share share, Reader& reader) {
  const u32 warp = warp_id();
  const u32 lane = lane_id();
  u8* h = region(a, kRegion_h);
  int chunk = -1;
  i32 my_slot = -1;  // of row `lane` of the chunk
  TokenRows tokens;
  for (u32 turn = 0; !walk.done(); walk.next(), ++turn) {
    if (walk.chunk != chunk) {
      chunk = walk.chunk;
      my_slot = find_rows(a, s, plan, chunk, walk.expert);
      MOEJIT_UNROLL
      for (int n = 0; n < kTileN; ++n) {
        const i32 row_slot =
            static_cast<i32>(shfl_u32(static_cast<u32>(my_slot), n * 8 + (lane >> 2)));
        tokens.row[n] = row_slot < 0 ? nullptr : token_row(a.x, row_slot / kSlots, kPitchH);
      }
    }
    f32 acc[kTileM][kTileN][4];
    multiply_unit<kPiecesH>(feeder, share, tokens, reader, acc);
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
        const int of_unit = m * (kGated ? 8 : 16) + static_cast<int>(lane >> 2);
        const int i = walk.row + of_unit;
        if constexpr (kGated) {
          if (of_unit >= walk.rows) continue;
          if constexpr (kBias) {
            top += bias13(a, walk.expert, gate_row(i));
            low += bias13(a, walk.expert, up_row(i));
          }
          store_element(h, static_cast<i64>(out) * kIntermediateSize + i, activate(top, low));
        } else {
          MOEJIT_UNROLL
          for (int part = 0; part < 2; ++part) {
            if (of_unit + part * 8 >= walk.rows) continue;
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
                              DownWalk walk, AnyFeeder& feeder, Share share, Reader& reader) {
  const u32 warp = warp_id();
  const u32 lane = lane_id();
  u32* counters = reinterpret_cast<u32*>(region(a, kRegion_counters));
  const u8* h = region(a, kRegion_h);
  u8* y = region(a, kRegion_y);
  u32 units_done = 0;  // of the current row tile
  for (u32 turn = 0; !walk.done(); ++turn) {
    const i32 my_slot = find_rows(a, s, plan, walk.chunk, walk.expert);
    TokenRows tokens;
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      const i32 row_slot =
          static_cast<i32>(shfl_u32(static_cast<u32>(my_slot), n * 8 + (lane >> 2)));
      tokens.row[n] = row_slot < 0 ? nullptr : token_row(h, row_slot, kPitchI);
    }
    f32 acc[kTileM][kTileN][4];
    multiply_unit<kPiecesI>(feeder, share, tokens, reader, acc);
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
