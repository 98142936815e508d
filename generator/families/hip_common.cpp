#include "generator/families/hip_common.h"

#include "generator/emit.h"
#include "generator/families/cuda_common.h"
#include "generator/template_store.h"

namespace moejit::internal::hip {

std::optional<std::string> why_not_gfx9(const Target& target) {
  if (target.backend != BackendKind::kHip && target.backend != BackendKind::kSim) {
    return "target: must be a HIP device or its simulator";
  }
  if (target.arch != "gfx90a" && target.arch != "gfx942") {
    return "arch = " + target.arch + ": must be gfx90a or gfx942";
  }
  return std::nullopt;
}

std::optional<std::string> why_not_registers(const Schedule& schedule, int waves, int registers) {
  const int per_simd = (schedule.at("blocks") * waves + 3) / 4;
  if (per_simd > 8) {
    return gpu::refuse(schedule, "blocks",
                       std::to_string(schedule.at("blocks")) + " blocks of " +
                           std::to_string(waves) + " waves are more than the 32 of a unit");
  }
  if (registers * per_simd > kRegisters) {
    return gpu::refuse(schedule, "blocks",
                       "a lane would need " + std::to_string(registers) + " registers, above the " +
                           std::to_string(kRegisters / per_simd) + " that " +
                           std::to_string(per_simd) + " waves a SIMD leave");
  }
  return std::nullopt;
}

std::optional<std::string> why_not_lds(const Schedule& schedule, const char* name, int64_t bytes) {
  const int64_t limit = kLdsBytes / schedule.at("blocks");
  if (bytes <= limit) return std::nullopt;
  return gpu::refuse(schedule, name,
                     "a block would need " + std::to_string(bytes) + " bytes of LDS, above the " +
                         std::to_string(limit) + " that " + std::to_string(schedule.at("blocks")) +
                         " resident blocks leave");
}

KernelSource make_source(const MoeConfig& config, const Target& target, const Schedule& schedule,
                         const std::vector<WorkspaceRegion>& workspace, const char* kernels) {
  const bool sim = target.backend == BackendKind::kSim;
  KernelSource source;
  source.name = "moe_" + short_name(config) + (sim ? ".cc" : ".hip");
  source.arch = target.arch;
  source.language = sim ? "sim" : "hip";
  source.workspace = workspace;
  // MI300X: eight dies of 38 units with an L2 each, which blocks go round (MI300A: six); MI250X:
  // one die a device. The simulator's four make the order matter.
  const bool dies_of_38 = target.arch == "gfx942" && target.num_units % 38 == 0;
  const int dies = sim ? 4 : dies_of_38 ? target.num_units / 38 : 1;
  source.text =
      (sim ? "#define MOEJIT_OWN_MATH 1\n"
           : "#define MOEJIT_DEVICE_FN __attribute__((device)) inline "
             "__attribute__((always_inline))\n") +
      emit_constants(config, schedule) +
      // Units of the stream are numbered without groups of row tiles.
      (schedule.params.contains("raster")
           ? ""
           : "namespace moejit_cfg {\nconstexpr int kSched_raster = 1;\n}\n") +
      emit_workspace(workspace) + "#define MOEJIT_PLAN_BLOCKS 1\n#define MOEJIT_DIES " +
      std::to_string(dies) + "\n" +
      (sim ? "#define MOEJIT_FLUSH_HALF " + std::string(target.arch == "gfx90a" ? "1" : "0") + "\n"
           : "") +
      expand_templates({sim ? "device/sim/gfx9.h" : "device/hip_gfx9.h", kernels});
  return source;
}

KernelSource make_layer(const MoeConfig& config, const Target& target, const Schedule& schedule,
                        const char* kernels, const std::string& prefix, int threads,
                        int64_t lds_bytes) {
  const int64_t slots = gpu::slots(config);
  std::vector<WorkspaceRegion> workspace = gpu::plan_regions(config, schedule.at("tile_m"));
  workspace.push_back(
      {.name = "h", .bytes_per_token = slots * config.intermediate_size * size_of(config.dtype)});
  workspace.push_back({.name = "y", .bytes_per_token = slots * config.hidden_size * 4});
  KernelSource source = make_source(config, target, schedule, workspace, kernels);
  Entry entry;
  entry.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = schedule.at("blocks")};
  entry.threads = threads;
  entry.shared_bytes = static_cast<int32_t>(lds_bytes);
  source.entries.push_back(gpu::route_entry(config));
  source.entries.push_back(gpu::plan_entry(target));
  entry.name = prefix + "_gate_up";
  source.entries.push_back(entry);
  entry.name = prefix + "_down";
  source.entries.push_back(entry);
  source.entries.push_back(gpu::combine_entry(config));
  for (Entry& each : source.entries) each.dependent_launch = false;
  return source;
}

}  // namespace moejit::internal::hip
