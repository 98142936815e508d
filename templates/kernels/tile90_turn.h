// What becomes of the accumulators of tile90_swap.h: h, or a partial result y of each slot. A
// thread holds two channels (lane / 4 and eight after it) of two rows (2 * (lane % 4) and the next)
// of each fragment of 16 channels and 8 rows. A warpgroup turns a slice of rows through shared
// memory and stores lines of 128 bytes and more: stores of 32-byte sectors took a third of a
// layer's time.
#pragma once

#include "kernels/tile90_ring.h"

namespace moe {

constexpr int kLanesRows = ceil_div(kBm, 32);
constexpr u32 kFirstFinishBarrier = kProducerBarrier + 1;  // one for each consumer warpgroup

// Slots and routing weights of rows lane + 32 * j of a tile, looked up beside its products. Rows
// that pad the tile stand for its last one: what has no condition needs no branch.
template <bool kWeighted, bool kSlotted>
struct LaneRows {
  i32 slot[kLanesRows];
  f32 weight[kLanesRows];
  MOEJIT_DEVICE void find(const MoeArgs& a, const Tile90& tile) {
    MOEJIT_UNROLL
    for (int j = 0; j < kLanesRows; ++j) {
      const int r = min_of(j * 32 + static_cast<int>(lane_id()), tile.rows - 1);
      slot[j] = kWeighted || kSlotted ? ldg_i32(plan_rows(a) + tile.first_row + r) : 0;
    }
  }
  MOEJIT_DEVICE void weigh(const MoeArgs& a) {
    MOEJIT_UNROLL
    for (int j = 0; j < kLanesRows; ++j) {
      if constexpr (kWeighted) opaque(slot[j]);  // not waited for before the first products
      weight[j] = kWeighted ? slot_weight(a, slot[j]) : 1.0f;
    }
  }
  // Of row 2 * (lane % 4) + c of fragment f; warp-collective.
  MOEJIT_DEVICE f32 of(int f, int c) const {
    if constexpr (!kWeighted) return 1.0f;
    return shfl_f32(weight[f / 4], static_cast<u32>(f % 4 * 8 + c) + (lane_id() & 3u) * 2);
  }
  // Slot of row 32 * j + r; warp-collective.
  MOEJIT_DEVICE i32 slot_of(int j, int r) const {
    return static_cast<i32>(shfl_u32(static_cast<u32>(slot[j]), static_cast<u32>(r)));
  }
};

// kBlocks * 64 channels of the tile's rows, kWide bytes each, of one warpgroup: value(block, f,
// which, c, weight) is channel block * 64 + warp * 16 + which * 8 + lane / 4 of row c of fragment
// f, whose routing weight is `weight`; line(j, r) is where the channels of row 32 * j + r of the
// tile go (warp-collective), `channels` of them exist; `kept`: to stay in the cache.
template <int kBlocks, int kWide, typename Weights, typename Value, typename Line>
MOEJIT_DEVICE void store_turned(const Tile90& tile, u32 warpgroup, u32 staged, int channels,
                                bool kept, const Weights& weights, Value value, Line line) {
  constexpr int kRowBytes = kBlocks * 64 * kWide;
  constexpr int kPieces = kRowBytes / 16;
  constexpr int kRows = min_of(32, min_of(kBm, 4 * kStagedBytes / kRowBytes));  // of a slice
  constexpr int kRounds = ceil_div(kRows * kPieces, 128);
  constexpr int kAtOnce = kWide == 2 ? 2 : 1;  // fragments, whose shuffles overlap
  static_assert(kBlocks == 2 || (kAtOnce == 2 && kWide == 2));
  const u32 lane = lane_id(), warp = warp_id() & 3u;
  const u64 policy = policy_for(kept);
  MOEJIT_UNROLL
  for (int first = 0; first < kBm; first += kRows) {
    if (first >= tile.rows) break;
    u8* to[kRounds];  // of the pieces that this thread may store
    u32 stored = 0;   // bit i: it does
    MOEJIT_UNROLL
    for (int i = 0; i < kRounds; ++i) {
      const int at = i * 128 + static_cast<int>(warp * 32 + lane);
      const int row = first + at / kPieces, piece = at % kPieces;
      if (at < kRows * kPieces && row < tile.rows && piece * (16 / kWide) < channels)
        stored |= 1u << i;
      to[i] = line(first / 32, row % 32) + piece * 16;
    }
    MOEJIT_UNROLL
    for (int f = first / 8; f < (first + kRows) / 8; f += kAtOnce) {
      if (f * 8 >= tile.rows) break;
      f32 weight[kAtOnce][2];
      MOEJIT_UNROLL
      for (int at = 0; at < kAtOnce * 2; ++at)
        weight[at / 2][at % 2] = weights.of(f + at / 2, at % 2);
      MOEJIT_UNROLL
      for (int at = 0; kWide == 2 && at < kAtOnce * kBlocks / 2; ++at) {
        // Four 8x8 matrices: both halves of 16 channels, of two fragments or of two blocks.
        const u32 m = lane >> 3;
        u32 r[4];
        MOEJIT_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int of = kBlocks == 1 ? i / 2 : at, block = kBlocks == 1 ? 0 : i / 2;
          r[i] = pack2(value(block, f + of, i % 2, 0, weight[of][0]),
                       value(block, f + of, i % 2, 1, weight[of][1]));
        }
        const u32 row = (f + (kBlocks == 1 ? m / 2 : at)) * 8 - first + (lane & 7u);
        const u32 piece = (kBlocks == 1 ? 0u : m / 2 * 8) + warp * 2 + m % 2;
        stmatrix_x4_trans(staged + row * kRowBytes + ((piece ^ (row & 7u)) << 4), r);
      }
      MOEJIT_UNROLL
      for (int at = 0; kWide == 4 && at < kAtOnce * kBlocks * 4; ++at) {
        const int of = at / (kBlocks * 4), block = at / 4 % kBlocks, which = at / 2 % 2, c = at % 2;
        const u32 row = (f + of) * 8 - first + (lane & 3u) * 2 + c;
        const u32 eight = block * 8 + warp * 2 + which;  // of channels: 32 bytes
        sts_f32(staged + row * kRowBytes + ((eight ^ ((row >> 1) & 3u)) << 5) + (lane >> 2) * 4,
                value(block, f + of, which, c, weight[of][c]));
      }
    }
    bar_sync(kFirstFinishBarrier + warpgroup, 128);
    MOEJIT_UNROLL
    for (int i = 0; i < kRounds; ++i) {
      const u32 at = i * 128 + warp * 32 + lane;
      const u32 row = at / kPieces, piece = at % kPieces;
      const u32 swapped = kWide == 2 ? piece ^ (row & 7u) : piece ^ ((row >> 1 & 3u) << 1);
      if ((stored >> i & 1u) != 0)
        stg_u32x4_hint(to[i], lds_u32x4(staged + row * kRowBytes + swapped * 16), policy);
    }
    bar_sync(kFirstFinishBarrier + warpgroup, 128);
  }
}

