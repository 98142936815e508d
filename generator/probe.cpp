#include "generator/probe.h"

#include "generator/families/cpu_probe.h"
#include "generator/families/cuda_probe.h"
#include "generator/families/hip_probe.h"

namespace moejit::internal {

std::optional<Probe> emit_probe(const Target& target, DType dtype) {
  if (target.backend == BackendKind::kCpu) return emit_cpu_probe(target, dtype);
  if (target.backend == BackendKind::kCuda) return emit_cuda_probe(target, dtype);
  if (target.backend == BackendKind::kHip) return emit_hip_probe(target, dtype);
  return std::nullopt;
}

}  // namespace moejit::internal
