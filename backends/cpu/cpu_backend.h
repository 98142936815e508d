// Entry points of the CPU backend beside the common interface.
#pragma once

#include <string>

#include "backends/backend.h"

namespace moejit::internal {

// `spec`: "" for the best code that this CPU runs, or a lower level by name ("x86-64-v3").
// num_threads 0: MOEJIT_NUM_THREADS, else what the process may use. One device per (spec, threads),
// which lives for the process. Thread-safe.
Result<const Device*> open_cpu_device(const std::string& spec, int num_threads);

}  // namespace moejit::internal