// `staged`: 4 * kStagedBytes of this warpgroup.
template <typename Rows>
MOEJIT_DEVICE void finish_gate_up_turned(const MoeArgs& a, const Tile90& tile, const Rows& rows,
                                         u32 warpgroup, u32 staged, const f32 (&lo)[kBm / 2],
                                         const f32 (&hi)[kBm / 2]) {
  constexpr int kBlocks = kGated ? 1 : 2;
  const int first = tile.n * kHColumns + static_cast<int>(columns_of(warpgroup)) * kBlocks * 64;
  f32 gate_bias[kBlocks][2] = {}, up_bias[kBlocks][2] = {};
  if constexpr (kBias) {
    MOEJIT_UNROLL
    for (int at = 0; at < kBlocks * 2; ++at) {
      const int i = first + at / 2 * 64 + static_cast<int>(warp_id() & 3u) * 16 + at % 2 * 8 +
                    static_cast<int>(lane_id() >> 2);
      if (i >= kIntermediateSize) continue;
      gate_bias[at / 2][at % 2] = bias13(a, tile.expert, gate_row(i));
      if constexpr (kGated) up_bias[at / 2][at % 2] = bias13(a, tile.expert, up_row(i));
    }
  }
  u8* h = region(a, kRegion_h) + static_cast<i64>(first) * 2;
  store_turned<kBlocks, 2>(
      tile, warpgroup, staged, kIntermediateSize - first, Keep90::h(a.num_tokens), rows,
      [&](int block, int f, int which, int c, f32 weight) {
        const int j = f * 4 + which * 2 + c;
        return h_of(block == 0 ? lo[j] : hi[j], kGated ? hi[j] : 0.0f, weight,
                    gate_bias[block][which], up_bias[block][which]);
      },
      [&](int j, int r) {
        return h + static_cast<i64>(tile.first_row + j * 32 + r) * kIntermediateSize * 2;
      });
}

template <typename Rows>
MOEJIT_DEVICE void finish_down_turned(const MoeArgs& a, const Tile90& tile, const Rows& rows,
                                      u32 warpgroup, u32 staged, const f32 (&lo)[kBm / 2],
                                      const f32 (&hi)[kBm / 2]) {
  constexpr int kWide = kPartial16 ? 2 : 4;
  const int first = tile.n * kBn + static_cast<int>(columns_of(warpgroup)) * 128;
  f32 bias[2][2] = {};
  if constexpr (kBias) {
    MOEJIT_UNROLL
    for (int at = 0; at < 4; ++at) {
      const int i = first + at / 2 * 64 + static_cast<int>(warp_id() & 3u) * 16 + at % 2 * 8 +
                    static_cast<int>(lane_id() >> 2);
      if (i < kHiddenSize && tile.part == 0)
        bias[at / 2][at % 2] = load_element(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + i);
    }
  }
  // y of a slot holds kParts parts, one of each range of the reduction.
  u8* y = region(a, kRegion_y) + static_cast<i64>(first) * kWide;
  store_turned<2, kWide>(
      tile, warpgroup, staged, kHiddenSize - first, Keep90::y(a.num_tokens), rows,
      [&](int block, int f, int which, int c, f32 weight) {
        const int j = f * 4 + which * 2 + c;
        const f32 v = block == 0 ? lo[j] : hi[j];
        return (kBias ? v + bias[block][which] : v) * weight;
      },
      [&](int j, int r) {
        return y +
               (static_cast<i64>(rows.slot_of(j, r)) * kParts + tile.part) * kHiddenSize * kWide;
      });
}

}  // namespace moe
