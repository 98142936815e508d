// What becomes of a tile's accumulators. All tensor-core layouts give a thread two neighbouring
// columns of an 8-column fragment: columns 2 * (lane % 4) + {0, 1}.
#pragma once

#include "kernels/tile_walk.h"

namespace moe {

constexpr bool kPaired =
    kGated && !kInterleaved;  // gate columns, then up columns, in a product tile

// h from the two accumulators; no addition of zeros, which the compiler has to keep.
MOEJIT_DEVICE f32 h_of(f32 gate, f32 up, f32 weight, f32 gate_bias, f32 up_bias) {
  f32 g = gate * weight, u = up * weight;
  if constexpr (kBias) {
    g += gate_bias;
    if constexpr (kGated) u += up_bias;
  }
  return activate(g, u);
}
// Column i of h.
MOEJIT_DEVICE f32 h_value(const MoeArgs& a, const Tile& tile, int i, f32 weight, f32 gate, f32 up) {
  f32 gate_bias = 0.0f, up_bias = 0.0f;
  if constexpr (kBias) {
    gate_bias = bias13(a, tile.expert, gate_row(i));
    if constexpr (kGated) up_bias = bias13(a, tile.expert, up_row(i));
  }
  return h_of(gate, up, weight, gate_bias, up_bias);
}

// One row of the first product. kFragments 8-column fragments; fragment j begins at column
// first + 8 * j of h (of the interleaved product, where interleaved). acc(j, c, up) is column c of
// fragment j: of gate, or of up.
template <int kFragments, typename Accumulator>
MOEJIT_DEVICE void finish_gate_up_row(const MoeArgs& a, const Tile& tile, int r, int first,
                                      Accumulator acc) {
  const i64 row = tile.first_row + r;
  f32 weight = 1.0f;
  if constexpr (kWeightOnInput) weight = slot_weight(a, ldg_i32(plan_rows(a) + row));
  u8* line = region(a, kRegion_h) + row * (kIntermediateSize * kElement);
  const int mine = static_cast<int>(lane_id() & 3u);
  MOEJIT_UNROLL
  for (int j = 0; j < kFragments; ++j) {
    if constexpr (kGated && kInterleaved) {
      const int i = (first + j * 8) / 2 + mine;
      if (i >= kIntermediateSize) continue;
      store_element(line, i,
                    h_value(a, tile, i, weight, acc(j, kUpFirst ? 1 : 0, false),
                            acc(j, kUpFirst ? 0 : 1, false)));
    } else {
      const int i = first + j * 8 + mine * 2;
      if (i >= kIntermediateSize) continue;  // i is even and the size too
      f32 v[2];
      MOEJIT_UNROLL
      for (int c = 0; c < 2; ++c) {
        f32 up = 0.0f;
        if constexpr (kGated) up = acc(j, c, true);
        v[c] = h_value(a, tile, i + c, weight, acc(j, c, false), up);
      }
      if constexpr (kIsF32) {
        stg_f32x2(line + i * 4, {v[0], v[1]});
      } else {
        stg_u32(line + i * 2, pack2(v[0], v[1]));
      }
    }
  }
}

// One row of the second product: y of the row's slot, scaled by the routing weight.
template <int kFragments, typename Accumulator>
MOEJIT_DEVICE void finish_down_row(const MoeArgs& a, const Tile& tile, int r, int first,
                                   Accumulator acc) {
  const i64 slot = ldg_i32(plan_rows(a) + tile.first_row + r);
  const f32 weight = kWeightOnInput ? 1.0f : slot_weight(a, slot);
  u8* line = region(a, kRegion_y) + slot * kHiddenSize * 4;
  MOEJIT_UNROLL
  for (int j = 0; j < kFragments; ++j) {
    const int column = first + j * 8 + static_cast<int>(lane_id() & 3u) * 2;
    if (column >= kHiddenSize) continue;
    f32 lo = acc(j, 0), hi = acc(j, 1);
    if constexpr (kBias) {
      lo += load_element(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + column);
      hi += load_element(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + column + 1);
    }
    stg_f32x2(line + column * 4, {lo * weight, hi * weight});
  }
}

}  // namespace moe
