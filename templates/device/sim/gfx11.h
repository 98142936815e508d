// RDNA 3 on the simulator: waves of 32 lanes and their matrix instructions.
#pragma once

#define MOEJIT_WAVE 32
#include "device/sim/gfx_base.h"

namespace dev {

typedef f32 facc8 __attribute__((ext_vector_type(8)));

#define MOEJIT_SIM_WMMA(NAME, TYPE)                                                            \
  MOEJIT_DEVICE void NAME(facc8& d, u32x4 a0, u32x4 a1, u32x4 b0, u32x4 b1, MOEJIT_SIM_LINE) { \
    const u32x4 a[2] = {a0, a1}, b[2] = {b0, b1};                                              \
    moejit_sim::WmmaArgs args{moejit_sim::TYPE, reinterpret_cast<float*>(&d),                  \
                              reinterpret_cast<const unsigned*>(a),                            \
                              reinterpret_cast<const unsigned*>(b)};                           \
    moejit_sim_runtime->collective(moejit_sim::kWmma, &args, line);                            \
  }
MOEJIT_SIM_WMMA(wmma16_bf16, kBf16)
MOEJIT_SIM_WMMA(wmma16_f16, kF16)
MOEJIT_SIM_WMMA(wmma16_f32, kF32)
#undef MOEJIT_SIM_WMMA

MOEJIT_DEVICE void hold(facc8&) {}
MOEJIT_DEVICE u32 swap_halves(u32 v, MOEJIT_SIM_LINE) {
  return shfl_xor_u32(v, 16, line);
}

}  // namespace dev
