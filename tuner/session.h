// One bucket of one layer: rank, build, check, measure, choose.
#pragma once

#include <functional>
#include <vector>

#include "moejit/tuning.h"
#include "tuner/trial.h"
#include "tuner/workload.h"

namespace moejit::internal {

// The protocol's identity: measurements under another protocol are not compared.
inline constexpr int kProtocolVersion = 1;

struct SessionOptions {
  int max_candidates = 14;
  bool exhaustive = false;
  int jobs = 1;                 // compile threads
  double seconds = 0;           // budget of this bucket; 0: none
  std::vector<Schedule> seeds;  // incumbent first, then winners of neighbouring buckets
  uint64_t seed = 1;            // of the two random candidates
  std::function<bool(const TuneProgress&)>
      progress;  // as in TuneRequest; tokens and times are filled in
};

struct SessionResult {
  bool cancelled = false;  // asked to stop, or out of budget before the finals
  bool found = false;      // at least one candidate is right and was measured
  Trial winner;
  double versus_default = 0;  // default's median / winner's, 0 where default was not measured
  int model_rank = 0;         // of the winner
  int measured = 0, failed = 0;
  double predicted_s = 0, floor_s = 0;
};

Result<SessionResult> tune_bucket(const Device& device, Workload& load, const DeviceLimits& limits,
                                  const Builder& build, TrialSink* sink,
                                  const SessionOptions& options);

// Times `samples` launches of different routings after `warmup` others. Seconds each.
Result<std::vector<double>> measure(const Device& device, const Module& module,
                                    const Workload& load, int warmup, int first, int samples);

// How many distinct routings a bucket is measured with.
int routings_for(int64_t tokens);

}  // namespace moejit::internal
