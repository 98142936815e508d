// Filling the stages of the sm_80 tile kernels: gathered rows and weight rows, 128 bytes of the
// reduction each, by 16-byte asynchronous copies of all threads. Piece p of row r lies at
// r * 128 + ((p ^ r % 8) * 16), so that ldmatrix and 16-byte reads meet no bank conflict.
#pragma once

#include "kernels/tile_epilogue.h"

namespace moe {

constexpr int kBm80 = kSched_tile_m;
constexpr int kBn80 = kSched_tile_n;  // columns of a product: half gate and half up where kPaired
constexpr int kThreads80 = 256;
constexpr int kStages80 = kSched_stages;
constexpr int kStageK80 = 128 / kElement;
constexpr int kStageA80 = kBm80 * 128;
constexpr int kStageB80 = kBn80 * 128;
constexpr int kHalf80 = kBn80 / 2;
constexpr int kHColumns80 = kGated ? kHalf80 : kBn80;
constexpr int kGateTiles80 = ceil_div(kIntermediateSize, kHColumns80);
constexpr int kDownTiles80 = ceil_div(kHiddenSize, kBn80);

// Row (column, where transposed) of the weights for column c of product tile n, or -1 past the end.
template <bool kGateUp>
MOEJIT_DEVICE int weight_row(int n, int c) {
  if constexpr (kGateUp && kPaired) {
    const int i = n * kHalf80 + (c < kHalf80 ? c : c - kHalf80);
    if (i >= kIntermediateSize) return -1;
    return c < kHalf80 ? gate_row(i) : up_row(i);
  } else {
    const int row = n * kBn80 + c;
    return row < (kGateUp ? kW13Rows : kHiddenSize) ? row : -1;
  }
}

template <bool kGateUp>
struct StageFiller {
  static constexpr int kDepth = kGateUp ? kHiddenSize : kIntermediateSize;
  static constexpr int kRows = kGateUp ? kW13Rows : kHiddenSize;
  static constexpr int kPieces = kDepth / kPiece;
  static constexpr int kRowsAtOnce = kThreads80 / 8;
  static constexpr int kCopiesA = ceil_div(kBm80, kRowsAtOnce);
  static constexpr int kCopiesB = kBn80 / kRowsAtOnce;

  const u8* source;
  const u8* weights;  // of the tile's expert
  const u8* from[kCopiesA];
  i32 row[kCopiesB];  // K-major weights
  int n;

  MOEJIT_DEVICE void enter(const MoeArgs& a, const Tile& tile) {
    source = kGateUp ? static_cast<const u8*>(a.x) : region(a, kRegion_h);
    weights = at(kGateUp ? a.w13 : a.w2, static_cast<i64>(tile.expert) * kRows * kDepth * kElement);
    n = tile.n;
    const int first = static_cast<int>(thread_id() >> 3);
    MOEJIT_UNROLL
    for (int i = 0; i < kCopiesA; ++i) {
      const int r = first + i * kRowsAtOnce;
      i64 line = tile.first_row + r;
      if (kGateUp && r < tile.rows) line = ldg_i32(plan_rows(a) + line) / kSlots;
      from[i] = r < tile.rows ? source + line * (kDepth * kElement) : nullptr;
    }
    if constexpr (!kTransposed) {
      MOEJIT_UNROLL
      for (int i = 0; i < kCopiesB; ++i) row[i] = weight_row<kGateUp>(n, first + i * kRowsAtOnce);
    }
  }
  // Stage `k` of the reduction into `stage`; closes the thread's group.
  MOEJIT_DEVICE void fill(u32 stage, int k) {
    const u32 column = thread_id() & 7u;
    const int first = static_cast<int>(thread_id() >> 3);
    const int piece = k * 8 + static_cast<int>(column);
    MOEJIT_UNROLL
    for (int i = 0; i < kCopiesA; ++i) {
      const u32 r = static_cast<u32>(first + i * kRowsAtOnce);
      if (kBm80 % kRowsAtOnce != 0 && r >= kBm80) continue;
      const bool valid = from[i] != nullptr && piece < kPieces;
      cp_async16(stage + r * 128 + ((column ^ (r & 7u)) << 4),
                 valid ? from[i] + piece * 16 : source, valid);
    }
    const u32 b = stage + kStageA80;
    if constexpr (!kTransposed) {
      MOEJIT_UNROLL
      for (int i = 0; i < kCopiesB; ++i) {
        const u32 r = static_cast<u32>(first + i * kRowsAtOnce);
        const bool valid = row[i] >= 0 && piece < kPieces;
        const u8* p = valid ? weights + (static_cast<i64>(row[i]) * kPieces + piece) * 16 : weights;
        cp_async16(b + r * 128 + ((column ^ (r & 7u)) << 4), p, valid);
      }
    } else {
      // [k][column]: a row of kBn80 elements; pieces of 8 rows XORed as above.
      constexpr int kRowPieces = kBn80 / kPiece;
      constexpr int kWhole = kStageK80 * kRowPieces;
      MOEJIT_UNROLL
      for (int i = 0; i < kWhole / kThreads80; ++i) {
        const int which = i * kThreads80 + static_cast<int>(thread_id());
        const int line = which / kRowPieces;
        const int part = which % kRowPieces;
        const int depth = k * kStageK80 + line;
        const int column_row = weight_row<kGateUp>(n, part * kPiece);
        const bool valid = column_row >= 0 && depth < kDepth;
        const u8* p =
            valid ? weights + (static_cast<i64>(depth) * kRows + column_row) * kElement : weights;
        cp_async16(b + line * (kBn80 * kElement) + ((part ^ (line & 7)) << 4), p, valid);
      }
    }
    cp_async_commit();
  }
};

// Runs `multiply(stage_address)` over all stages of the tile's reduction. Block-collective.
template <bool kGateUp, typename Multiply>
MOEJIT_DEVICE void run_stages(const MoeArgs& a, const Tile& tile, u32 ring, Multiply multiply) {
  constexpr int kBytes = kStageA80 + kStageB80;
  constexpr int kCount = ceil_div(StageFiller<kGateUp>::kDepth, kStageK80);
  StageFiller<kGateUp> filler;
  filler.enter(a, tile);
  block_sync();  // the tile before is done with the ring
  MOEJIT_UNROLL
  for (int i = 0; i < kStages80 - 1; ++i) {
    if (i < kCount) {
      filler.fill(ring + i * kBytes, i);
    } else {
      cp_async_commit();
    }
  }
  int slot = 0;
  MOEJIT_NO_UNROLL
  for (int k = 0; k < kCount; ++k) {
    cp_async_wait<kStages80 - 2>();
    block_sync();
    const int ahead = k + kStages80 - 1;
    const int to = slot == 0 ? kStages80 - 1 : slot - 1;  // read in the step before
    if (ahead < kCount) {
      filler.fill(ring + to * kBytes, ahead);
    } else {
      cp_async_commit();
    }
    multiply(ring + slot * kBytes);
    slot = slot + 1 == kStages80 ? 0 : slot + 1;
  }
  cp_async_wait<0>();
}

}  // namespace moe
