// What the families for AMD GPUs share.
#pragma once

#include <string>

#include "generator/family.h"

namespace moejit::internal::hip {

// Most LDS of one block.
constexpr int64_t kLdsBytes = 64 << 10;

// What the rules of legality count. A unit (a compute unit; of RDNA a workgroup processor) has four
// SIMDs.
struct Arch {
  const char* name;
  int wave_lanes;
  int waves;          // most of one SIMD
  int registers;      // of 32 bits, that the waves of one SIMD share, a lane's worth each
  int most_of_lane;   // registers of one lane
  int64_t lds_bytes;  // of a unit
  // Bytes under way that keep a unit's share of the bandwidth busy: twice the bandwidth times a
  // microsecond, shared by the units.
  double busy_bytes;
};
const Arch* arch_of(const Target& target);  // or null

// Real and simulated targets with matrix instructions that the templates know.
std::optional<std::string> why_not_amd(const MoeConfig& config, const Target& target);
// The rule on the waves of `blocks` blocks of `waves` waves that need `registers` each.
std::optional<std::string> why_not_registers(const Schedule& schedule, const Target& target,
                                             int waves, int registers);
std::optional<std::string> why_not_lds(const Schedule& schedule, const Target& target,
                                       const char* name, int64_t bytes);

// Constants, workspace table, primitives and `kernels` (a path under templates/).
KernelSource make_source(const MoeConfig& config, const Target& target, const Schedule& schedule,
                         const std::vector<WorkspaceRegion>& workspace, const char* kernels);

// Into how many ranges blocks of their own cut the reductions. More than one of gate and up add the
// entry `<prefix>_sums` behind it.
struct Split {
  int gate_up = 1;
  int down = 1;
};
// Route, plan, `gate_up`, `down`, combine: what every family launches.
KernelSource make_layer(const MoeConfig& config, const Target& target, const Schedule& schedule,
                        const char* kernels, const std::string& prefix, int threads,
                        int64_t lds_bytes, Split split = {});

}  // namespace moejit::internal::hip
