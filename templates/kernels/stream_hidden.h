// The h of the second product of a persistent launch (stream_fused.h): which part of it a warp
// reads, and how it gets there.
#pragma once

#include "kernels/stream_few.h"
#include "kernels/stream_walk.h"

namespace moe {

// Where a warp is among the stages of a row tile of down, chunks x kStagesI, which a block's warps
// take in turn.
struct DownStage {
  int chunk, stage;  // past the last one where there is no such chunk

  MOEJIT_DEVICE void start() {
    chunk = static_cast<int>(warp_id()) / kStagesI;
    stage = static_cast<int>(warp_id()) - chunk * kStagesI;
  }
  static constexpr int kChunks = kWarps / kStagesI;  // of a turn
  static constexpr int kStages = kWarps % kStagesI;
  // True where the next stage is of another chunk.
  MOEJIT_DEVICE bool next() {
    chunk += kChunks;
    stage += kStages;
    const bool crossed = stage >= kStagesI;
    if (crossed) {
      stage -= kStagesI;
      ++chunk;
    }
    return kChunks > 0 || crossed;
  }
};
// How many of them are a warp's.
MOEJIT_DEVICE int down_turns(int chunks) {
  const int left = chunks * kStagesI - static_cast<int>(warp_id());
  return left > 0 ? ceil_div(left, kWarps) : 0;
}

// Several tokens: the rows that a warp multiplies with, in the order of its stages.
struct HiddenRows {
  const FewShared* few;
  const u8* h;
  int chunks;
  DownStage at;
  TokenRows tokens;

  MOEJIT_DEVICE void enter_chunk() {
    const u32 slot = column_slot(*few, at.chunk, lane_id() >> 2);
    tokens.row[0] = slot == kNoSlot ? nullptr : token_row(h, slot, kPitchI);
  }
  MOEJIT_DEVICE void rewind() {
    at.start();
    enter_chunk();
  }
  MOEJIT_DEVICE void load(u32x4 (&x)[kTileN][2]) {
    if (at.chunk >= chunks) return;
    load_tokens<kPiecesI>(tokens, at.stage, x);
    if (at.next() && at.chunk < chunks) enter_chunk();
  }
};

// One token: its h for this warp's stages, in shared memory at the place of each stage times 128
// bytes, since loads beside the products would wait behind weights. A lane copies 16 bytes of every
// fourth stage. Warp-collective.
MOEJIT_DEVICE void fetch_hidden(const MoeArgs& a, const FewShared& few, int chunks, u32 to) {
  constexpr int kStep = 4 * kWarps;
  constexpr int kTogether = min_of(4, ceil_div(kSlots * kStagesI, kStep));
  const u8* h = region(a, kRegion_h);
  const int end = chunks * kStagesI;
  const u32 piece = lane_id() & 7u;  // of its stage
  MOEJIT_NO_UNROLL
  for (int begin = static_cast<int>(warp_id() + (lane_id() >> 3) * kWarps); begin < end;
       begin += kTogether * kStep) {
    u32x4 v[kTogether];
    MOEJIT_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int p = begin + i * kStep;
      const int chunk = p / kStagesI;
      const int of_row = (p - chunk * kStagesI) * 8 + static_cast<int>(piece);
      v[i] = {0, 0, 0, 0};
      if (p < end && of_row < kPiecesI)
        v[i] = ldg_u32x4(h + column_slot(few, chunk, 0) * kPitchI + of_row * 16);
    }
    MOEJIT_UNROLL
    for (int i = 0; i < kTogether; ++i) {
      const int p = begin + i * kStep;
      if (p < end) sts_u32x4(to + p * 128 + piece * 16, v[i]);
    }
  }
  warp_sync();
}

}  // namespace moe
