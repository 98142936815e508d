// A lab in a child process: a candidate that hangs or faults ends the child and not the tuner. The
// child executes the `moejit` command with one hidden word and speaks trial_wire.h on its standard
// input.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tuner/lab.h"

namespace moejit::internal {

// The word that makes the command a server of trials.
inline constexpr const char* kTrialVerb = "__trials";

// The command to execute: `wanted` where not "", else the one that this process runs, else the one
// beside the library or in ../bin of it; "" where there is none.
std::string find_trial_helper(const std::string& wanted);

struct TrialProcessOptions {
  std::string helper;  // path
  std::string device;  // as open_device takes it
  int num_threads = 0;
  MoeConfig config;
  std::string routing;   // as the request gives it: the child reads a trace for itself
  std::string protocol;  // must be the child's too: version and digest of the generator
  double timeout_s = 20;
};

// Starts nothing before the first enter(). A child that ends or is killed is started again when it
// is needed, with the same inputs. Failures of a candidate: "hung: ..." after the time that the
// caller expects, twenty times over, and timeout_s; "crashed: signal 11 (Segmentation fault)"; else
// what the device reported, after which the child is replaced too, for its context may be lost.
std::unique_ptr<Lab> make_process_lab(TrialProcessOptions options);

// What both sides must agree on for `device`.
std::string trial_protocol(const Device& device);

// The child's side: serves requests from `fd` until it closes, then returns the exit code. `before`
// is called ahead of every check and measurement; for tests.
int serve_trials(int fd, const std::function<void(const Schedule&)>& before = {});

}  // namespace moejit::internal
