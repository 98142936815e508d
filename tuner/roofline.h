// The model: counted work and the device's rates give a time.
#pragma once

#include <vector>

#include "generator/family.h"
#include "moejit/tuning.h"

namespace moejit::internal {

// Sum over phases of max(memory, arithmetic) / parallel + launches. Seconds.
double predict_seconds(const std::vector<PhaseWork>& work, const DeviceLimits& limits);

// max(bytes / read rate, operations / dot rate): no implementation is faster. Seconds.
double floor_seconds(const Floor& floor, const DeviceLimits& limits);

struct RankedSchedule {
  Schedule schedule;
  double predicted_s = 0;
};
// Mean prediction over several routings of the same token count.
double predict_seconds(const MoeConfig& config, const Target& target, const Schedule& schedule,
                       const DeviceLimits& limits, const std::vector<RowCounts>& routings);

// Every legal schedule with its mean prediction, best first; ties by JSON so that the order is
// total.
std::vector<RankedSchedule> rank_schedules(const MoeConfig& config, const Target& target,
                                           const DeviceLimits& limits,
                                           const std::vector<RowCounts>& routings);

// Mean of floor_seconds, bytes and operations over routings.
struct MeanFloor {
  double seconds = 0, bytes = 0, flops = 0;
};
MeanFloor mean_floor(const MoeConfig& config, const DeviceLimits& limits,
                     const std::vector<RowCounts>& routings, int64_t tokens);

}  // namespace moejit::internal
