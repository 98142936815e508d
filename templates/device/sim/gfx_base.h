// Primitives of primitives.md that AMD's GPUs add, on the simulator. Text that includes this
// defines MOEJIT_OWN_MATH first, and MOEJIT_WAVE where a wave has not 64 lanes.
#pragma once

#include "device/sim/base.h"

#ifndef MOEJIT_WAVE
#define MOEJIT_WAVE 64
#endif

namespace dev {

MOEJIT_DEVICE u32 wave_lane() {
  return moejit_sim_self->thread & (MOEJIT_WAVE - 1u);
}
MOEJIT_DEVICE u32 wave_id() {
  return moejit_sim_self->thread / MOEJIT_WAVE;
}

MOEJIT_DEVICE i32 ldk_i32(const void* p, MOEJIT_SIM_LINE) {
  return ldg_i32(p, line);
}
MOEJIT_DEVICE u32x4 ldk_u32x4(const void* p, MOEJIT_SIM_LINE) {
  return ldg_u32x4(p, line);
}

MOEJIT_DEVICE void in_order() {}

// Not of these targets; declared so that templates which never call them can name them.
void mma_bf16(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
void mma_f16(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);

}  // namespace dev

#include "device/hip_math.h"
