// Pinning a choice where get_kernel looks for it.
#pragma once

#include <string>

#include "cache/inspect.h"

namespace moejit::internal {

// pin_selection() of cache/maintain.h for the routing under which choices are served.
Result<SelectionInfo> pin_choice(const CachePlace& place, const std::string& key_prefix,
                                 bool pinned);

}  // namespace moejit::internal
