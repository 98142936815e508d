// What the tuner left in a cache, for reports: every measurement, and the devices with their
// limits. As list.h: opens the file for itself, creates nothing.
#pragma once

#include "cache/list.h"

namespace moejit::internal {

struct MeasurementInfo {
  std::string problem, environment, policy;  // canonical JSON
  int64_t tokens = 0;
  std::string session, schedule, stage, status, note;
  double median_s = 0, predicted_s = 0, floor_s = 0, error = 0;
  int64_t at = 0;  // Unix seconds
};

struct EnvironmentInfo {
  std::string json;         // DeviceInfo::identity
  std::string limits_json;  // the tuner's format; "" where never measured
  int64_t limits_at = 0;
};

// By problem, environment, policy, tokens, then best first.
Result<std::vector<MeasurementInfo>> list_measurements(const CachePlace& place);
Result<std::vector<EnvironmentInfo>> list_environments(const CachePlace& place);

}  // namespace moejit::internal
