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
// Every legal schedule with its prediction, best first; ties by JSON so that the order is total.
std::vector<RankedSchedule> rank_schedules(const MoeConfig& config, const Target& target,
                                           const DeviceLimits& limits, const RowCounts& rows);

}  // namespace moejit::internal
