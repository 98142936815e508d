// A child process that reads a text and answers.
#pragma once

#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal::hip {

struct ChildResult {
  std::string out;     // standard output
  std::string errors;  // standard error
  std::string
      death;  // "" or how it ended, where not by exit(0): "was killed by signal 6 (Aborted)"
};

// Runs `command` (a path and its arguments) with `input` on its standard input. A child that takes
// longer than `seconds` is killed. kUnavailable where it cannot be started.
Result<ChildResult> run_child(const std::vector<std::string>& command, const std::string& input,
                              int seconds);

}  // namespace moejit::internal::hip
