#include "backends/sim/allocations.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace moejit::internal::sim {

Allocations& allocations() {
  static auto* all = new Allocations();
  return *all;
}

Result<std::shared_ptr<void>> Allocations::allocate(size_t bytes) {
  constexpr size_t kAlignment = 256;
  const size_t size = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  // What follows an allocation is no part of another one, so that running over its end is seen.
  void* memory = size < bytes ? nullptr : std::aligned_alloc(kAlignment, size + 8192);
  if (memory == nullptr) {
    return Status(StatusCode::kOutOfMemory,
                  std::to_string(bytes) + " bytes of memory are not to be had");
  }
  std::memset(memory, 0xff, size);
  const auto address = reinterpret_cast<uintptr_t>(memory);
  std::lock_guard<std::mutex> lock(mutex_);
  sizes_[address] = bytes;
  return std::shared_ptr<void>(memory, [this, address](void* p) {
    {
      std::lock_guard<std::mutex> guard(mutex_);
      sizes_.erase(address);
    }
    std::free(p);
  });
}

size_t Allocations::bytes_after(const void* pointer) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = sizes_.upper_bound(address);
  if (it == sizes_.begin()) return 0;
  --it;
  return address - it->first < it->second ? it->second - (address - it->first) : 0;
}

}  // namespace moejit::internal::sim
