#include "generator/families/cuda_probe.h"

#include "generator/families/cuda_common.h"

namespace moejit::internal {

Probe emit_cuda_probe(const Target& target, DType dtype) {
  // The templates read the dtype alone of these.
  const MoeConfig config{.num_experts = 1,
                         .top_k = 1,
                         .hidden_size = 64,
                         .intermediate_size = 64,
                         .dtype = dtype,
                         .router = {}};
  const bool wgmma = gpu::arch_number(target) == 90 && dtype != DType::kF32;
  Probe probe;
  probe.read_passes = 4;
  const Schedule schedule{.family = "cuda_probe", .params = {{"passes", probe.read_passes}}};
  probe.read = gpu::make_source(config, target, schedule, {},
                                wgmma ? "kernels/probe90.h" : "kernels/probe.h");
  probe.dot = probe.read;

  Entry read;
  read.name = "probe_read";
  read.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = 2};
  read.threads = 512;
  probe.read.name = std::string("probe_read_") + to_string(dtype) + ".cu";
  probe.read.entries = {read};

  Entry dot;
  dot.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = 1};
  double flops_per_unit = 0;
  if (wgmma) {
    dot.name = "probe_dot90";
    dot.threads = 256;
    dot.shared_bytes = 49 * 1024;
    flops_per_unit = 2.0 * 2 * 4 * 64 * 256 * 16;  // two warpgroups, four products
  } else {
    dot.name = "probe_dot";
    dot.threads = 512;
    constexpr double kChains = 8;
    flops_per_unit =
        dtype == DType::kF32 ? 2.0 * 512 * kChains * 4 : 2.0 * 16 * kChains * 16 * 8 * 16;
  }
  probe.dot.name = std::string("probe_dot_") + to_string(dtype) + ".cu";
  probe.dot.entries = {dot};
  probe.dot_flops_per_iteration = flops_per_unit * static_cast<double>(target.num_units);
  probe.out_bytes = 256;
  return probe;
}

}  // namespace moejit::internal
