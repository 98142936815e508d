// Which schedules of a ranked space are worth a measurement.
#pragma once

#include <vector>

#include "tuner/roofline.h"
#include "tuner/session.h"

namespace moejit::internal {

struct Candidate {
  Schedule schedule;
  double predicted_s = 0;
  int rank = 0;      // in the model's order, from 1
  int distance = 0;  // parameters that differ from the family's default
  bool is_default = false, is_incumbent = false;
  bool is_steady = false;  // a candidate of every tune, not because of the measured limits
  const KnownTrial* known = nullptr;
  const BuiltKernel* built = nullptr;
  int kernel = -1;              // in the lab
  std::vector<double> samples;  // screening
  std::vector<double> finals;
  double error = 0;
  bool alive = false;
};

// The default, the seeds, the model's best and two at random, at most options.max_candidates (all,
// where exhaustive). Schedules that options.known calls bad are left out and counted.
// REQUIRES: `ranked` is not empty. Points into `options`.
std::vector<Candidate> choose_candidates(const SessionProblem& problem,
                                         const std::vector<RankedSchedule>& ranked,
                                         const SessionOptions& options, int* known_bad);

}  // namespace moejit::internal
