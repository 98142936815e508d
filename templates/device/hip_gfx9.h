// Primitives of primitives.md for AMD's gfx9 with matrix cores (gfx90a, gfx942): waves of 64 lanes
// and MFMA.
#pragma once

#define MOEJIT_WAVE 64
#include "device/hip_base.h"

namespace dev {

// Accumulators of a matrix instruction: 4 of 16x16 or 16 of 32x32 a lane.
typedef f32 facc4 __attribute__((ext_vector_type(4)));
typedef f32 facc16 __attribute__((ext_vector_type(16)));

namespace detail {
typedef short v4s __attribute__((ext_vector_type(4)));
typedef _Float16 v4h __attribute__((ext_vector_type(4)));
}  // namespace detail

MOEJIT_DEVICE void mfma16_bf16(facc4& d, u32x2 a, u32x2 b) {
  d = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(detail::v4s, a),
                                                __builtin_bit_cast(detail::v4s, b), d, 0, 0, 0);
}
MOEJIT_DEVICE void mfma16_f16(facc4& d, u32x2 a, u32x2 b) {
  d = __builtin_amdgcn_mfma_f32_16x16x16f16(__builtin_bit_cast(detail::v4h, a),
                                            __builtin_bit_cast(detail::v4h, b), d, 0, 0, 0);
}
MOEJIT_DEVICE void mfma16_f32(facc4& d, f32 a, f32 b) {
  d = __builtin_amdgcn_mfma_f32_16x16x4f32(a, b, d, 0, 0, 0);
}
MOEJIT_DEVICE void mfma32_bf16(facc16& d, u32x2 a, u32x2 b) {
  d = __builtin_amdgcn_mfma_f32_32x32x8bf16_1k(__builtin_bit_cast(detail::v4s, a),
                                               __builtin_bit_cast(detail::v4s, b), d, 0, 0, 0);
}
MOEJIT_DEVICE void mfma32_f16(facc16& d, u32x2 a, u32x2 b) {
  d = __builtin_amdgcn_mfma_f32_32x32x8f16(__builtin_bit_cast(detail::v4h, a),
                                           __builtin_bit_cast(detail::v4h, b), d, 0, 0, 0);
}
MOEJIT_DEVICE void mfma32_f32(facc16& d, f32 a, f32 b) {
  d = __builtin_amdgcn_mfma_f32_32x32x2f32(a, b, d, 0, 0, 0);
}

}  // namespace dev
