// Primitives of primitives.md that AMD's gfx9 adds, on the simulator: waves of 64 lanes and their
// matrix cores. Text that includes this defines MOEJIT_OWN_MATH first.
#pragma once

#include "device/sim/base.h"

namespace dev {

typedef f32 facc4 __attribute__((ext_vector_type(4)));
typedef f32 facc16 __attribute__((ext_vector_type(16)));

MOEJIT_DEVICE u32 wave_lane() {
  return moejit_sim_self->thread & 63u;
}
MOEJIT_DEVICE u32 wave_id() {
  return moejit_sim_self->thread >> 6;
}

MOEJIT_DEVICE i32 ldk_i32(const void* p, MOEJIT_SIM_LINE) {
  return ldg_i32(p, line);
}
MOEJIT_DEVICE u32x4 ldk_u32x4(const void* p, MOEJIT_SIM_LINE) {
  return ldg_u32x4(p, line);
}

MOEJIT_DEVICE void in_order() {}

// gfx90a takes subnormal 16-bit operands for zero.
#ifndef MOEJIT_FLUSH_HALF
#define MOEJIT_FLUSH_HALF 0
#endif

#define MOEJIT_SIM_MFMA(NAME, SIZE, TYPE, ACC, OPERAND)                    \
  MOEJIT_DEVICE void NAME(ACC& d, OPERAND a, OPERAND b, MOEJIT_SIM_LINE) { \
    moejit_sim::MfmaArgs args{moejit_sim::TYPE,                            \
                              SIZE,                                        \
                              MOEJIT_FLUSH_HALF,                           \
                              reinterpret_cast<float*>(&d),                \
                              reinterpret_cast<const unsigned*>(&a),       \
                              reinterpret_cast<const unsigned*>(&b)};      \
    moejit_sim_runtime->collective(moejit_sim::kMfma, &args, line);        \
  }
MOEJIT_SIM_MFMA(mfma16_bf16, 16, kBf16, facc4, u32x2)
MOEJIT_SIM_MFMA(mfma16_f16, 16, kF16, facc4, u32x2)
MOEJIT_SIM_MFMA(mfma16_f32, 16, kF32, facc4, f32)
MOEJIT_SIM_MFMA(mfma32_bf16, 32, kBf16, facc16, u32x2)
MOEJIT_SIM_MFMA(mfma32_f16, 32, kF16, facc16, u32x2)
MOEJIT_SIM_MFMA(mfma32_f32, 32, kF32, facc16, f32)
#undef MOEJIT_SIM_MFMA

// Not of this target; declared so that templates which never call them can name them.
void mma_bf16(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
void mma_f16(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);

}  // namespace dev

#include "device/hip_math.h"
