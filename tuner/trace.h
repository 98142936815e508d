// Routing that a user recorded, from a file.
#pragma once

#include <string>

#include "tuner/routing.h"

namespace moejit::internal {

// Fills the trace's fields and its name, "trace:" and a digest of the content. kInvalidArgument, as
// for every other routing that cannot be meant, where the file cannot be read, or with line or
// tensor where it is not a trace.
Status read_trace(const std::string& path, RoutingSpec* spec);

}  // namespace moejit::internal
