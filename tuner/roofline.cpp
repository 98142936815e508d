#include "tuner/roofline.h"

#include <algorithm>

namespace moejit::internal {

double predict_seconds(const std::vector<PhaseWork>& work, const DeviceLimits& limits) {
  // A CPU's last-level cache is taken to move four times as much as DRAM.
  const double cache =
      limits.l2_bytes_per_s > 0 ? limits.l2_bytes_per_s : 4 * limits.read_bytes_per_s;
  double total = 0;
  for (const PhaseWork& phase : work) {
    const double busy = std::max(phase.parallel, 1e-3);
    const double memory = (phase.bytes / limits.read_bytes_per_s + phase.cache_bytes / cache) /
                          std::max(phase.l2_bytes > 0 ? phase.streaming : busy, 1e-3);
    const double l2 = phase.l2_bytes / (cache * busy);
    const double arithmetic = (phase.dot_flops / limits.dot_flops_per_s +
                               phase.vector_flops / limits.vector_flops_per_s) /
                              busy;
    // The nearer memory and operations are, the more often one waits for the other.
    const double longer = std::max(memory, arithmetic), shorter = std::min(memory, arithmetic);
    const double exposed = longer > 0 ? phase.exposed * shorter * shorter / longer : 0;
    total += std::max(longer, l2) + exposed + phase.latency_s + phase.launches * limits.launch_s;
  }
  return total;
}

double floor_seconds(const Floor& floor, const DeviceLimits& limits) {
  return std::max(floor.bytes / limits.read_bytes_per_s, floor.flops / limits.dot_flops_per_s);
}

double predict_seconds(const MoeConfig& config, const Target& target, const Schedule& schedule,
                       const DeviceLimits& limits, const std::vector<RowCounts>& routings) {
  const Family* family = find_family(schedule.family);
  double sum = 0;
  for (const RowCounts& rows : routings) {
    sum += predict_seconds(family->work(config, target, schedule, rows), limits);
  }
  return routings.empty() ? 0 : sum / static_cast<double>(routings.size());
}

std::vector<RankedSchedule> rank_schedules(const MoeConfig& config, const Target& target,
                                           const DeviceLimits& limits,
                                           const std::vector<RowCounts>& routings) {
  std::vector<std::pair<RankedSchedule, std::string>> ranked;
  for (Schedule& schedule : legal_schedules(config, target)) {
    const double seconds = predict_seconds(config, target, schedule, limits, routings);
    std::string text = schedule.to_json();
    ranked.push_back({{std::move(schedule), seconds}, std::move(text)});
  }
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    if (a.first.predicted_s != b.first.predicted_s)
      return a.first.predicted_s < b.first.predicted_s;
    return a.second < b.second;
  });
  std::vector<RankedSchedule> result;
  for (auto& entry : ranked) result.push_back(std::move(entry.first));
  return result;
}

MeanFloor mean_floor(const MoeConfig& config, const DeviceLimits& limits,
                     const std::vector<RowCounts>& routings, int64_t tokens) {
  MeanFloor mean;
  for (const RowCounts& rows : routings) {
    const Floor floor = layer_floor(config, rows, tokens);
    const double share = 1.0 / static_cast<double>(routings.size());
    mean.seconds += share * floor_seconds(floor, limits);
    mean.bytes += share * floor.bytes;
    mean.flops += share * floor.flops;
  }
  return mean;
}

}  // namespace moejit::internal
