// f32 in full precision: entries `moe_fma_gate_up` and `moe_fma_down`, FMA units instead of tensor
// cores. 16 x 16 threads; a thread has rows ty + 16 * i and, of each 8 columns, the two that a
// tensor-core fragment would give it.
#pragma once

#include "kernels/combine.h"
#include "kernels/route.h"
#include "kernels/tile_stage.h"

namespace moe {

constexpr int kRowsFma = kBm80 / 16;  // rows of a thread
// The 16 threads of a row are 4 lanes of one fragment times 4 fragments; a thread's column pairs
// are 32 columns apart.
constexpr int kPairsFma = kBn80 / 32;  // column pairs of a thread
constexpr int kGatePairs = kPaired ? kPairsFma / 2 : kPairsFma;

// First column (of the tile) of pair p.
template <bool kGateUp>
MOEJIT_DEVICE int pair_column(int fragment, int p) {
  const int lane_column = fragment * 8 + static_cast<int>(lane_id() & 3u) * 2;
  if (kGateUp && kPaired && p >= kGatePairs) return kHalf80 + (p - kGatePairs) * 32 + lane_column;
  return p * 32 + lane_column;
}

template <bool kGateUp>
MOEJIT_DEVICE void multiply_fma(u32 stage, int ty, int fragment,
                                f32 (&acc)[kRowsFma][kPairsFma][2]) {
  const u32 b_base = stage + kStageA80;
  MOEJIT_NO_UNROLL
  for (u32 piece = 0; piece < 8; ++piece) {
    f32x4 x[kRowsFma];
    MOEJIT_UNROLL
    for (int i = 0; i < kRowsFma; ++i) {
      const u32 row = static_cast<u32>(ty + i * 16);
      x[i] = lds_f32x4(stage + row * 128 + ((piece ^ (row & 7u)) << 4));
    }
    MOEJIT_UNROLL
    for (int p = 0; p < kPairsFma; ++p) {
      MOEJIT_UNROLL
      for (int c = 0; c < 2; ++c) {
        const u32 column = static_cast<u32>(pair_column<kGateUp>(fragment, p) + c);
        f32x4 w;
        if constexpr (!kTransposed) {
          w = lds_f32x4(b_base + column * 128 + ((piece ^ (column & 7u)) << 4));
        } else {
          f32 v[4];
          MOEJIT_UNROLL
          for (u32 d = 0; d < 4; ++d) {
            const u32 line = piece * 4 + d;
            v[d] = lds_f32(b_base + line * (kBn80 * 4) + (((column >> 2) ^ (line & 7u)) << 4) +
                           (column & 3u) * 4);
          }
          w = {v[0], v[1], v[2], v[3]};
        }
        MOEJIT_UNROLL
        for (int i = 0; i < kRowsFma; ++i) {
          f32 sum = acc[i][p][c];
          sum = fma_f32(x[i].x, w.x, sum);
          sum = fma_f32(x[i].y, w.y, sum);
          sum = fma_f32(x[i].z, w.z, sum);
          acc[i][p][c] = fma_f32(x[i].w, w.w, sum);
        }
      }
    }
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void tile_fma(const MoeArgs& a) {
  constexpr int kTiles = kGateUp ? kGateTiles80 : kDownTiles80;
  grid_wait();
  grid_launch_dependents();
  const u32 ring = shared_base();
  const int ty = static_cast<int>(thread_id() >> 4);
  const int fragment = static_cast<int>(thread_id() >> 2) & 3;
  const int items = ldg_i32(plan_counts(a)) * kTiles;
  for (int item = static_cast<int>(block_id()); item < items;
       item += static_cast<int>(block_count())) {
    const Tile tile = locate_tile(a, item, kTiles);
    f32 acc[kRowsFma][kPairsFma][2];
    MOEJIT_UNROLL
    for (int i = 0; i < kRowsFma; ++i) {
      MOEJIT_UNROLL
      for (int p = 0; p < kPairsFma; ++p) acc[i][p][0] = acc[i][p][1] = 0.0f;
    }
    run_stages<kGateUp>(a, tile, ring,
                        [&](u32 stage) { multiply_fma<kGateUp>(stage, ty, fragment, acc); });
    MOEJIT_UNROLL
    for (int i = 0; i < kRowsFma; ++i) {
      const int r = ty + i * 16;
      if (r >= tile.rows) continue;
      MOEJIT_UNROLL
      for (int p = 0; p < (kGateUp ? kGatePairs : kPairsFma); ++p) {
        if constexpr (kGateUp) {
          finish_gate_up_row<1>(
              a, tile, r, tile.n * (kPaired ? kHalf80 : kBn80) + p * 32 + fragment * 8,
              [&](int, int c, bool up) { return acc[i][p + (up ? kGatePairs : 0)][c]; });
        } else {
          finish_down_row<1>(a, tile, r, tile.n * kBn80 + p * 32 + fragment * 8,
                             [&](int, int c) { return acc[i][p][c]; });
        }
      }
    }
  }
}

}  // namespace moe

MOEJIT_KERNEL(moe_fma_gate_up, moe::kThreads80, moejit_cfg::kSched_blocks)(moejit_abi::MoeArgs a) {
  moe::tile_fma<true>(a);
}

MOEJIT_KERNEL(moe_fma_down, moe::kThreads80, moejit_cfg::kSched_blocks)(moejit_abi::MoeArgs a) {
  moe::tile_fma<false>(a);
}
