// Primitives of primitives.md that sm_80 adds, on the simulator.
#pragma once

#include "device/sim/base.h"

namespace dev {

MOEJIT_DEVICE void cp_async16(u32 dst, const void* src, bool valid, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->cp_async(dst, src, valid, line);
}
MOEJIT_DEVICE void cp_async16_hint(u32 dst, const void* src, bool valid, u64, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->cp_async(dst, src, valid, line);
}
MOEJIT_DEVICE void cp_async_commit(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->cp_async_commit(line);
}
template <int N>
MOEJIT_DEVICE void cp_async_wait(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->cp_async_wait(N, line);
}

#define MOEJIT_SIM_LDMATRIX(NAME, COUNT, TRANS)                         \
  MOEJIT_DEVICE void NAME(u32(&r)[COUNT], u32 a, MOEJIT_SIM_LINE) {     \
    moejit_sim::LdmatrixArgs args{a, COUNT, TRANS, r};                  \
    moejit_sim_runtime->collective(moejit_sim::kLdmatrix, &args, line); \
  }
MOEJIT_SIM_LDMATRIX(ldmatrix_x4, 4, 0)
MOEJIT_SIM_LDMATRIX(ldmatrix_x2, 2, 0)
MOEJIT_SIM_LDMATRIX(ldmatrix_x4_trans, 4, 1)
MOEJIT_SIM_LDMATRIX(ldmatrix_x2_trans, 2, 1)
#undef MOEJIT_SIM_LDMATRIX

#define MOEJIT_SIM_MMA(NAME, TYPE)                                                           \
  MOEJIT_DEVICE void NAME(f32(&d)[4], const u32(&a)[4], const u32(&b)[2], MOEJIT_SIM_LINE) { \
    moejit_sim::MmaArgs args{moejit_sim::TYPE, d, a, b};                                     \
    moejit_sim_runtime->collective(moejit_sim::kMma, &args, line);                           \
  }
MOEJIT_SIM_MMA(mma_bf16, kBf16)
MOEJIT_SIM_MMA(mma_f16, kF16)
MOEJIT_SIM_MMA(mma_tf32, kTf32)
#undef MOEJIT_SIM_MMA

}  // namespace dev
