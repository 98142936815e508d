// Decode on AMD's matrix cores: entries `moe_wave_gate_up` and `moe_wave_down`. Weights go from
// global memory straight into the registers that the matrix cores read, kDepth pieces ahead and on
// across units, so that the stream never drains; the waves of a block split the reduction.
#pragma once

#include "kernels/combine.h"
#include "kernels/mfma.h"
#include "kernels/route.h"

namespace moe {

constexpr int kWaves = kSched_waves;
constexpr int kTokens16 = kSched_tile_m / 16;
constexpr int kRows16 = kSched_tile_n / 16;
constexpr int kDepth = kSched_depth;
constexpr int kStreamThreads = kWaves * MOEJIT_WAVE;
constexpr int kGroups = Mfma<16>::kGroups;
constexpr int kQuads = Mfma<16>::kQuads;
constexpr int kFragments = kRows16 * kTokens16;
constexpr int kReduceBytes = kWaves * kFragments * 1024;  // of one unit

// A unit: kRows16 times 16 weight rows and up to kSched_tile_m tokens of one expert.
constexpr int kUnitH = kRows16 * (kGated ? 8 : 16);
constexpr int kUnitsGate = ceil_div(kIntermediateSize, kUnitH);
constexpr int kUnitsDown = ceil_div(kHiddenSize, kRows16 * 16);

template <bool kGateUp>
struct Stream {
  static constexpr int kLength = kGateUp ? kHiddenSize : kIntermediateSize;
  static constexpr int kRows = kGateUp ? kW13Rows : kHiddenSize;
  static constexpr int kRowBytes = kLength * kElement;
  static constexpr int kPieces = kLength / kPiece;
  static constexpr int kSteps = ceil_div(kPieces, kGroups);  // a piece of every row for each group
  static constexpr int kShare = ceil_div(kSteps, kWaves);
  static constexpr int kRounds = ceil_div(kShare, kDepth);
  // A wave may have steps that do not exist: their operands become zeros.
  static constexpr bool kExact =
      kPieces % kGroups == 0 && kSteps % kWaves == 0 && kShare % kDepth == 0;
  static constexpr int kUnits = kGateUp ? kUnitsGate : kUnitsDown;

  const u8* source;
  const u8* weights;
  int item, end;           // unit that is being fetched, and the first that is not this block's
  int round;               // of that unit
  int tile_index;          // of the unit's tokens in the plan, -1 before the first
  Tile tile;               // the unit
  const u8* w[kRows16];    // this lane's weight row of each 16
  const u8* x[kTokens16];  // and its token row
  u32x4 held_w[kDepth][kRows16];
  u32x4 held_x[kDepth][kTokens16];

