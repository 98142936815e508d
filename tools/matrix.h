// What each kernel family supports, asked of the families themselves.
#pragma once

#include "base/table.h"

namespace moejit::tools {

// A row per family and architecture. The same on every machine: no device is asked.
internal::Table support_matrix();

}  // namespace moejit::tools
