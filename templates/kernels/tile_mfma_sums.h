// Entry `moe_mfma_sums`, between the two of tile_mfma.h where blocks share the reduction of gate
// and up: adds their sums in the order of the ranges, then the activation.
#pragma once

#include "kernels/tile_mfma.h"

namespace moe {

constexpr int kSumsThreads = 256;

// Columns c to c + 3 of the sums of a row.
MOEJIT_DEVICE void add_parts(const u8* line, int c, f32 (&v)[4]) {
  MOEJIT_UNROLL
  for (int j = 0; j < 4; ++j) v[j] = 0.0f;
  MOEJIT_UNROLL
  for (int part = 0; part < kPartsGate; ++part) {
    const f32x4 p = ldg_f32x4(line + (part * kW13Rows + c) * 4);
    v[0] += p.x;
    v[1] += p.y;
    v[2] += p.z;
    v[3] += p.w;
  }
}

}  // namespace moe

MOEJIT_KERNEL(moe_mfma_sums, moe::kSumsThreads, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  constexpr int kQuadsOfRow = kIntermediateSize / 4;
  const i64 work = static_cast<i64>(ldg_i32(plan_counts(a) + 1 + kExperts)) * kQuadsOfRow;
  const i64 stride = static_cast<i64>(block_count()) * kSumsThreads;
  for (i64 w = static_cast<i64>(block_id()) * kSumsThreads + thread_id(); w < work; w += stride) {
    const i64 row = w / kQuadsOfRow;
    const int i = static_cast<int>(w - row * kQuadsOfRow) * 4;
    const u8* line = region(a, kRegion_sums) + row * kPartsGate * (kW13Rows * 4);
    f32 first[4], second[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    add_parts(line, kInterleaved && kGated ? 2 * i : gate_row(i), first);
    if constexpr (kGated) add_parts(line, kInterleaved ? 2 * i + 4 : up_row(i), second);
    const HRow h = h_row(a, row);
    const int expert = kBias ? slot_expert(a, ldg_i32(plan_rows(a) + row)) : 0;
    f32 v[4];
    MOEJIT_UNROLL
    for (int j = 0; j < 4; ++j) {
      f32 gate = first[j], up = second[j];
      if constexpr (kGated && kInterleaved) {
        // Pairs lie one after the other.
        const int at = j % 2 * 2;
        const f32 even = j < 2 ? first[at] : second[at];
        const f32 odd = j < 2 ? first[at + 1] : second[at + 1];
        gate = kUpFirst ? odd : even;
        up = kUpFirst ? even : odd;
      }
      v[j] = h_of(a, expert, i + j, h.weight, gate, up);
    }
    store_quad(h.line, i, v[0], v[1], v[2], v[3]);
  }
}
