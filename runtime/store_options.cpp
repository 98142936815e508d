#include "runtime/store_options.h"

#include "base/log.h"

namespace moejit::internal {

StoreOptions store_options(const Settings& settings, const std::string& cache_path) {
  StoreOptions options;
  options.directory = cache_path.empty() ? settings.cache_dir : cache_path;
  options.read_only = settings.cache_path;
  options.max_bytes = settings.cache_size;
  options.allow_shared = settings.cache_allow_shared;
  options.allow_network = settings.cache_allow_network;
  switch (settings.cache) {
    case CacheMode::kOff:
      options.mode = StoreMode::kMemory;
      options.read_only.clear();
      break;
    case CacheMode::kReadOnly:
      options.mode = StoreMode::kReadOnly;
      break;
    case CacheMode::kReadWrite:
      options.mode = StoreMode::kReadWrite;
      break;
  }
  if (options.directory.empty() && options.mode != StoreMode::kMemory) {
    log_once(LogLevel::kWarning, "cache", "no directory",
             settings.cache_dir_reason + "; nothing is kept on disk");
    options.mode = StoreMode::kMemory;
  }
  return options;
}

StoreOptions store_options(const std::string& cache_path) {
  return store_options(settings(), cache_path);
}

}  // namespace moejit::internal
