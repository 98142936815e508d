#include "tuner/roofline.h"

#include <algorithm>

namespace moejit::internal {

double predict_seconds(const std::vector<PhaseWork>& work, const DeviceLimits& limits) {
  // Traffic that stays in a last-level cache is taken to move four times as fast as DRAM.
  constexpr double kCacheSpeedup = 4.0;
  double total = 0;
  for (const PhaseWork& phase : work) {
    const double memory = phase.bytes / limits.read_bytes_per_s +
                          phase.cache_bytes / (kCacheSpeedup * limits.read_bytes_per_s);
    const double arithmetic = phase.dot_flops / limits.dot_flops_per_s +
                              phase.vector_flops / limits.vector_flops_per_s;
    total += std::max(memory, arithmetic) / std::max(phase.parallel, 1e-3) +
             phase.launches * limits.launch_s;
  }
  return total;
}

double floor_seconds(const Floor& floor, const DeviceLimits& limits) {
  return std::max(floor.bytes / limits.read_bytes_per_s, floor.flops / limits.dot_flops_per_s);
}

std::vector<RankedSchedule> rank_schedules(const MoeConfig& config, const Target& target,
                                           const DeviceLimits& limits, const RowCounts& rows) {
  std::vector<std::pair<RankedSchedule, std::string>> ranked;
  for (Schedule& schedule : legal_schedules(config, target)) {
    const Family* family = find_family(schedule.family);
    const double seconds = predict_seconds(family->work(config, target, schedule, rows), limits);
    std::string text = schedule.to_json();
    ranked.push_back({{std::move(schedule), seconds}, std::move(text)});
  }
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    if (a.first.predicted_s != b.first.predicted_s) return a.first.predicted_s < b.first.predicted_s;
    return a.second < b.second;
  });
  std::vector<RankedSchedule> result;
  for (auto& entry : ranked) result.push_back(std::move(entry.first));
  return result;
}

}  // namespace moejit::internal
