// From the settings of the process to the options of the cache.
#pragma once

#include <string>

#include "base/settings.h"
#include "cache/store.h"

namespace moejit::internal {

// The store that MOEJIT_CACHE* ask for; `cache_path` replaces the directory where it is not "".
// With the cache off, or without any directory (one warning), the store lives in memory.
StoreOptions store_options(const std::string& cache_path);
StoreOptions store_options(const Settings& settings, const std::string& cache_path);

}  // namespace moejit::internal
