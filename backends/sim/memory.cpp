// Loads, stores and atomics, with every check on an address.
#include <algorithm>
#include <cstring>

#include "backends/sim/engine.h"

namespace moejit::internal::sim {

Access Engine::access_by(const Thread* thread, uint32_t line, uint8_t flags) const {
  Access access;
  access.observer = &thread->observer;
  access.agent = thread->observer.self;
  access.time = thread->observer.now;
  access.block = thread->observer.know.block;
  access.line = line;
  access.flags = flags;
  return access;
}

char* Engine::shared_at(Block* block, uint32_t address, uint32_t bytes, uint32_t align,
                        const Access& access, const Thread* thread) {
  const uint32_t offset = address - block->shared_base;
  counters_.shared_bytes += bytes;
  const auto place = [&] {
    return std::to_string(bytes) + " bytes at byte " +
           std::to_string(static_cast<int32_t>(offset)) + " of shared memory, which has " +
           std::to_string(block->shared_bytes);
  };
  if (offset >= block->shared_bytes || block->shared_bytes - offset < bytes) {
    fail(FindingKind::kOutOfBounds, where(thread, access.line) + "\n  " + place());
  }
  if (address % align != 0) {
    fail(FindingKind::kMisaligned, where(thread, access.line) + "\n  " + place() + ", address " +
                                       std::to_string(address) + ", must be a multiple of " +
                                       std::to_string(align));
  }
  const bool write = (access.flags & kWriteAccess) != 0;
  if (block->shadow.is_barrier(offset, bytes)) {
    fail(FindingKind::kBarrierMisuse,
         where(thread, access.line) + "\n  ordinary access to an mbarrier object: " + place());
  }
  if (races_) {
    Cell earlier;
    size_t at = 0;
    const Conflict conflict =
        block->shadow.record(offset, bytes, access, entry_of_block_, &earlier, &at);
    if (conflict != Conflict::kNone) {
      fail_conflict(conflict, access, earlier, "byte " + std::to_string(at) + " of shared memory",
                    thread);
    }
  }
  if (write) {
    block->shadow.mark_written(offset, bytes);
  } else if (!block->shadow.written(offset, bytes)) {
    fail(FindingKind::kUnwrittenRead, where(thread, access.line) + "\n  " + place());
  }
  return block->shared + offset;
}

Region* Engine::region_of(uintptr_t address, size_t bytes) {
  if (last_region_ != nullptr && address >= last_region_->begin &&
      address + bytes <= last_region_->end) {
    return last_region_;
  }
  for (Region& region : regions_) {
    if (address >= region.begin && address + bytes <= region.end) return last_region_ = &region;
  }
  return nullptr;
}

char* Engine::global_at(const void* pointer, size_t bytes, uint32_t align, const Access& access,
                        const Thread* thread, bool stream) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  counters_.global_bytes += static_cast<int64_t>(bytes);
  Region* region = region_of(address, bytes);
  if (region == nullptr) {
    fail(FindingKind::kOutOfBounds,
         where(thread, access.line) + "\n  " + describe_global(address, bytes));
  }
  if (address % align != 0) {
    fail(FindingKind::kMisaligned,
         where(thread, access.line) + "\n  " + describe_global(address, bytes) +
             "; the address must be a multiple of " + std::to_string(align));
  }
  const bool write = (access.flags & kWriteAccess) != 0;
  if (!region->writable) {
    if (write) {
      fail(FindingKind::kReadOnlyWrite,
           where(thread, access.line) + "\n  " + describe_global(address, bytes));
    }
    return reinterpret_cast<char*>(address);
  }
  if (stream) {
    fail(FindingKind::kRace, where(thread, access.line) + "\n  a non-coherent load of " +
                                 describe_global(address, bytes) +
                                 ": the layer writes this memory, so the load may see old values");
  }
  const size_t offset = address - region->begin;
  if (races_) {
    Cell earlier;
    size_t at = 0;
    const Conflict conflict =
        region->shadow.record(offset, bytes, access, entry_of_block_, &earlier, &at);
    if (conflict != Conflict::kNone) {
      fail_conflict(conflict, access, earlier, "byte " + std::to_string(at) + " of " + region->name,
                    thread);
    }
  }
  if (write) {
    region->shadow.mark_written(offset, bytes);
  } else if (!region->shadow.written(offset, bytes)) {
    fail(FindingKind::kUnwrittenRead,
         where(thread, access.line) + "\n  " + describe_global(address, bytes));
  }
  return reinterpret_cast<char*>(address);
}

