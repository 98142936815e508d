// Probe kernels for AMD GPUs.
#pragma once

#include "generator/probe.h"

namespace moejit::internal {

Probe emit_hip_probe(const Target& target, DType dtype);

}  // namespace moejit::internal
