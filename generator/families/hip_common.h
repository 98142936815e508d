// What the families for AMD GPUs share.
#pragma once

#include <string>

#include "generator/family.h"

namespace moejit::internal::hip {

// Most LDS of one block, which is all that a unit has.
constexpr int64_t kLdsBytes = 64 << 10;
// 32-bit registers that the waves of one SIMD share, a lane's worth each.
constexpr int kRegisters = 512;

// Real and simulated targets with gfx9's matrix cores.
std::optional<std::string> why_not_gfx9(const Target& target);
// The rule on the waves of `blocks` blocks of `waves` waves that need `registers` each.
std::optional<std::string> why_not_registers(const Schedule& schedule, int waves, int registers);
std::optional<std::string> why_not_lds(const Schedule& schedule, const char* name, int64_t bytes);

// Constants, workspace table, primitives and `kernels` (a path under templates/).
KernelSource make_source(const MoeConfig& config, const Target& target, const Schedule& schedule,
                         const std::vector<WorkspaceRegion>& workspace, const char* kernels);

// Route, plan, `gate_up`, `down`, combine: what every family launches.
KernelSource make_layer(const MoeConfig& config, const Target& target, const Schedule& schedule,
                        const char* kernels, const std::string& prefix, int threads,
                        int64_t lds_bytes);

}  // namespace moejit::internal::hip
