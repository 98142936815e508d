// Which schedules gpu_moe builds, and what routed launches need.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "arguments.h"
#include "backends/backend.h"
#include "generator/family.h"
#include "moejit/tuning.h"
#include "tuner/workload.h"

namespace moejit::gpu_bench {

using namespace moejit::internal;

struct Built {
  const Family* family = nullptr;
  Schedule schedule;
  KernelSource source;
  Result<Binary> binary = Status(StatusCode::kInternal, "not compiled");
};

// Fills binary of every entry, on all cores; from `known`, the schedules of this layer that were
// compiled before, where it is given.
void compile_all(const Device& device, const MoeConfig& config, std::vector<Built>* list,
                 std::map<std::string, Binary>* known = nullptr);

// What the model ranks best for these routings: `samples` schedules, at most half of them of one
// family while others are left, and each family's default.
std::vector<Built> rank(const Device& device, const MoeConfig& config, const Arguments& args,
                        const DeviceLimits& limits, const std::vector<RowCounts>& routings,
                        int64_t tokens);

// The schedules of --schedule, else the default schedule of each family for `tokens` and `samples`
// - 1 more of its legal ones.
std::vector<Built> pick(const Device& device, const MoeConfig& config, const Arguments& args,
                        int64_t tokens, std::mt19937* random);

// Logits and room for what the router writes, for launches with routing.
struct RouterBuffers {
  std::shared_ptr<void> logits, bias, ids, weights;
  int64_t logits_per_set = 0;
  int sets = 1;
  void apply(MoeArgs* a, int launch) const {
    a->router_logits = static_cast<const float*>(logits.get()) + logits_per_set * (launch % sets);
    a->correction_bias = static_cast<const float*>(bias.get());
    a->topk_ids = static_cast<const int*>(ids.get());
    a->topk_weights = static_cast<const float*>(weights.get());
    a->logits_dtype = 0;
    a->routed = 1;
  }
};
// One set of logits for each routing of the workload, such that the router arrives at that routing
// (where groups forbid some choices: at one nearby).
Result<RouterBuffers> router_buffers(const Device& device, const Workload& load);

}  // namespace moejit::gpu_bench
