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

// `staged`: kStagedBytes of this warp. Rows of the warp begin at row `first` of the tile.
MOEJIT_DEVICE void finish_gate_up(const MoeArgs& a, const Tile90& tile, int first, u32 staged,
                                  const f32 (&acc)[kBn / 2]) {
  const u32 lane = lane_id();
  if constexpr (kGated && kInterleaved) {
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = first + half * 8 + static_cast<int>(lane >> 2);
      if (r >= tile.rows) continue;
      finish_gate_up_row<kBn / 8>(a, tile, r, tile.n * kBn,
                                  [&](int j, int c, bool) { return acc[j * 4 + half * 2 + c]; });
    }
  } else {
    f32 weight[2] = {1.0f, 1.0f};
    if constexpr (kWeightOnInput) {
      MOEJIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int r = first + half * 8 + static_cast<int>(lane >> 2);
        if (r < tile.rows)
          weight[half] = slot_weight(a, ldg_i32(plan_rows(a) + tile.first_row + r));
      }
    }
    u8* h = region(a, kRegion_h);
    MOEJIT_UNROLL
    for (int slice = 0; slice < kHColumns / 64; ++slice) {
      const int column = tile.n * kHColumns + slice * 64;
      MOEJIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const u32 r = half * 8 + (lane >> 2);
        MOEJIT_UNROLL
        for (int f = 0; f < 8; ++f) {
          const int i = column + f * 8 + static_cast<int>(lane & 3u) * 2;
          f32 v[2] = {0.0f, 0.0f};
          MOEJIT_UNROLL
          for (int c = 0; c < 2; ++c) {
            const int j = (slice * 8 + f) * 4 + half * 2 + c;
            if (!kBias || i < kIntermediateSize) {
              v[c] = h_value(a, tile, i + c, weight[half], acc[j],
                             kGated ? acc[(kGated ? kHalfN / 2 : 0) + j] : 0.0f);
            }
          }
          sts_u32(staged + r * 128 + ((static_cast<u32>(f) ^ (r & 7u)) << 4) + (lane & 3u) * 4,
                  pack2(v[0], v[1]));
        }
      }
      drain_rows(staged, [&](int i, int p, u32x4 v) {
        const int r = first + i * 4 + static_cast<int>(lane >> 3);
        if (r < tile.rows && column + p * 8 < kIntermediateSize) {
          stg_u32x4(
              h + (static_cast<i64>(tile.first_row + r) * kIntermediateSize + column + p * 8) * 2,
              v);
        }
      });
    }
  }
}

// What the rows of a lane need for y: slots of the four that it stores, -1 where there is none, and
// routing weights of the two whose sums it holds.
struct DownRows {
  i32 slot[4], held[2];
  f32 weight[2];
  MOEJIT_DEVICE void find(const MoeArgs& a, const Tile90& tile, int first) {
    const int lane = static_cast<int>(lane_id());
    MOEJIT_UNROLL
    for (int i = 0; i < 6; ++i) {
      const int r = first + (i < 4 ? i * 4 + (lane >> 3) : (i - 4) * 8 + (lane >> 2));
      const i32 found = r < tile.rows ? ldg_i32(plan_rows(a) + tile.first_row + r) : -1;
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
      weight[half] = !kWeightOnInput && held[half] >= 0 ? slot_weight(a, held[half]) : 1.0f;
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
    line[i] = nullptr;
    if (rows.slot[i] >= 0) {
      line[i] =
          region(a, kRegion_y) + (static_cast<i64>(rows.slot[i]) * kParts + tile.part) * kRowBytes;
    }
  }
  constexpr int kSlice = kPartial16 ? 64 : 32;  // columns of 128 bytes
  MOEJIT_UNROLL
  for (int slice = 0; slice < kBn / kSlice; ++slice) {
    const int column = tile.n * kBn + slice * kSlice;
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const u32 r = half * 8 + (lane >> 2);
      MOEJIT_UNROLL
      for (int f = 0; f < kSlice / 8; ++f) {
        const int n = column + f * 8 + static_cast<int>(lane & 3u) * 2;
        const int j = (slice * (kSlice / 8) + f) * 4 + half * 2;
        f32x2 v = {acc[j], acc[j + 1]};
        if constexpr (kBias) {
          if (n < kHiddenSize && tile.part == 0) {
            v.x += load_element(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + n);
            v.y += load_element(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + n + 1);
          }
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
      if (line[i] != nullptr && column + p * kOfPiece < kHiddenSize)
        stg_u32x4(line[i] + (column + p * kOfPiece) * (kPartial16 ? 2 : 4), v);
    });
  }
}

}  // namespace moe
