// AMD's gfx9 on the simulator: waves of 64 lanes and their matrix cores.
#pragma once

#define MOEJIT_WAVE 64
#include "device/sim/gfx_base.h"

namespace dev {

typedef f32 facc4 __attribute__((ext_vector_type(4)));
typedef f32 facc16 __attribute__((ext_vector_type(16)));

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

}  // namespace dev
