// Products on AMD's matrix cores, and what becomes of their accumulators. Weights are the
// operand whose rows become the accumulators' rows, tokens the one whose rows become their columns,
// so a lane ends with four neighbouring outputs of one token.
//
// kMf x kMf products: lane l gives row l % kMf of both operands. The order of the terms of a dot
// product is free, so a lane takes whole 16-byte pieces: group g = l / kMf takes every kGroups-th
// piece of its row, and no element is moved between lanes. Accumulator 4q + i of a lane is row
// q * 4 * kGroups + g * 4 + i, column l % kMf.
//
// A wave of 32 lanes (WMMA) has 16 x 16 products alone, to which both halves give the same 32 bytes
// of every row. It deals the rows of the weights over the accumulators in another order, so lane l
// takes row weight_lane(l) of them; with that the accumulators are as above.
#pragma once

#include "kernels/tile_walk.h"

namespace moe {

template <int kSize>
struct Mfma;
#if MOEJIT_WAVE == 64
template <>
struct Mfma<16> {
  using Acc = facc4;
  static constexpr int kGroups = 4;
  static constexpr int kQuads = 1;
};
template <>
struct Mfma<32> {
  using Acc = facc16;
  static constexpr int kGroups = 2;
  static constexpr int kQuads = 4;
};
constexpr int kGiven = 1;  // pieces of a row that a lane gives to one product
MOEJIT_DEVICE constexpr u32 weight_lane(u32 lane) {
  return lane;
}
#else
template <>
struct Mfma<16> {
  using Acc = facc8;
  static constexpr int kGroups = 2;
  static constexpr int kQuads = 2;
};
constexpr int kGiven = 2;
// Row of the weights that becomes row `lane` of the operand: accumulator 4q + i of half g is the
// operand's row 8q + 2i + g.
MOEJIT_DEVICE constexpr u32 weight_lane(u32 lane) {
  return (lane & 8u) + (lane & 1u) * 4 + (lane >> 1 & 3u);
}
#endif

struct Operand {
  u32x4 v[kGiven];
};
// From the piece that each group of lanes has of its own, as the groups of a product go round.
MOEJIT_DEVICE Operand operand_of(u32x4 mine) {
#if MOEJIT_WAVE == 64
  return {{mine}};
#else
  const u32x4 other = {swap_halves(mine.x), swap_halves(mine.y), swap_halves(mine.z),
                       swap_halves(mine.w)};
  const bool high = (wave_lane() & 16u) != 0;
  return {{high ? other : mine, high ? mine : other}};
#endif
}

// d += the products of what the lanes give of their weight rows and of their token rows.
#if MOEJIT_WAVE == 64
MOEJIT_DEVICE void mfma_half(facc4& d, u32x2 w, u32x2 x) {
  if constexpr (kIsBf16) {
    mfma16_bf16(d, w, x);
  } else {
    mfma16_f16(d, w, x);
  }
}
MOEJIT_DEVICE void mfma_half(facc16& d, u32x2 w, u32x2 x) {
  if constexpr (kIsBf16) {
    mfma32_bf16(d, w, x);
  } else {
    mfma32_f16(d, w, x);
  }
}
MOEJIT_DEVICE void mfma_one(facc4& d, u32 w, u32 x) {
  mfma16_f32(d, as_f32(w), as_f32(x));
}
MOEJIT_DEVICE void mfma_one(facc16& d, u32 w, u32 x) {
  mfma32_f32(d, as_f32(w), as_f32(x));
}
template <typename Acc>
MOEJIT_DEVICE void product(Acc& d, const Operand& a, const Operand& b) {
  const u32x4 w = a.v[0], x = b.v[0];
  if constexpr (kIsF32) {
    mfma_one(d, w.x, x.x);
    mfma_one(d, w.y, x.y);
    mfma_one(d, w.z, x.z);
    mfma_one(d, w.w, x.w);
  } else {
    mfma_half(d, {w.x, w.y}, {x.x, x.y});
    mfma_half(d, {w.z, w.w}, {x.z, x.w});
  }
}
#else
MOEJIT_DEVICE void product(facc8& d, const Operand& w, const Operand& x) {
  if constexpr (kIsF32) {
    wmma16_f32(d, w.v[0], w.v[1], x.v[0], x.v[1]);
  } else if constexpr (kIsBf16) {
    wmma16_bf16(d, w.v[0], w.v[1], x.v[0], x.v[1]);
  } else {
    wmma16_f16(d, w.v[0], w.v[1], x.v[0], x.v[1]);
  }
}
#endif
// Products into d are made before what follows.
template <typename Acc>
MOEJIT_DEVICE void settle(Acc& d) {
#if MOEJIT_WAVE == 32
  hold(d);
#endif
}
template <typename Acc>
MOEJIT_DEVICE void clear(Acc& d) {
  MOEJIT_UNROLL
  for (u32 i = 0; i < sizeof(Acc) / 4; ++i) d[i] = 0.0f;
}

// Blocks go round the dies of the package, each with an L2 of its own: neighbouring numbers here
// are neighbours on one die, so that the tiles of an expert share its weights there.
MOEJIT_DEVICE int die_order() {
  const int id = static_cast<int>(block_id());
  const int count = static_cast<int>(block_count());
  if (MOEJIT_DIES == 1 || count % MOEJIT_DIES != 0) return id;
  return id % MOEJIT_DIES * (count / MOEJIT_DIES) + id / MOEJIT_DIES;
}

// --- outputs -----------------------------------------------------------------------------------
// One of h from the accumulators of its gate and up row.
MOEJIT_DEVICE f32 h_of(const MoeArgs& a, int expert, int i, f32 weight, f32 gate, f32 up) {
  f32 g = gate * weight, u = up * weight;
  if constexpr (kBias) {
    g += bias13(a, expert, gate_row(i));
    if constexpr (kGated) u += bias13(a, expert, up_row(i));
  }
  return activate(g, u);
}

// Outputs i and i + 1, or i to i + 3, of a row in the element type. i is even (a multiple of 4) and
// so is the row's length.
MOEJIT_DEVICE void store_pair(u8* line, int i, f32 v0, f32 v1) {
  if constexpr (kIsF32) {
    stg_f32x2(line + i * 4, {v0, v1});
  } else {
    stg_u32(line + i * 2, pack2(v0, v1));
  }
}
MOEJIT_DEVICE void store_quad(u8* line, int i, f32 v0, f32 v1, f32 v2, f32 v3) {
  if constexpr (kIsF32) {
    stg_f32x4(line + i * 4, {v0, v1, v2, v3});
  } else {
    stg_u32x2(line + i * 2, {pack2(v0, v1), pack2(v2, v3)});
  }
}

// Where the rows of the plan leave h, and the factor of a row before the activation.
struct HRow {
  u8* line;
  f32 weight;
};
MOEJIT_DEVICE HRow h_row(const MoeArgs& a, i64 row) {
  f32 weight = 1.0f;
  if constexpr (kWeightOnInput) weight = slot_weight(a, ldg_i32(plan_rows(a) + row));
  return {region(a, kRegion_h) + row * (kIntermediateSize * kElement), weight};
}
// Where a row leaves its part of the output, and the factor of the result.
struct YRow {
  u8* line;
  f32 weight;
};
template <int kParts = 1>  // of the reduction, each with a row of its own
MOEJIT_DEVICE YRow y_row(const MoeArgs& a, i64 row, int part = 0) {
  const i64 slot = ldg_i32(plan_rows(a) + row);
  return {region(a, kRegion_y) + (slot * kParts + part) * (kHiddenSize * 4),
          kWeightOnInput ? 1.0f : slot_weight(a, slot)};
}
// Columns c to c + 3 of y; c is a multiple of 4. One part of a split reduction has the bias.
MOEJIT_DEVICE void finish_y(const MoeArgs& a, int expert, const YRow& y, int c, f32x4 v,
                            int part = 0) {
  if (c >= kHiddenSize) return;
  if (kBias && part == 0) {
    const i64 first = static_cast<i64>(expert) * kHiddenSize + c;
    v.x += load_element(a.b2, first);
    v.y += load_element(a.b2, first + 1);
    v.z += load_element(a.b2, first + 2);
    v.w += load_element(a.b2, first + 3);
  }
  stg_f32x4(y.line + c * 4, {v.x * y.weight, v.y * y.weight, v.z * y.weight, v.w * y.weight});
}

}  // namespace moe
