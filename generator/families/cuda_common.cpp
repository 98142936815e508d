#include "generator/families/cuda_common.h"

#include <algorithm>
#include <cmath>

#include "generator/emit.h"
#include "generator/template_store.h"

namespace moejit::internal::gpu {
namespace {

// Words behind the counts that the plan clears, kPlanCleared of plan.h.
int64_t plan_words(bool routes) {
  return routes ? 5 : 2;
}

}  // namespace

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int arch_number(const Target& target) {
  if (target.arch.rfind("sm_", 0) != 0) return 0;
  int number = 0;
  for (size_t i = 3; i < target.arch.size() && target.arch[i] >= '0' && target.arch[i] <= '9';
       ++i) {
    number = number * 10 + (target.arch[i] - '0');
  }
  return number;
}

std::optional<std::string> why_not_nvidia(const MoeConfig& config, const Target& target,
                                          int oldest_arch) {
  if (target.backend != BackendKind::kCuda && target.backend != BackendKind::kSim) {
    return "target: must be a CUDA device or its simulator";
  }
  if (arch_number(target) < oldest_arch) {
    return "arch = " + target.arch + ": must be sm_" + std::to_string(oldest_arch) + " or later";
  }
  if (config.packed) return why_not_packed();
  return std::nullopt;
}

std::string why_not_packed() {
  return "packed = true: must be false, only kernels for the CPU read packed weights";
}

std::optional<std::string> why_not_values(const Family& family, const Schedule& schedule) {
  for (const Param& param : family.params()) {
    const auto it = schedule.params.find(param.name);
    if (it == schedule.params.end()) return param.name + ": is missing";
    if (std::find(param.values.begin(), param.values.end(), it->second) == param.values.end()) {
      return param.name + " = " + std::to_string(it->second) + ": is not one of its values";
    }
  }
  return std::nullopt;
}

std::string refuse(const Schedule& schedule, const char* name, const std::string& rule) {
  return std::string(name) + " = " + std::to_string(schedule.at(name)) + ": " + rule;
}

int64_t shared_per_unit(const Target& target) {
  return target.shared_bytes + 1024;
}

// Blocks that make the work list together: one cluster of the largest portable size, where there
// are clusters.
int plan_blocks(const Target& target) {
  return arch_number(target) == 90 ? 8 : 1;
}

KernelSource make_source(const MoeConfig& config, const Target& target, const Schedule& schedule,
                         const std::vector<WorkspaceRegion>& workspace, const char* kernels,
                         bool plan_routes) {
  const bool sim = target.backend == BackendKind::kSim;
  const bool hopper = arch_number(target) == 90;
  KernelSource source;
  source.name = "moe_" + short_name(config) + (sim ? ".cc" : ".cu");
  source.arch = target.arch;
  source.language = sim ? "sim" : "cuda";
  source.workspace = workspace;
  const char* device = sim ? (hopper ? "device/sim/sm90.h" : "device/sim/sm80.h")
                           : (hopper ? "device/cuda_wgmma.h" : "device/cuda_sm80.h");
  source.text = emit_constants(config, schedule) + emit_workspace(workspace) +
                "#define MOEJIT_PLAN_BLOCKS " + std::to_string(plan_blocks(target)) + "\n" +
                "#define MOEJIT_PLAN_ROUTES " + (plan_routes ? "1" : "0") + "\n" +
                expand_templates({device, kernels});
  return source;
}

Entry route_entry(const MoeConfig& config) {
  constexpr int kWarps = 4;  // kRouteWarps of route.h
  Entry entry;
  entry.name = "moe_route";
  entry.when = When::kRouted;
  entry.grid = {.fixed = 0, .per_token_num = 1, .per_token_den = kWarps};
  entry.threads = kWarps * 32;
  entry.shared_bytes = kWarps * (config.num_experts + config.router.n_group) * 4;
  return entry;
}

Entry plan_entry(const MoeConfig& config, const Target& target, bool routes) {
  Entry entry;
  entry.name = "moe_plan";
  entry.grid = {.fixed = plan_blocks(target)};
  entry.cluster = plan_blocks(target);
  entry.threads = 1024;
  entry.shared_bytes = 1024 * 4 + 32 * 8;
  if (routes && config.router.topk_group < config.router.n_group)  // scratch of 32 warps
    entry.shared_bytes += 32 * (config.num_experts + config.router.n_group) * 4;
  entry.dependent_launch = true;
  return entry;
}

Entry combine_entry(const MoeConfig& config) {
  Entry entry;
  entry.name = "moe_combine";
  entry.grid = {.fixed = 0,
                .per_token_num = config.hidden_size / 4,
                .per_token_den = 256,
                .per_unit_cap = 16};
  entry.threads = 256;
  entry.dependent_launch = true;
  return entry;
}

std::vector<WorkspaceRegion> plan_regions(const MoeConfig& config, int64_t tile_rows, bool routes) {
  const int64_t experts = config.total_experts();
  return {
      {.name = "counts", .fixed_bytes = 4 * (experts + 2 + plan_words(routes))},
      {.name = "rows", .bytes_per_token = 4 * slots(config)},
      {.name = "tiles",
       .fixed_bytes = 16 * experts,
       .bytes_per_token = ceil_div(16 * slots(config), tile_rows)},
  };
}

double wave_share(double items, double units) {
  if (items <= 0 || units <= 0) return 1;
  return items / (std::ceil(items / units) * units);
}

double streaming_share(double items, double in_flight, const Target& target) {
  return std::clamp(std::min(items / target.num_units, in_flight / (40 << 10)), 0.05, 0.97);
}

double token_count(const MoeConfig& config, const RowCounts& rows) {
  double pairs = 0;
  for (int64_t count : rows) pairs += static_cast<double>(count);
  return pairs / static_cast<double>(slots(config));
}

PhaseWork plan_work(const MoeConfig& config, double tokens) {
  PhaseWork work;
  work.name = "plan";
  // One block or cluster, about 12 bytes a slot through one unit.
  work.l2_bytes = 12.0 * tokens * static_cast<double>(slots(config));
  work.parallel = 0.02;
  work.latency_s = 3e-6;  // between its passes over the ids: measured, an H200
  work.launches = 1;
  return work;
}

PhaseWork combine_work(const MoeConfig& config, double tokens, double y_bytes) {
  PhaseWork work;
  work.name = "combine";
  const double row = static_cast<double>(config.hidden_size);
  work.bytes =
      tokens * row * (y_bytes * static_cast<double>(slots(config)) + size_of(config.dtype));
  work.launches = 1;
  return work;
}

}  // namespace moejit::internal::gpu
