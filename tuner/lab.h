// Where candidates run: in this process, or in a child that may die of them (runtime wires the
// latter). The session asks; the lab holds the tensors.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tuner/check.h"
#include "tuner/trial.h"
#include "tuner/workload.h"

namespace moejit::internal {

// The inputs of one token count.
struct LabBucket {
  int64_t tokens = 0;
  int num_routings = 1;
  uint64_t seed = 1;
  double check_operations = 1e9;  // that the float64 answer may cost
};

class Lab {
 public:
  using Clock = std::chrono::steady_clock;
  virtual ~Lab() = default;

  // After this time a call may give up with kCancelled. A lab in this process looks at it between
  // pieces of work only.
  void set_deadline(std::optional<Clock::time_point> deadline) { deadline_ = deadline; }

  // Makes the inputs; kernels of the bucket before are gone.
  virtual Status enter(const LabBucket& bucket) = 0;
  virtual Result<int> add(const BuiltKernel& kernel, const Schedule& schedule) = 0;
  // `expected_s`: seconds of one launch, by which a watchdog tells slow from hung.
  virtual Result<CheckResult> check(int kernel, double expected_s) = 0;
  // Times `samples` launches of different routings after `warmup` others. Seconds each.
  virtual Result<std::vector<double>> measure(int kernel, int warmup, int first, int samples,
                                              double expected_s) = 0;

 protected:
  bool late() const { return deadline_ && Clock::now() > *deadline_; }
  std::optional<Clock::time_point> deadline_;
};

// How a candidate failed, as a trial's status: a message that begins with "hung" is "timeout".
const char* failure_status(const Status& status);

// Runs everything on `device` in this process; makes the weights on the first enter().
std::unique_ptr<Lab> make_local_lab(const Device& device, const MoeConfig& config,
                                    const RoutingSpec& routing);

}  // namespace moejit::internal
