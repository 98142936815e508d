// What the GPU families share: entries, regions, the head of the generated text, legality helpers.
#pragma once

#include <string>

#include "generator/family.h"

namespace moejit::internal::gpu {

int64_t ceil_div(int64_t a, int64_t b);
inline int64_t slots(const MoeConfig& c) {
  return int64_t{c.top_k} + c.num_shared_experts;
}

// "sm_90a" -> 90; 0 where the arch is not NVIDIA's.
int arch_number(const Target& target);
// Simulated and real targets of NVIDIA's instruction set.
std::optional<std::string> why_not_nvidia(const MoeConfig& config, const Target& target,
                                          int oldest_arch);
std::string why_not_packed();
// Every parameter present and one of its values.
std::optional<std::string> why_not_values(const Family& family, const Schedule& schedule);
std::string refuse(const Schedule& schedule, const char* name, const std::string& rule);

int plan_blocks(const Target& target);

// Shared memory of one unit, of which each resident block also takes 1 KiB.
int64_t shared_per_unit(const Target& target);

// Constants, workspace table, primitives and `kernels` (a path under templates/).
KernelSource make_source(const MoeConfig& config, const Target& target, const Schedule& schedule,
                         const std::vector<WorkspaceRegion>& workspace, const char* kernels,
                         bool plan_routes = false);

Entry route_entry(const MoeConfig& config);
// `routes`: it is the router, too.
Entry plan_entry(const MoeConfig& config, const Target& target, bool routes = false);
Entry combine_entry(const MoeConfig& config);

// The regions of plan.h for tiles of `tile_rows` rows: counts, rows, tiles.
std::vector<WorkspaceRegion> plan_regions(const MoeConfig& config, int64_t tile_rows,
                                          bool routes = false);

// Share of the units kept busy by `items` equal pieces of work.
double wave_share(double items, double units);
// Share of the read rate that `items` persistent tiles sustain when a unit keeps `in_flight` bytes
// requested: blocks that have no tile read nothing, and a rate times a latency is a size (40 KiB a
// unit on an H200).
double streaming_share(double items, double in_flight, const Target& target);

// What routing, planning and combining cost, for Family::work().
PhaseWork plan_work(const MoeConfig& config, double tokens);
// `y_bytes`: of the partial results of one slot and column.
PhaseWork combine_work(const MoeConfig& config, double tokens, double y_bytes = 4);
double token_count(const MoeConfig& config, const RowCounts& rows);

}  // namespace moejit::internal::gpu