  // Row of the weights in row m (0..15) of the unit's 16-row tile t; past the end, row 0. Where
  // gated, a lane's four rows are two gate rows and the same up rows.
  MOEJIT_DEVICE static int row_of(int unit, int t, int m) {
    if constexpr (kGateUp && kGated) {
      const int i = (unit * kRows16 + t) * 8 + (m >> 2) * 2 + (m & 1);
      if (i >= kIntermediateSize) return 0;
      return (m & 2) != 0 ? up_row(i) : gate_row(i);
    } else {
      const int row = (unit * kRows16 + t) * 16 + m;
      return row < kRows ? row : 0;
    }
  }
  MOEJIT_DEVICE void enter_unit(const MoeArgs& a) {
    const int lane = static_cast<int>(wave_lane()) & 15;
    const int group = static_cast<int>(wave_lane()) >> 4;
    const int index = item / kUnits;
    tile.n = item - index * kUnits;
    // Neighbouring units mostly share their tokens; a look-up waits for all loads before it.
    if (index != tile_index) {
      tile_index = index;
      const u32x4 t = ldk_u32x4(plan_tiles(a) + index);
      const int before = (index - static_cast<int>(t.y)) * kPlanTile;
      tile.expert = entry_expert(t);
      tile.first_row = static_cast<int>(t.w) + before;
      tile.rows = min_of(kPlanTile, entry_rows(t) - before);
      tile.single = t.z == 1;
      MOEJIT_UNROLL
      for (int m = 0; m < kTokens16; ++m) {
        // A token that the unit does not have is its first one again.
        const int r = m * 16 + lane < tile.rows ? m * 16 + lane : 0;
        i64 line = tile.first_row + r;
        if (kGateUp) line = ldg_i32(plan_rows(a) + line) / kSlots;
        x[m] = source + line * kRowBytes + group * 16;
      }
    }
    const u8* base = weights + static_cast<i64>(tile.expert) * kRows * kRowBytes + group * 16;
    MOEJIT_UNROLL
    for (int t = 0; t < kRows16; ++t) {
      w[t] = base +
             static_cast<i64>(row_of(tile.n, t, static_cast<int>(weight_lane(lane)))) * kRowBytes;
    }
  }
  // Whether step d of the round exists for this lane.
  MOEJIT_DEVICE static bool exists(int of_round, int d, int* step) {
    const int mine = of_round * kDepth + d;
    const int wave = static_cast<int>(wave_id());
    const int first = wave * kSteps / kWaves;
    const int count = (wave + 1) * kSteps / kWaves - first;
    *step = first + mine;
    const int piece = (first + mine) * kGroups + (static_cast<int>(wave_lane()) >> 4);
    return kExact || (static_cast<int>(mine < count) & static_cast<int>(piece < kPieces)) != 0;
  }
  // Zeros for what does not exist.
  MOEJIT_DEVICE static u32x4 kept(bool real, u32x4 v) {
    const u32 mask = kExact || real ? 0xffffffffu : 0u;
    return {v.x & mask, v.y & mask, v.z & mask, v.w & mask};
  }
  // Without a branch: where paths meet, the compiler would wait for every load under way.
  MOEJIT_DEVICE void fetch(int d) {
    int step;
    const bool real = exists(round, d, &step);
    // What does not exist is the row's first piece. By a mask, since a choice becomes a branch.
    const int mine = static_cast<int>(wave_lane() >> 4) * 16;
    const i64 offset = ((step * (kGroups * 16) + mine) & (real ? -1 : 0)) - mine;
    MOEJIT_UNROLL
    for (int t = 0; t < kRows16; ++t) held_w[d][t] = ldg_stream(w[t] + offset, 0);
    MOEJIT_UNROLL
    for (int t = 0; t < kTokens16; ++t) held_x[d][t] = ldg_u32x4(x[t] + offset);
    in_order();
  }
  // After the last unit comes its first round again, which nobody uses.
  MOEJIT_DEVICE void next_round(const MoeArgs& a) {
    if (++round < kRounds) return;
    round = 0;
    if (item + 1 >= end) return;
    ++item;
    enter_unit(a);
  }

