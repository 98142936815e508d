// What becomes of the accumulators of tile90.h: h, or a partial result y of each slot.
#pragma once

#include "kernels/tile90_ring.h"

namespace moe {

// A warp's 16 rows by 128 bytes pass through shared memory, so that a store writes whole 128-byte
// lines of four rows instead of scattered words of eight. Piece p of row r lies at
// r * 128 + ((p ^ r % 8) * 16): no bank conflict either way.

// write(row, piece, value) for the 128 bytes of each row; warp-collective.
template <typename Write>
MOEJIT_DEVICE void drain_rows(u32 staged, Write write) {
  warp_sync();
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const u32 r = i * 4 + (lane_id() >> 3);
    const u32 p = lane_id() & 7u;
    write(i, static_cast<int>(p), lds_u32x4(staged + r * 128 + ((p ^ (r & 7u)) << 4)));
  }
  warp_sync();
}

// Two neighbours of a bias of 16-bit elements, the first of even index: loaded for a slice of
// columns at once, since loads between the stores of a tile would each be waited for.
MOEJIT_DEVICE u32 load_pair(const void* base, i64 index) {
  return ldg_u32(at(base, index * 2));
}
MOEJIT_DEVICE f32 of_pair(u32 pair, int which) {
  return to_f32(static_cast<u16>(which == 0 ? pair : pair >> 16));
}

// The biases of a lane for 64 columns of h: where rows alternate, gate and up of a column of each
// of 16 fragments, otherwise the gates of two columns of each of 8 fragments, then the ups.
constexpr bool kAlternating = kGated && kInterleaved;
struct SliceBias {
  u32 pairs[16];
  MOEJIT_DEVICE void find(const MoeArgs& a, int expert, int column) {
    const int lane = static_cast<int>(lane_id() & 3u);
    const i64 first = static_cast<i64>(expert) * kW13Rows;
    MOEJIT_UNROLL
    for (int f = 0; f < 16; ++f) {
      pairs[f] = 0u;
      if (!kBias || (!kGated && f >= 8)) continue;
      const int i = column + (kAlternating ? f * 4 + lane : f % 8 * 8 + lane * 2);
      const int row = kAlternating ? 2 * i : f < 8 ? gate_row(i) : up_row(i);
      if (i < kIntermediateSize) pairs[f] = load_pair(a.b13, first + row);
    }
  }
  MOEJIT_DEVICE f32 gate(int f, int c) const {
    return kAlternating ? of_pair(pairs[f], kUpFirst ? 1 : 0) : of_pair(pairs[f], c);
  }
  MOEJIT_DEVICE f32 up(int f, int c) const {
    return kAlternating ? of_pair(pairs[f], kUpFirst ? 0 : 1) : of_pair(pairs[f + 8], c);
  }
};

// 64 columns of h of 8 rows of the warp, to row r of what it stages: 2 columns of each fragment are
// a lane's.
MOEJIT_DEVICE void stage_h(u32 staged, u32 r, int slice, int half, f32 weight,
                           const SliceBias& bias, const f32 (&acc)[kBn / 2]) {
  MOEJIT_UNROLL
  for (int f = 0; f < 8; ++f) {
    f32 v[2];
    MOEJIT_UNROLL
    for (int c = 0; c < 2; ++c) {
      const int j = (slice * 8 + f) * 4 + half * 2 + c;
      v[c] = h_of(acc[j], kGated ? acc[(kGated ? kHalfN / 2 : 0) + j] : 0.0f, weight,
                  bias.gate(f, c), kGated ? bias.up(f, c) : 0.0f);
    }
    sts_u32(staged + r * 128 + ((static_cast<u32>(f) ^ (r & 7u)) << 4) + (lane_id() & 3u) * 4,
            pack2(v[0], v[1]));
  }
}
// The same where a lane has gate and up of one column of each fragment: of every two fragments two
// lanes exchange a column, so that each stores two neighbours.
MOEJIT_DEVICE void stage_alternating(u32 staged, u32 r, int slice, int half, f32 weight,
                                     const SliceBias& bias, const f32 (&acc)[kBn / 2]) {
  const u32 lane = lane_id() & 3u;
  const bool odd = (lane & 1u) != 0;
  MOEJIT_UNROLL
  for (int f = 0; f < 16; f += 2) {
    f32 v[2];
    MOEJIT_UNROLL
    for (int c = 0; c < 2; ++c) {
      const int j = (slice * 16 + f + c) * 4 + half * 2;
      v[c] = h_of(acc[j + (kUpFirst ? 1 : 0)], acc[j + (kUpFirst ? 0 : 1)], weight,
                  bias.gate(f + c, 0), bias.up(f + c, 0));
    }
    const f32 got = shfl_xor_f32(odd ? v[0] : v[1], 1);
    sts_u32(staged + r * 128 + ((static_cast<u32>(f / 2) ^ (r & 7u)) << 4) +
                (odd ? 6 + lane * 2 : lane * 2),
            odd ? pack2(got, v[1]) : pack2(v[0], got));
  }
}

