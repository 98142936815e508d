// Probe kernels of the CPU: templates/cpu/probe.h for one target and dtype.
#pragma once

#include "generator/probe.h"

namespace moejit::internal {

// `read` is the best streaming read that the target's vectors give. `dot` is register-only: each
// worker runs 24 independent accumulators (12 on AVX2) of the dtype's multiply-add, which is
// vdpbf16ps for bf16 where the target has it (64 flops), else an f32 FMA (32 flops, 16 on AVX2):
// 1536, 768 or 192 flops per worker and iteration.
Probe emit_cpu_probe(const Target& target, DType dtype);

}  // namespace moejit::internal
