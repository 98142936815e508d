// The rates of a device that times are compared with: the library's probe, and cuBLAS.
#pragma once

#include <cstdio>

#include "backends/backend.h"
#include "cublas.h"
#include "tuner/limits.h"

namespace moejit::gpu_bench {

using namespace moejit::internal;

// Of an 8192^3 product in bf16, which stays open in `product`.
Result<double> library_flops(const Device& device, LibraryProduct* product);

// Prints both, and appends them to `json` where that is not null, for the rows after them: a record
// without them cannot be compared with another card's.
void report_rates(const DeviceLimits& limits, const Result<double>& cublas, std::FILE* json);

// The verb: both, of this device. Returns an exit status.
int run_limits(const Device& device, std::FILE* json);

}  // namespace moejit::gpu_bench