  // False where the block has no unit.
  MOEJIT_DEVICE bool start(const MoeArgs& a) {
    source = kGateUp ? static_cast<const u8*>(a.x) : region(a, kRegion_h);
    weights = static_cast<const u8*>(kGateUp ? a.w13 : a.w2);
    const i64 all = static_cast<i64>(ldk_i32(plan_counts(a))) * kUnits;
    const i64 block = die_order();
    item = static_cast<int>(all * block / block_count());
    end = static_cast<int>(all * (block + 1) / block_count());
    round = 0;
    tile_index = -1;
    if (item >= end) return false;
    enter_unit(a);
    MOEJIT_UNROLL
    for (int d = 0; d < kDepth; ++d) fetch(d);
    return true;
  }
};

// h of one token and of rows 4 * quad to 4 * quad + 3 of the unit's 16-row tile t.
MOEJIT_DEVICE void finish_gate(const MoeArgs& a, const Tile& tile, int t, int quad, i64 row,
                               f32x4 v) {
  const HRow h = h_row(a, row);
  if constexpr (kGated) {
    const int i = (tile.n * kRows16 + t) * 8 + quad * 2;
    if (i >= kIntermediateSize) return;
    store_pair(h.line, i, h_of(a, tile.expert, i, h.weight, v.x, v.z),
               h_of(a, tile.expert, i + 1, h.weight, v.y, v.w));
  } else {
    const int i = (tile.n * kRows16 + t) * 16 + quad * 4;
    if (i >= kIntermediateSize) return;
    store_quad(h.line, i, h_of(a, tile.expert, i, h.weight, v.x, 0.0f),
               h_of(a, tile.expert, i + 1, h.weight, v.y, 0.0f),
               h_of(a, tile.expert, i + 2, h.weight, v.z, 0.0f),
               h_of(a, tile.expert, i + 3, h.weight, v.w, 0.0f));
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void stream_mfma(const MoeArgs& a) {
  using S = Stream<kGateUp>;
  const u32 reduce = shared_base();
  const u32 lane = wave_lane();
  const int wave = static_cast<int>(wave_id());
  S stream;
  if (!stream.start(a)) return;
  const int units = stream.end - stream.item;
  MOEJIT_NO_UNROLL
  for (u32 turn = 0; static_cast<int>(turn) < units; ++turn) {
    const Tile tile = stream.tile;  // the fetching runs ahead of it below
    typename Mfma<16>::Acc acc[kRows16][kTokens16];
    MOEJIT_UNROLL
    for (int t = 0; t < kRows16; ++t) {
      MOEJIT_UNROLL
      for (int m = 0; m < kTokens16; ++m) clear(acc[t][m]);
    }
    MOEJIT_NO_UNROLL
    for (int round = 0; round < S::kRounds; ++round) {
      stream.next_round(a);
      MOEJIT_UNROLL
      for (int d = 0; d < kDepth; ++d) {
        int step;
        const bool real = S::exists(round, d, &step);
        MOEJIT_UNROLL
        for (int t = 0; t < kRows16; ++t) {
          const Operand w = operand_of(S::kept(real, stream.held_w[d][t]));
          MOEJIT_UNROLL
          for (int m = 0; m < kTokens16; ++m) {
            product(acc[t][m], w, operand_of(S::kept(real, stream.held_x[d][m])));
          }
        }
        stream.fetch(d);
      }
    }
    // The next unit writes the other buffer; this one is free again after the next barrier.
    const u32 buffer = reduce + (turn & 1u) * kReduceBytes;
    const auto place = [&](int part, int f, int q) {
      return buffer + (((part * kFragments + f) * kQuads + q) * MOEJIT_WAVE + lane) * 16;
    };
    const auto quad_of = [&](int f, int q) -> f32x4 {
      const auto& d = acc[f / kTokens16][f % kTokens16];
      return {d[q * 4], d[q * 4 + 1], d[q * 4 + 2], d[q * 4 + 3]};
    };
    if constexpr (kWaves > 1) {
      MOEJIT_UNROLL
      for (int f = 0; f < kFragments; ++f) {
        MOEJIT_UNROLL
        for (int q = 0; q < kQuads; ++q) sts_f32x4(place(wave, f, q), quad_of(f, q));
      }
      block_sync();
    }
    MOEJIT_UNROLL
    for (int f = 0; f < kFragments; ++f) {
      if (kWaves > 1 && (f + static_cast<int>(turn)) % kWaves != wave) continue;
      const int r = f % kTokens16 * 16 + static_cast<int>(lane & 15u);
      const int t = f / kTokens16, group = static_cast<int>(lane >> 4);
      MOEJIT_UNROLL
      for (int q = 0; q < kQuads; ++q) {
        f32x4 v = quad_of(f, q);
        if constexpr (kWaves > 1) {
          v = {0.0f, 0.0f, 0.0f, 0.0f};
          MOEJIT_UNROLL
          for (int part = 0; part < kWaves; ++part) {
            const f32x4 p = lds_f32x4(place(part, f, q));
            v.x += p.x;
            v.y += p.y;
            v.z += p.z;
            v.w += p.w;
          }
        }
        if (r >= tile.rows) continue;
        const int quad = q * kGroups + group;
        if constexpr (kGateUp) {
          finish_gate(a, tile, t, quad, tile.first_row + r, v);
        } else {
          finish_y(a, tile.expert, y_row(a, tile.first_row + r),
                   (tile.n * kRows16 + t) * 16 + quad * 4, v);
        }
      }
    }
  }
}

}  // namespace moe

MOEJIT_KERNEL(moe_wave_gate_up, moe::kStreamThreads, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  moe::stream_mfma<true>(a);
}

MOEJIT_KERNEL(moe_wave_down, moe::kStreamThreads, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  moe::stream_mfma<false>(a);
}
