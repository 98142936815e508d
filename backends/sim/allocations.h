// Which memory Device::allocate handed out, so that a launch knows where a tensor ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "moejit/status.h"

namespace moejit::internal::sim {

class Allocations {
 public:
  // 256-byte aligned, filled with NaN. Thread-safe.
  Result<std::shared_ptr<void>> allocate(size_t bytes);
  // Bytes from `address` to the end of the allocation that holds it; 0 where none does.
  // Thread-safe.
  size_t bytes_after(const void* address) const;

 private:
  mutable std::mutex mutex_;
  std::map<uintptr_t, size_t> sizes_;
};

// Of the process, shared by all simulated devices; lives until the process ends.
Allocations& allocations();

}  // namespace moejit::internal::sim
