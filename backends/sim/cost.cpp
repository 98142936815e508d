#include "backends/sim/cost.h"

namespace moejit::internal::sim {

Counters& Counters::operator+=(const Counters& other) {
  global_bytes += other.global_bytes;
  shared_bytes += other.shared_bytes;
  instructions += other.instructions;
  barriers += other.barriers;
  multiply_adds += other.multiply_adds;
  launches += other.launches;
  boxes_ahead += other.boxes_ahead;
  boxes_ahead_loaded += other.boxes_ahead_loaded;
  kept_bytes += other.kept_bytes;
  discarded_bytes += other.discarded_bytes;
  return *this;
}

double cost_seconds(const Counters& counters) {
  constexpr double kGlobalBytesPerSecond = 120e9;
  constexpr double kSharedBytesPerSecond = 900e9;
  constexpr double kInstructionsPerSecond = 200e9;
  constexpr double kMultiplyAddsPerSecond = 15e12;
  constexpr double kSecondsPerBarrier = 1e-9;
  constexpr double kSecondsPerLaunch = 2e-6;
  return static_cast<double>(counters.global_bytes) / kGlobalBytesPerSecond +
         static_cast<double>(counters.shared_bytes) / kSharedBytesPerSecond +
         static_cast<double>(counters.instructions) / kInstructionsPerSecond +
         static_cast<double>(counters.multiply_adds) / kMultiplyAddsPerSecond +
         static_cast<double>(counters.barriers) * kSecondsPerBarrier +
         static_cast<double>(counters.launches) * kSecondsPerLaunch;
}

}  // namespace moejit::internal::sim