void Engine::load_shared(uint32_t address, void* value, uint32_t bytes, uint32_t line) {
  ++counters_.instructions;
  const char* at =
      shared_at(current_->block, address, bytes, bytes, access_by(current_, line, 0), current_);
  std::memcpy(value, at, bytes);
}

void Engine::store_shared(uint32_t address, const void* value, uint32_t bytes, uint32_t line) {
  ++counters_.instructions;
  char* at = shared_at(current_->block, address, bytes, bytes,
                       access_by(current_, line, kWriteAccess), current_);
  std::memcpy(at, value, bytes);
}

uint32_t Engine::add_shared(uint32_t address, uint32_t value, uint32_t line) {
  ++counters_.instructions;
  Block* block = current_->block;
  const uint32_t offset = address - block->shared_base;
  if (offset < block->shared_bytes && block->shared_bytes - offset >= 4 && address % 4 == 0 &&
      !block->shadow.written(offset, 4)) {
    fail(FindingKind::kUnwrittenRead, where(current_, line) + "\n  an atomic on byte " +
                                          std::to_string(offset) + " of shared memory");
  }
  char* at = shared_at(block, address, 4, 4,
                       access_by(current_, line, kWriteAccess | kAtomicAccess), current_);
  uint32_t old;
  std::memcpy(&old, at, 4);
  const uint32_t sum = old + value;
  std::memcpy(at, &sum, 4);
  return old;
}

Block* Engine::block_of_cluster(uint32_t rank, uint32_t line) {
  Cluster& cluster = *current_->block->cluster;
  if (rank >= cluster.blocks.size()) {
    fail(FindingKind::kOutOfBounds, where(current_, line) + "\n  rank " + std::to_string(rank) +
                                        " of a cluster of " +
                                        std::to_string(cluster.blocks.size()));
  }
  Block* other = cluster.blocks[rank];
  if (other->alive == 0) {
    fail(FindingKind::kOutOfBounds, where(current_, line) + "\n  shared memory of block " +
                                        std::to_string(other->id) +
                                        " of the cluster, which has ended");
  }
  return other;
}

uint32_t Engine::load_cluster(uint32_t address, uint32_t rank, uint32_t line) {
  ++counters_.instructions;
  Block* other = block_of_cluster(rank, line);
  // The address is the caller's; the window starts at the same place in every block.
  const char* at = shared_at(other, address, 4, 4, access_by(current_, line, 0), current_);
  uint32_t value;
  std::memcpy(&value, at, 4);
  return value;
}

void Engine::load_global(const void* address, void* value, uint32_t bytes, bool stream,
                         uint32_t line) {
  ++counters_.instructions;
  const char* at = global_at(address, bytes, bytes, access_by(current_, line, 0), current_, stream);
  std::memcpy(value, at, bytes);
}

void Engine::store_global(void* address, const void* value, uint32_t bytes, uint32_t line) {
  ++counters_.instructions;
  char* at =
      global_at(address, bytes, bytes, access_by(current_, line, kWriteAccess), current_, false);
  std::memcpy(at, value, bytes);
}

void Engine::discard(void* address, uint32_t line) {
  constexpr size_t kLine = 128;
  ++counters_.instructions;
  // To whoever reads or writes the line it is a write.
  char* at =
      global_at(address, kLine, kLine, access_by(current_, line, kWriteAccess), current_, false);
  counters_.global_bytes -= kLine;  // nothing moves
  counters_.discarded_bytes += kLine;
  std::memset(at, 0xff, kLine);  // NaN
  const auto where_to = reinterpret_cast<uintptr_t>(address);
  Region* region = region_of(where_to, kLine);
  region->shadow.mark_unwritten(where_to - region->begin, kLine);
}

uint32_t Engine::add_global(void* address, uint32_t value, int order, uint32_t line) {
  ++counters_.instructions;
  Thread* thread = current_;
  Observer& observer = thread->observer;
  Knowledge* variable = nullptr;
  uint8_t flags = kWriteAccess | kAtomicAccess;
  if (races_) {
    variable = &sync_variables_[reinterpret_cast<uintptr_t>(address)];
    // A relaxed atomic hands what it finds to the next fence after it, and carries what the last
    // fence before it published.
    if (order == moejit_sim::kAcqRel) {
      observer.know.join(*variable);
    } else {
      if (!thread->acquired_by_fence) thread->acquired_by_fence = std::make_unique<Knowledge>();
      thread->acquired_by_fence->join(*variable);
      if (thread->released_by_fence && thread->fence_time + 1 == observer.now)
        flags |= kFencedAtomic;
    }
  }
  const auto where_to = reinterpret_cast<uintptr_t>(address);
  Region* region = region_of(where_to, 4);
  if (region != nullptr && region->writable &&
      !region->shadow.written(where_to - region->begin, 4)) {
    fail(FindingKind::kUnwrittenRead,
         where(thread, line) + "\n  an atomic on " + describe_global(where_to, 4));
  }
  char* at = global_at(address, 4, 4, access_by(thread, line, flags), thread, false);
  uint32_t old;
  std::memcpy(&old, at, 4);
  const uint32_t sum = old + value;
  std::memcpy(at, &sum, 4);
  if (races_) {
    if (order == moejit_sim::kAcqRel) {
      Knowledge mine = observer.know;
      mine.vec = observer.folded(thread->block->agents);
      variable->join(mine);
      ++observer.now;
    } else if (thread->released_by_fence) {
      variable->join(*thread->released_by_fence);
    }
  }
  return old;
}

