// One bucket of one layer: rank, build, check, measure, choose.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "moejit/tuning.h"
#include "tuner/lab.h"
#include "tuner/trial.h"

namespace moejit::internal {

// The protocol's identity: measurements under another protocol are not compared.
inline constexpr int kProtocolVersion = 1;

// What is tuned.
struct SessionProblem {
  MoeConfig config;
  Target target;
  std::string device;  // its name, for messages
  int64_t tokens = 0;
  std::vector<RowCounts> rows;  // of every routing that the lab launches
  DeviceLimits limits;
};

// What an earlier session found out about a schedule with the same source text.
struct KnownTrial {
  Schedule schedule;
  std::string status;           // "ok", or why it must not run again
  std::vector<double> seconds;  // ok: stand for its screening
  double error = 0;
};

struct SessionOptions {
  int max_candidates = 14;
  bool exhaustive = false;
  int jobs = 1;                       // compile threads
  std::optional<Schedule> incumbent;  // the choice so far: stays among equals
  std::vector<Schedule> seeds;        // worth a measurement: winners of neighbours or elsewhere
  uint64_t seed = 1;                  // of the two random candidates
  std::vector<KnownTrial> known;
  double check_operations = 1e9;
  // No new candidate begins after it, and finals end early.
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::function<bool(const TuneProgress&)>
      progress;  // as in TuneRequest; tokens and times are filled in
};

struct SessionResult {
  bool cancelled = false;  // asked to stop before the choice
  bool late = false;       // out of time before anything was measured
  bool found = false;      // at least one candidate is right and was measured
  Trial winner;
  double versus_default = 0;  // default's median / winner's, 0 where default was not measured
  int model_rank = 0;         // of the winner
  int measured = 0, failed = 0;
  int left_out = 0;   // candidates that there was no time for
  int known_bad = 0;  // schedules of the space that hung or crashed before
  double predicted_s = 0, floor_s = 0;
};

Result<SessionResult> tune_bucket(const SessionProblem& problem, Lab& lab, const Builder& build,
                                  TrialSink* sink, const SessionOptions& options);

// Times `samples` launches after `warmup` others, routing after routing from `first` on and copy of
// the weights after copy from `copy` on: whoever runs the same routing next to another kernel
// passes the next copies, or finds in the cache what the other has read. Seconds each.
Result<std::vector<double>> measure(const Device& device, const Module& module,
                                    const Workload& load, int warmup, int first, int samples,
                                    int copy);

// How many distinct routings a bucket is measured with.
int routings_for(int64_t tokens);

}  // namespace moejit::internal
