#include "generator/families/hip_common.h"

#include <algorithm>

#include "generator/emit.h"
#include "generator/families/cuda_common.h"
#include "generator/template_store.h"

namespace moejit::internal::hip {

namespace {

// gfx9: the CDNA ISA documents; gfx1100: the RDNA 3 ISA document, and 1536 registers a lane and
// SIMD as LLVM's AMDGPU usage page has it. Bandwidths: those of the tuner's published limits.
constexpr Arch kArchs[] = {
    {"gfx90a", 64, 8, 512, 512, 64 << 10, 29 << 10},
    {"gfx942", 64, 8, 512, 512, 64 << 10, 32 << 10},
    {"gfx1100", 32, 16, 1536, 256, 128 << 10, 39 << 10},
};

}  // namespace

const Arch* arch_of(const Target& target) {
  for (const Arch& arch : kArchs) {
    if (target.arch == arch.name) return &arch;
  }
  return nullptr;
}

std::optional<std::string> why_not_amd(const MoeConfig& config, const Target& target) {
  if (target.backend != BackendKind::kHip && target.backend != BackendKind::kSim) {
    return "target: must be a HIP device or its simulator";
  }
  if (arch_of(target) == nullptr) {
    return "arch = " + target.arch + ": must be gfx90a, gfx942 or gfx1100";
  }
  if (config.packed) return gpu::why_not_packed();
  return std::nullopt;
}

std::optional<std::string> why_not_registers(const Schedule& schedule, const Target& target,
                                             int waves, int registers) {
  const Arch& arch = *arch_of(target);
  const int per_simd = (schedule.at("blocks") * waves + 3) / 4;
  if (per_simd > arch.waves) {
    return gpu::refuse(schedule, "blocks",
                       std::to_string(schedule.at("blocks")) + " blocks of " +
                           std::to_string(waves) + " waves are more than the " +
                           std::to_string(4 * arch.waves) + " of a unit");
  }
  const int most = std::min(arch.registers / per_simd, arch.most_of_lane);
  if (registers > most) {
    return gpu::refuse(schedule, "blocks",
                       "a lane would need " + std::to_string(registers) + " registers, above the " +
                           std::to_string(most) + " that " + std::to_string(per_simd) +
                           " waves a SIMD leave");
  }
  return std::nullopt;
}

std::optional<std::string> why_not_lds(const Schedule& schedule, const Target& target,
                                       const char* name, int64_t bytes) {
  const int64_t limit = std::min(kLdsBytes, arch_of(target)->lds_bytes / schedule.at("blocks"));
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
  const bool wide = arch_of(target)->wave_lanes == 64;
  const char* device = sim ? (wide ? "device/sim/gfx9.h" : "device/sim/gfx11.h")
                           : (wide ? "device/hip_gfx9.h" : "device/hip_gfx11.h");
  source.text = (sim ? "#define MOEJIT_OWN_MATH 1\n"
                     : "#define MOEJIT_DEVICE_FN __attribute__((device)) inline "
                       "__attribute__((always_inline))\n") +
                emit_constants(config, schedule) +
                // Units of the stream are numbered without groups of row tiles.
                (schedule.params.contains("raster")
                     ? ""
                     : "namespace moejit_cfg {\nconstexpr int kSched_raster = 1;\n}\n") +
                emit_workspace(workspace) +
                emit_cache(0) +  // there is no instruction to discard what is kept
                "#define MOEJIT_PLAN_BLOCKS 1\n#define MOEJIT_PLAN_ROUTES 0\n#define MOEJIT_DIES " +
                std::to_string(dies) + "\n" +
                (sim && wide ? "#define MOEJIT_FLUSH_HALF " +
                                   std::string(target.arch == "gfx90a" ? "1" : "0") + "\n"
                             : "") +
                expand_templates({device, kernels});
  return source;
}

KernelSource make_layer(const MoeConfig& config, const Target& target, const Schedule& schedule,
                        const char* kernels, const std::string& prefix, int threads,
                        int64_t lds_bytes, Split split) {
  const int64_t slots = gpu::slots(config);
  std::vector<WorkspaceRegion> workspace = gpu::plan_regions(config, schedule.at("tile_m"));
  workspace.push_back(
      {.name = "h", .bytes_per_token = slots * config.intermediate_size * size_of(config.dtype)});
  workspace.push_back(
      {.name = "y", .bytes_per_token = slots * split.down * config.hidden_size * 4});
  const int64_t bytes_of_sums = split.gate_up > 1 ? split.gate_up * config.w13_rows() * 4 : 0;
  workspace.push_back({.name = "sums", .bytes_per_token = slots * bytes_of_sums});
  KernelSource source = make_source(config, target, schedule, workspace, kernels);
  Entry entry;
  entry.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = schedule.at("blocks")};
  entry.threads = threads;
  entry.shared_bytes = static_cast<int32_t>(lds_bytes);
  source.entries.push_back(gpu::route_entry(config));
  source.entries.push_back(gpu::plan_entry(config, target));
  entry.name = prefix + "_gate_up";
  source.entries.push_back(entry);
  if (split.gate_up > 1) {
    Entry sums;
    sums.name = prefix + "_sums";
    sums.grid = {.fixed = 0,
                 .per_token_num = slots * config.intermediate_size / 4,
                 .per_token_den = 256,
                 .per_unit_cap = 8};
    sums.threads = 256;
    source.entries.push_back(sums);
  }
  entry.name = prefix + "_down";
  source.entries.push_back(entry);
  source.entries.push_back(gpu::combine_entry(config));
  for (Entry& each : source.entries) each.dependent_launch = false;
  return source;
}

}  // namespace moejit::internal::hip
