// Probe kernels of NVIDIA GPUs (templates/kernels/probe.h, probe90.h).
#pragma once

#include "generator/probe.h"

namespace moejit::internal {

Probe emit_cuda_probe(const Target& target, DType dtype);

}  // namespace moejit::internal
