// What the tuner hands out: built kernels come in, finished measurements go out. The tuner knows no
// cache; runtime adapts these to the store.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "backends/backend.h"
#include "generator/schedule.h"
#include "tuner/estimator.h"

namespace moejit::internal {

// One schedule, generated, compiled (or found in the cache) and loaded.
struct BuiltKernel {
  std::shared_ptr<const Module> module;  // null where it is to be loaded elsewhere
  std::shared_ptr<const Binary> binary;  // then what to load
  KernelSource source;
  std::array<uint8_t, 32> digest{};  // of the source; the artifact's key
  std::string toolchain;
  int32_t registers = -1, spill_bytes = -1;
};
using Builder = std::function<Result<BuiltKernel>(const Schedule&)>;

struct Trial {
  Schedule schedule;
  std::array<uint8_t, 32> digest{};
  std::string toolchain;
  std::string stage;   // "screen", "final"
  std::string status;  // "ok", "compile_error", "wrong", "fault", "timeout", "spill"
  TimingSummary timing;
  double predicted_s = 0, floor_s = 0, error = 0;
  std::string note;
};

class TrialSink {
 public:
  virtual ~TrialSink() = default;
  virtual void on_trial(const Trial& trial) = 0;  // committed when it returns
};

}  // namespace moejit::internal
