// The device's rates: measured by kernels of the library's own, or guessed before that.
#pragma once

#include <optional>
#include <string>

#include "backends/backend.h"
#include "moejit/config.h"
#include "moejit/tuning.h"

namespace moejit::internal {

// A guess from unit count and arch, good enough to rank schedules; measured == false.
DeviceLimits guess_limits(const Target& target, DType dtype);

// Compiles and runs the probe kernels (about 2 s). kUnsupported where the backend has none, as in
// the simulator.
Result<DeviceLimits> probe_limits(const Device& device, DType dtype);

// {"bf16":{...},"f32":{...}}: the text kept in the cache per environment.
std::optional<DeviceLimits> limits_from_json(const std::string& text, DType dtype);
std::string add_limits_to_json(const std::string& text, DType dtype, const DeviceLimits& limits);

}  // namespace moejit::internal
