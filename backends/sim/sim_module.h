// A compiled kernel on the simulator.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/elf_image.h"
#include "backends/sim/engine.h"
#include "backends/sim/regions.h"

namespace moejit::internal::sim {

// MOEJIT_SIM_CHECKS. kFull runs a launch twice, with early and with late completion, and looks for
// races; kFast runs it once and checks bounds, alignment, initialisation and barriers.
enum class Checks { kFull, kFast };
Checks checks_in_force();

class SimModule : public Module {
 public:
  static Result<std::shared_ptr<const Module>> load(const std::string& device, const Limits& limits,
                                                    const Binary& binary,
                                                    const KernelSource& source);

  // Runs the kernel before it returns. kVerificationFailed carries a finding: one sentence in the
  // message, the report in the log. Launches of a process take turns.
  Status launch(const MoeArgs& args, Stream stream) const override;

 private:
  SimModule() = default;
  Status run_once(Timing timing, Checks checks, const std::vector<EntryPlan>& plan,
                  const MoeArgs& args, std::vector<Region>& regions) const;
  std::vector<EntryPlan> plan_entries(const MoeArgs& args) const;

  std::string device_;
  Limits limits_;
  KernelSource source_;
  std::vector<std::string_view> lines_;  // of source_.text
  std::shared_ptr<const LoadedImage> image_;
  std::vector<void*> functions_;  // per entry
  ExtentFunction extent_ = nullptr;
  const moejit_sim::Self** self_slot_ = nullptr;
};

// Counters of all launches of this thread's device timing since the last call; resets them.
Counters take_counters();

// While one lives, launches of this thread run once and without checks on races: they are timed.
class TimedLaunches {
 public:
  TimedLaunches();
  ~TimedLaunches();
};

}  // namespace moejit::internal::sim
