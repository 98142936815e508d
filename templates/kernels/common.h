// What every GPU kernel of the layer shares: sizes, slots, rows of the weights, activation.
// Written against the primitive layer of device/primitives.md alone.
//
// A slot is one (token, visited expert) pair: slot = token * kSlots + j, where j < kTopK is a
// routed expert and kTopK <= j < kSlots a shared one.
#pragma once

#include "abi.h"
#include "config_example.h"

namespace moe {

using namespace dev;
using moejit_abi::MoeArgs;
using namespace moejit_cfg;

constexpr int kSlots = kTopK + kNumSharedExperts;
constexpr int kExperts = kNumExperts + kNumSharedExperts;
constexpr int kW13Rows = (kGated ? 2 : 1) * kIntermediateSize;
constexpr bool kIsF32 = kDType == 0;
constexpr bool kIsBf16 = kDType == 1;
constexpr int kElement = kIsF32 ? 4 : 2;
constexpr int kPiece = 16 / kElement;  // elements of a 16-byte piece

constexpr int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}
constexpr int min_of(int a, int b) {
  return a < b ? a : b;
}
constexpr i64 min_of64(i64 a, i64 b) {
  return a < b ? a : b;
}
constexpr int max_of(int a, int b) {
  return a > b ? a : b;
}

MOEJIT_DEVICE const u8* at(const void* base, i64 byte) {
  return static_cast<const u8*>(base) + byte;
}
MOEJIT_DEVICE u8* at(void* base, i64 byte) {
  return static_cast<u8*>(base) + byte;
}
MOEJIT_DEVICE u8* region(const MoeArgs& a, int index) {
  return at(a.workspace, workspace_offset(index, a.num_tokens));
}

// --- elements ----------------------------------------------------------------------------------
MOEJIT_DEVICE f32 to_f32(u16 v) {
  return kIsBf16 ? bf16_to_f32(v) : f16_to_f32(v);
}
MOEJIT_DEVICE u16 from_f32(f32 v) {
  return kIsBf16 ? f32_to_bf16(v) : f32_to_f16(v);
}
MOEJIT_DEVICE u32 pack2(f32 lo, f32 hi) {
  return kIsBf16 ? pack_bf16(lo, hi) : pack_f16(lo, hi);
}
MOEJIT_DEVICE f32 load_element(const void* base, i64 index) {
  if constexpr (kIsF32) {
    return ldg_f32(at(base, index * 4));
  } else {
    return to_f32(ldg_u16(at(base, index * 2)));
  }
}
MOEJIT_DEVICE void store_element(void* base, i64 index, f32 v) {
  if constexpr (kIsF32) {
    stg_f32(at(base, index * 4), v);
  } else {
    stg_u16(at(base, index * 2), from_f32(v));
  }
}
// d += a * b in the element type; a is the 16-row operand.
MOEJIT_DEVICE void mma(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  if constexpr (kIsBf16) {
    mma_bf16(d, a, b);
  } else {
    mma_f16(d, a, b);
  }
}

// --- weights -----------------------------------------------------------------------------------
// Row of w13 (column, where transposed) that holds gate row i, and up row i.
MOEJIT_DEVICE constexpr int gate_row(int i) {
  if (!kGated) return i;
  if (kInterleaved) return 2 * i + (kUpFirst ? 1 : 0);
  return i + (kUpFirst ? kIntermediateSize : 0);
}
MOEJIT_DEVICE constexpr int up_row(int i) {
  if (kInterleaved) return 2 * i + (kUpFirst ? 0 : 1);
  return i + (kUpFirst ? 0 : kIntermediateSize);
}
MOEJIT_DEVICE f32 bias13(const MoeArgs& a, int expert, int row) {
  return load_element(a.b13, static_cast<i64>(expert) * kW13Rows + row);
}

// --- activation --------------------------------------------------------------------------------
MOEJIT_DEVICE f32 sigmoid_f32(f32 x) {
  if constexpr (kIsF32) {
    return 1.0f / (1.0f + exp_f32(-x));
  } else {
    return fast_div(1.0f, 1.0f + fast_exp_f32(-x));
  }
}
// fminf and fmaxf drop a NaN; a NaN of the product must reach the output.
MOEJIT_DEVICE f32 clamp_high(f32 x, f32 limit) {
  return x > limit ? limit : x;
}
MOEJIT_DEVICE f32 clamp_low(f32 x, f32 limit) {
  return x < limit ? limit : x;
}
// The gate's function alone (Activation of config.h).
MOEJIT_DEVICE f32 activate_gate(f32 g) {
  constexpr f32 kLimit = static_cast<f32>(kSwigluLimit);
  if constexpr (kActivation == 0) return g * sigmoid_f32(g);
  if constexpr (kActivation == 1) return 0.5f * g * (1.0f + erf_f32(g * 0.70710678118654752f));
  if constexpr (kActivation == 2) {
    return 0.5f * g * (1.0f + tanh_f32(0.79788456080286536f * (g + 0.044715f * g * g * g)));
  }
  if constexpr (kActivation == 3) {
    const f32 r = clamp_low(g, 0.0f);
    return r * r;
  }
  const f32 c = clamp_high(g, kLimit);
  if constexpr (kActivation == 4) return c * sigmoid_f32(static_cast<f32>(kSwigluAlpha) * c);
  return c * sigmoid_f32(c);
}
// h from the two products (or the one, where not gated), after bias.
MOEJIT_DEVICE f32 activate(f32 g, f32 u) {
  constexpr f32 kLimit = static_cast<f32>(kSwigluLimit);
  if constexpr (!kGated) return activate_gate(g);
  if constexpr (kActivation == 4)
    return activate_gate(g) * (clamp_low(clamp_high(u, kLimit), -kLimit) + 1.0f);
  if constexpr (kActivation == 5)
    return activate_gate(g) * clamp_low(clamp_high(u, kLimit), -kLimit);
  return activate_gate(g) * u;
}

// --- slots -------------------------------------------------------------------------------------
MOEJIT_DEVICE i32 slot_expert(const MoeArgs& a, i64 slot) {
  const i64 token = slot / kSlots;
  const int j = static_cast<int>(slot - token * kSlots);
  if (kNumSharedExperts > 0 && j >= kTopK) return kNumExperts + (j - kTopK);
  const i32 id = ldg_i32(a.topk_ids + token * kTopK + j);
  return id >= 0 && id < kNumExperts ? id : -1;
}
// Only of a slot whose expert is not -1.
MOEJIT_DEVICE f32 slot_weight(const MoeArgs& a, i64 slot) {
  if constexpr (kNumSharedExperts == 0) return ldg_f32(a.topk_weights + slot);
  const i64 token = slot / kSlots;
  const int j = static_cast<int>(slot - token * kSlots);
  if (j >= kTopK) return 1.0f;
  return ldg_f32(a.topk_weights + token * kTopK + j);
}

}  // namespace moe
