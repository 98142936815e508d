// The weight ring of the stream kernels: each warp streams its own share of the reduction through
// a private ring in shared memory with 16-byte asynchronous copies, never waits for another warp to
// refill it, and runs ahead across tiles and experts.
//
// Weights are the 16-row operand of mma.m16n8k16, tokens the 8-column one. The order of the terms
// of a dot product is free, so a lane takes 8 consecutive elements of its row as k = {2c, 2c+1} and
// {2c+8, 2c+9} of two products, and of its token likewise: both operands load 16 bytes at a time
// and no element is moved between lanes.
#pragma once

#include "kernels/stream_plan.h"

namespace moe {

// Where 16 bytes of stage row `row`, piece `piece` (0..7) lie: rows 2q and 2q+1 use different
// banks.
MOEJIT_DEVICE u32 ring_offset(u32 row, u32 piece) {
  return row * 128 + ((piece ^ ((row & 1u) << 2)) << 4);
}

// A lane's read position in the ring.
struct Reader {
  u32 at, ring, ring_end;
  u32 half;  // from the first to the second 64 bytes of its row
  MOEJIT_DEVICE void rewind() { at = ring; }
  MOEJIT_DEVICE void next() { at = at + kStageBytes == ring_end ? ring : at + kStageBytes; }
};
MOEJIT_DEVICE Reader make_reader(const StreamShared& s) {
  const u32 ring = s.ring + ring_offset(lane_id() >> 2, lane_id() & 3u);
  const u32 half = ring_offset(lane_id() >> 2, 4 + (lane_id() & 3u)) -
                   ring_offset(lane_id() >> 2, lane_id() & 3u);
  return {ring, ring, ring + kRingBytes, half};
}

// One step of the product: the stage at the reader times the tokens' 64 elements.
MOEJIT_DEVICE void multiply_stage(Reader& reader, const u32x4 (&x)[kTileN][2],
                                  f32 (&acc)[kTileM][kTileN][4]) {
  MOEJIT_UNROLL
  for (u32 half = 0; half < 2; ++half) {
    const u32 stage = reader.at + half * reader.half;
    MOEJIT_UNROLL
    for (int m = 0; m < kTileM; ++m) {
      const u32x4 top = lds_u32x4(stage + m * 2048);
      const u32x4 low = lds_u32x4(stage + m * 2048 + 1024);
      const u32 a0[4] = {top.x, low.x, top.y, low.y};
      const u32 a1[4] = {top.z, low.z, top.w, low.w};
      MOEJIT_UNROLL
      for (int n = 0; n < kTileN; ++n) {
        const u32 b0[2] = {x[n][half].x, x[n][half].y};
        const u32 b1[2] = {x[n][half].z, x[n][half].w};
        mma(acc[m][n], a0, b0);
        mma(acc[m][n], a1, b1);
      }
    }
  }
  reader.next();
}

// The stages of a reduction that this warp takes: first, first + kWarps, ... Together the warps
// read rows from end to end, which memory answers faster than a piece here and there.
struct Share {
  int first, count;
  MOEJIT_DEVICE int stage(int turn) const { return first + turn * kWarps; }
};
constexpr int kTurnBytes = kWarps * 128;  // of a row, from one turn to the next
MOEJIT_DEVICE Share warp_share(int stages, u32 warp) {
  const int first = static_cast<int>(warp);
  return {first, first < stages ? ceil_div(stages - first, kWarps) : 0};
}

// Sum of fragment f over all warps, in the order of the warps.
MOEJIT_DEVICE f32x4 reduce_fragment(u32 buffer, int f) {
  f32x4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
  MOEJIT_UNROLL
  for (int w = 0; w < kWarps; ++w) {
    const f32x4 v = lds_f32x4(buffer + ((w * kFragments + f) * 32 + lane_id()) * 16);
    sum.x += v.x;
    sum.y += v.y;
    sum.z += v.z;
    sum.w += v.w;
  }
  return sum;
}
MOEJIT_DEVICE void store_fragments(u32 buffer, u32 warp, const f32 (&acc)[kTileM][kTileN][4]) {
  MOEJIT_UNROLL
  for (int m = 0; m < kTileM; ++m) {
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      const f32x4 v = {acc[m][n][0], acc[m][n][1], acc[m][n][2], acc[m][n][3]};
      sts_f32x4(buffer + ((warp * kFragments + m * kTileN + n) * 32 + lane_id()) * 16, v);
    }
  }
}
MOEJIT_DEVICE void zero(f32 (&acc)[kTileM][kTileN][4]) {
  MOEJIT_UNROLL
  for (int m = 0; m < kTileM; ++m) {
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      MOEJIT_UNROLL
      for (int i = 0; i < 4; ++i) acc[m][n][i] = 0.0f;
    }
  }
}

// Operand rows of the lane's tokens (row lane / 4 of each 8-token tile).
struct TokenRows {
  const u8* row[kTileN];  // with the lane's column added; null where there is no token
};
MOEJIT_DEVICE const u8* token_row(const void* base, i64 row, i64 pitch) {
  return at(base, row * pitch + (lane_id() & 3u) * 16);
}
// The lane's 2 x 16 bytes of each token at stage `stage`; zero past the end of the row.
template <int kPieces>
MOEJIT_DEVICE void load_tokens(const TokenRows& t, int stage, u32x4 (&x)[kTileN][2]) {
  MOEJIT_UNROLL
  for (int n = 0; n < kTileN; ++n) {
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const bool piece =
          kPieces % 8 == 0 || stage * 8 + half * 4 + static_cast<int>(lane_id() & 3u) < kPieces;
      x[n][half] = {0, 0, 0, 0};
      if (t.row[n] != nullptr && piece) x[n][half] = ldg_u32x4(t.row[n] + stage * 128 + half * 64);
    }
  }
}

}  // namespace moe