uint32_t Engine::load_acquire(const void* address, uint32_t line) {
  ++counters_.instructions;
  Thread* thread = current_;
  // Whoever polls lets the others run first.
  thread->line = line;
  thread->block->spinning.push_back(thread);
  suspend(thread, Wait::kSpin);
  if (races_) {
    auto it = sync_variables_.find(reinterpret_cast<uintptr_t>(address));
    if (it != sync_variables_.end()) thread->observer.know.join(it->second);
  }
  const char* at = global_at(address, 4, 4, access_by(thread, line, kAtomicAccess), thread, false);
  uint32_t value;
  std::memcpy(&value, at, 4);
  return value;
}

uint64_t Engine::update_word(void* address, int update, uint64_t value, uint64_t expected,
                             uint32_t line) {
  ++counters_.instructions;
  Thread* thread = current_;
  thread->line = line;
  if (update == moejit_sim::kWordAcquire) {  // whoever polls lets the others run first
    thread->block->spinning.push_back(thread);
    suspend(thread, Wait::kSpin);
  }
  const auto where_to = reinterpret_cast<uintptr_t>(address);
  Region* region = region_of(where_to, 8);
  // The one access that may find what nobody wrote.
  if (region != nullptr && region->writable)
    region->shadow.mark_written(where_to - region->begin, 8);
  Observer& observer = thread->observer;
  Knowledge* variable = nullptr;
  uint8_t flags = kAtomicAccess;
  if (update != moejit_sim::kWordAcquire) flags |= kWriteAccess;
  if (races_) {
    variable = &sync_variables_[where_to];
    if (update == moejit_sim::kWordAcquire) {
      observer.know.join(*variable);
    } else if (update != moejit_sim::kWordAddRelease) {
      if (!thread->acquired_by_fence) thread->acquired_by_fence = std::make_unique<Knowledge>();
      thread->acquired_by_fence->join(*variable);
    }
  }
  char* at = global_at(address, 8, 8, access_by(thread, line, flags), thread, false);
  uint64_t old;
  std::memcpy(&old, at, 8);
  uint64_t now = old;
  if (update == moejit_sim::kWordAdd || update == moejit_sim::kWordAddRelease) now = old + value;
  if (update == moejit_sim::kWordSwapIf && old == expected) now = value;
  std::memcpy(at, &now, 8);
  if (races_ && update == moejit_sim::kWordAddRelease) {
    Knowledge mine = observer.know;
    mine.vec = observer.folded(thread->block->agents);
    variable->join(mine);
    ++observer.now;
  } else if (races_ && update != moejit_sim::kWordAcquire && thread->released_by_fence) {
    variable->join(*thread->released_by_fence);
  }
  return old;
}

void Engine::fence(int kind, uint32_t) {
  ++counters_.instructions;
  Thread* thread = current_;
  if (kind != moejit_sim::kFenceGpu) {
    for (auto& [address, mbar] : thread->block->mbars) mbar.fenced |= mbar.made_by == thread;
  }
  if (!races_) return;
  Observer& observer = thread->observer;
  const uint32_t agents = thread->block->agents;
  switch (kind) {
    case moejit_sim::kFenceGpu: {
      if (thread->acquired_by_fence) {
        observer.know.join(*thread->acquired_by_fence);
        thread->acquired_by_fence.reset();
      }
      auto published = std::make_unique<Knowledge>(observer.know);
      published->vec = observer.folded(agents);
      thread->released_by_fence = std::move(published);
      thread->fence_time = observer.now;
      ++observer.now;
      break;
    }
    case moejit_sim::kFenceMbarInit:
      break;
    default:  // both proxy fences: shared and global memory never share a word
      observer.know.fenced = join(observer.know.fenced, observer.folded(agents));
      for (Knowledge::Foreign& f : observer.know.foreign) f.fenced = join(f.fenced, f.vec);
      ++observer.now;
      break;
  }
}

}  // namespace moejit::internal::sim
