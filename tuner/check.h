// The correctness gate: no candidate's time counts before its answer is right.
#pragma once

#include <vector>

#include "tuner/workload.h"

namespace moejit::internal {

// The layer in float64 on the host for some of a workload's tokens (a slow, plain loop: about
// 4 * H * I * K operations a token). Computed once and compared with every candidate.
struct Expected {
  std::vector<int64_t> tokens;
  std::vector<double> rows;  // [tokens.size(), H]
};
// As many tokens, spread over the batch, as fit in about `max_operations`; at least one.
Expected expected_rows(const Workload& load, int routing, double max_operations);

// Largest relative Frobenius error that a correct kernel of this dtype shows.
double tolerance(DType dtype);

struct CheckResult {
  double error = 0;  // relative Frobenius error over the expected rows; infinite where not finite
  std::string problem;  // "" when within tolerance and every element was written
};
// Poisons out and workspace with NaN, launches routing `routing`, compares, and runs once more to
// see the same bits.
Result<CheckResult> check_module(const Device& device, const Module& module, const Workload& load,
                                 int routing, const Expected& expected);

}  // namespace moejit::internal
