#include "generator/families/hip_probe.h"

#include "generator/families/hip_common.h"

namespace moejit::internal {

Probe emit_hip_probe(const Target& target, DType dtype) {
  // The templates read the dtype alone of these.
  const MoeConfig config{.num_experts = 1,
                         .top_k = 1,
                         .hidden_size = 64,
                         .intermediate_size = 64,
                         .dtype = dtype,
                         .router = {}};
  Probe probe;
  probe.read = hip::make_source(config, target, Schedule{.family = "hip_probe", .params = {}}, {},
                                "kernels/probe_mfma.h");
  probe.dot = probe.read;

  Entry entry;
  entry.threads = 512;
  entry.name = "probe_read";
  entry.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = 4};
  probe.read.name = std::string("probe_read_") + to_string(dtype) + ".hip";
  probe.read.entries = {entry};

  entry.name = "probe_dot";
  entry.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = 1};
  probe.dot.name = std::string("probe_dot_") + to_string(dtype) + ".hip";
  probe.dot.entries = {entry};
  constexpr double kThreads = 512, kChains = 4;
  const int lanes = hip::arch_of(target)->wave_lanes;
  const double side = lanes == 64 ? 32 : 16;
  const double depth = (lanes == 64 ? 8 : 16) / (dtype == DType::kF32 ? (lanes == 64 ? 4 : 2) : 1);
  probe.dot_flops_per_iteration =
      2.0 * side * side * depth * (kThreads / lanes) * kChains * target.num_units;
  probe.out_bytes = 256;
  return probe;
}

}  // namespace moejit::internal
