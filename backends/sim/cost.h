// What a launch did, counted, and a deterministic stand-in for its time.
#pragma once

#include <cstdint>

namespace moejit::internal::sim {

struct Counters {
  int64_t global_bytes = 0;  // read or written by any path
  int64_t shared_bytes = 0;
  int64_t instructions = 0;   // primitive calls of one warp count as 32, of one thread as 1
  int64_t barriers = 0;       // threads that arrived at a barrier of any kind
  int64_t multiply_adds = 0;  // of the tensor cores, padding included
  int64_t launches = 0;
  // No cost: tensor boxes brought into the L2 cache ahead, and those of them that are then loaded.
  int64_t boxes_ahead = 0;
  int64_t boxes_ahead_loaded = 0;
  int64_t kept_bytes = 0;       // stored to stay in the L2 cache
  int64_t discarded_bytes = 0;  // of whole lines

  Counters& operator+=(const Counters& other);
};

// "Seconds" on an imaginary device of a few units; only ratios mean anything. The weights are round
// numbers in the proportions of a current data-centre GPU, divided by its number of units.
double cost_seconds(const Counters& counters);

}  // namespace moejit::internal::sim
