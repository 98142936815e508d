// Background tuning: what the rest of the runtime tells it.
#pragma once

#include <atomic>
#include <memory>

#include "backends/backend.h"
#include "moejit/moejit.h"

namespace moejit::internal {

extern std::atomic<bool> background_watches;
void note_launch_slow(const Device& device, Stream stream);

// Of every launch: nothing but a load while no background tuning runs.
inline void note_launch(const Device& device, Stream stream) {
  if (background_watches.load(std::memory_order_relaxed)) note_launch_slow(device, stream);
}

// Of every kernel that get_kernel makes.
void note_kernel(const std::shared_ptr<const Kernel::State>& state);

// Plans anew from what the cache knows by now, and publishes them to the holders of the kernel.
// kUnsupported where they would need a larger workspace than workspace_size() said.
Status refresh_plans(const Kernel::State& state);

}  // namespace moejit::internal