// `staged`: kStagedBytes of this warp. Rows of the warp begin at row `first` of the tile.
MOEJIT_DEVICE void finish_gate_up(const MoeArgs& a, const Tile90& tile, int first, u32 staged,
                                  const f32 (&acc)[kBn / 2]) {
  const u32 lane = lane_id();
  f32 weight[2] = {1.0f, 1.0f};
  if constexpr (kWeightOnInput) {
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = first + half * 8 + static_cast<int>(lane >> 2);
      if (r < tile.rows) weight[half] = slot_weight(a, ldg_i32(plan_rows(a) + tile.first_row + r));
    }
  }
  u8* h = region(a, kRegion_h);
  const u64 policy = policy_for(Keep90::h(a.num_tokens));
  MOEJIT_UNROLL
  for (int slice = 0; slice < kHColumns / 64; ++slice) {
    const int column = tile.n * kHColumns + slice * 64;
    SliceBias bias;
    bias.find(a, tile.expert, column);
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const u32 r = half * 8 + (lane >> 2);
      if constexpr (kAlternating) {
        stage_alternating(staged, r, slice, half, weight[half], bias, acc);
      } else {
        stage_h(staged, r, slice, half, weight[half], bias, acc);
      }
    }
    drain_rows(staged, [&](int i, int p, u32x4 v) {
      const int r = first + i * 4 + static_cast<int>(lane >> 3);
      if (r < tile.rows && column + p * 8 < kIntermediateSize) {
        stg_u32x4_hint(
            h + (static_cast<i64>(tile.first_row + r) * kIntermediateSize + column + p * 8) * 2, v,
            policy);
      }
    });
  }
}

// What the rows of a lane need for y: slots of the four that it stores, and routing weights of the
// two whose sums it holds. Rows that pad the tile stand for its last one.
struct DownRows {
  i32 slot[4], held[2];
  f32 weight[2];
  MOEJIT_DEVICE void find(const MoeArgs& a, const Tile90& tile, int first) {
    const int lane = static_cast<int>(lane_id());
    MOEJIT_UNROLL
    for (int i = 0; i < 6; ++i) {
      const int r = first + (i < 4 ? i * 4 + (lane >> 3) : (i - 4) * 8 + (lane >> 2));
      const i32 found = ldg_i32(plan_rows(a) + tile.first_row + min_of(r, tile.rows - 1));
      if (i < 4) {
        slot[i] = found;
      } else {
        held[i - 4] = found;
      }
    }
  }
  MOEJIT_DEVICE void weigh(const MoeArgs& a) {
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      opaque(held[half]);  // not waited for before the first products
      weight[half] = kWeightOnInput ? 1.0f : slot_weight(a, held[half]);
    }
  }
};

MOEJIT_DEVICE void finish_down(const MoeArgs& a, const Tile90& tile, const DownRows& rows,
                               int first, u32 staged, const f32 (&acc)[kBn / 2]) {
  const u32 lane = lane_id();
  // y of a slot holds kParts parts, one of each range of the reduction.
  constexpr i64 kRowBytes = static_cast<i64>(kHiddenSize) * (kPartial16 ? 2 : 4);
  u8* line[4];  // of the rows that this lane stores
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    line[i] =
        region(a, kRegion_y) + (static_cast<i64>(rows.slot[i]) * kParts + tile.part) * kRowBytes;
  }
  const u64 policy = policy_for(Keep90::y(a.num_tokens));
  constexpr int kSlice = kPartial16 ? 64 : 32;  // columns of 128 bytes
  MOEJIT_UNROLL
  for (int slice = 0; slice < kBn / kSlice; ++slice) {
    const int column = tile.n * kBn + slice * kSlice;
    u32 bias[kSlice / 8];
    if constexpr (kBias) {
      MOEJIT_UNROLL
      for (int f = 0; f < kSlice / 8; ++f) {
        const int n = column + f * 8 + static_cast<int>(lane & 3u) * 2;
        bias[f] = n < kHiddenSize && tile.part == 0
                      ? load_pair(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + n)
                      : 0u;
      }
    }
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const u32 r = half * 8 + (lane >> 2);
      MOEJIT_UNROLL
      for (int f = 0; f < kSlice / 8; ++f) {
        const int j = (slice * (kSlice / 8) + f) * 4 + half * 2;
        f32x2 v = {acc[j], acc[j + 1]};
        if constexpr (kBias) {
          v.x += of_pair(bias[f], 0);
          v.y += of_pair(bias[f], 1);
        }
        if constexpr (kPartial16) {
          sts_u32(staged + r * 128 + ((static_cast<u32>(f) ^ (r & 7u)) << 4) + (lane & 3u) * 4,
                  pack2(v.x * rows.weight[half], v.y * rows.weight[half]));
        } else {
          const u32 piece = f * 2 + ((lane & 3u) >> 1);
          sts_f32x2(staged + r * 128 + ((piece ^ (r & 7u)) << 4) + (lane & 1u) * 8,
                    {v.x * rows.weight[half], v.y * rows.weight[half]});
        }
      }
    }
    drain_rows(staged, [&](int i, int p, u32x4 v) {
      constexpr int kOfPiece = kSlice / 8;
      const int r = first + i * 4 + static_cast<int>(lane >> 3);
      if (r < tile.rows && column + p * kOfPiece < kHiddenSize)
        stg_u32x4_hint(line[i] + (column + p * kOfPiece) * (kPartial16 ? 2 : 4), v, policy);
    });
  }
}

}  // namespace moe
