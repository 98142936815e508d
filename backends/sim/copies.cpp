// Asynchronous copies: cp.async (PTX ISA 9.7.9.25.3), bulk and tensor copies (9.7.9.25.4-5).
#include <algorithm>
#include <cstring>

#include "backends/sim/engine.h"

namespace moejit::internal::sim {

using moejit_sim::TensorMapData;

void Engine::cp_async(uint32_t dst, const void* src, bool valid, uint32_t line) {
  ++counters_.instructions;
  Thread* thread = current_;
  Thread::Copy copy{dst, src, valid, line, thread->observer};
  ++thread->copies_issued;
  if (timing_ == Timing::kEarly) {
    thread->copies_done = thread->copies_issued;
    perform_copy(thread, copy, thread->copies_issued);
  } else {
    thread->copies.push_back(std::move(copy));
  }
}

void Engine::perform_copy(Thread* thread, const Thread::Copy& copy, uint32_t index) {
  Access access;
  access.observer = &copy.issued;
  access.agent = copy.issued.copy_agent;
  access.time = index;
  access.block = copy.issued.know.block;
  access.line = copy.line;
  access.flags = kCopyAccess;
  const char* from = copy.valid ? global_at(copy.src, 16, 16, access, thread, false) : nullptr;
  access.flags = kCopyAccess | kWriteAccess;
  char* to = shared_at(thread->block, copy.dst, 16, 16, access, thread);
  if (from != nullptr) {
    std::memcpy(to, from, 16);
  } else {
    std::memset(to, 0, 16);
  }
}

void Engine::perform_copies(Thread* thread, uint32_t up_to) {
  while (thread->copies_done < up_to && !thread->copies.empty()) {
    const Thread::Copy copy = std::move(thread->copies.front());
    thread->copies.pop_front();
    perform_copy(thread, copy, ++thread->copies_done);
  }
}

void Engine::cp_async_commit() {
  ++counters_.instructions;
  current_->copy_groups.push_back(current_->copies_issued);
}

void Engine::cp_async_wait(int pending, uint32_t) {
  ++counters_.instructions;
  Thread* thread = current_;
  while (thread->copy_groups.size() > static_cast<size_t>(pending)) {
    const uint32_t up_to = thread->copy_groups.front();
    thread->copy_groups.pop_front();
    perform_copies(thread, up_to);
    thread->observer.copied = std::max(thread->observer.copied, up_to);
  }
}

void Engine::cp_async_arrive(uint32_t bar, uint32_t line) {
  ++counters_.barriers;
  Thread* thread = current_;
  thread->line = line;
  mbar_at(thread->block, bar, access_by(thread, line, kWriteAccess | kAtomicAccess), thread);
  Pending pending;
  pending.kind = Pending::kCopyArrive;
  pending.block = thread->block;
  pending.thread = thread;
  pending.bar = bar;
  pending.copies = thread->copies_issued;
  pending.line = line;
  enqueue(std::move(pending));
}

void Engine::enqueue(Pending pending) {
  if (timing_ == Timing::kEarly) {
    perform(pending);
  } else {
    pending_.push_back(std::move(pending));
  }
}

void Engine::bulk_load(uint32_t dst, const void* src, uint32_t bytes, uint32_t bar, uint32_t line) {
  ++counters_.instructions;
  Thread* thread = current_;
  thread->line = line;
  if (bytes == 0 || bytes % 16 != 0 || dst % 16 != 0 ||
      reinterpret_cast<uintptr_t>(src) % 16 != 0) {
    fail(FindingKind::kCopyMisuse,
         where(thread, line) + "\n  bulk copy of " + std::to_string(bytes) +
             " bytes: size, source and destination must be multiples of 16");
  }
  check_fenced(
      mbar_at(thread->block, bar, access_by(thread, line, kWriteAccess | kAtomicAccess), thread),
      thread, line);
  Pending pending;
  pending.kind = Pending::kBulk;
  pending.block = thread->block;
  pending.thread = thread;
  pending.dst = dst;
  pending.src = src;
  pending.bytes = bytes;
  pending.bar = bar;
  pending.line = line;
  pending.issued = thread->observer;
  enqueue(std::move(pending));
}

namespace {

std::array<int64_t, 4> box_of(const TensorMapData& map, const int* at) {
  return {static_cast<int64_t>(reinterpret_cast<uintptr_t>(map.base)), at[0], at[1],
          map.rank > 2 ? at[2] : 0};
}

}  // namespace

// What is wrong with the map of a copy of `rank` dimensions, or "".
std::string Engine::map_misuse(const void* map, int rank) const {
  TensorMapData data;
  std::memcpy(&data, map, sizeof data);
  if (data.magic != moejit_sim::kTensorMapMagic) return "the tensor map was not encoded";
  if (data.rank != static_cast<unsigned>(rank)) {
    return "the tensor map has " + std::to_string(data.rank) + " dimensions, the copy " +
           std::to_string(rank);
  }
  if (reinterpret_cast<uintptr_t>(map) % 64 != 0) return "the tensor map must be 64-aligned";
  return "";
}

void Engine::tensor_load(uint32_t dst, const void* map, int rank, const int* at, uint32_t rows,
                         uint32_t bar, uint32_t blocks, uint32_t line) {
  ++counters_.instructions;
  Thread* thread = current_;
  thread->line = line;
  Pending pending;
  std::memcpy(&pending.map, map, sizeof pending.map);
  const TensorMapData& data = pending.map;
  std::string why = map_misuse(map, rank);
  const uint32_t inner = data.box[0] * data.element_bytes;
  if (why.empty() && dst % 128 != 0)
    why = "destination " + std::to_string(dst) + " must be 128-aligned";
  if (why.empty() && (inner % 16 != 0 || (data.swizzle_bytes != 0 && inner > data.swizzle_bytes))) {
    why = "a row of the box has " + std::to_string(inner) +
          " bytes: must be a multiple of 16, at most the swizzle's " +
          std::to_string(data.swizzle_bytes);
  }
  if (!why.empty()) {
    fail(FindingKind::kCopyMisuse, where(thread, line) + "\n  tensor copy: " + why);
  }
  if (const auto ahead = boxes_ahead_.find(box_of(data, at)); ahead != boxes_ahead_.end()) {
    ++counters_.boxes_ahead_loaded;
    boxes_ahead_.erase(ahead);
  }
  pending.kind = Pending::kTensor;
  pending.thread = thread;
  pending.dst = dst;
  pending.bar = bar;
  for (int i = 0; i < rank; ++i) pending.at[static_cast<size_t>(i)] = at[i];
  pending.rows = rows;
  pending.line = line;
  pending.issued = thread->observer;
  pending.bytes = inner;
  for (unsigned i = 1; i < data.rank; ++i) pending.bytes *= data.box[i];
  const auto send = [&](Block* to) {
    check_fenced(mbar_at(to, bar, access_by(thread, line, kWriteAccess | kAtomicAccess), thread),
                 thread, line);
    Pending one = pending;
    one.block = to;
    enqueue(std::move(one));
  };
  if (blocks == 0) send(thread->block);
  // Data and completion go to the same addresses of every block named.
  for (uint32_t r = 0; blocks >> r != 0; ++r) {
    if ((blocks >> r & 1) != 0) send(block_of_cluster(r, line));
  }
}

// Nothing is written and nobody waits: no result depends on it.
void Engine::tensor_prefetch(const void* map, int rank, const int* at, uint32_t line) {
  ++counters_.instructions;
  current_->line = line;
  if (const std::string why = map_misuse(map, rank); !why.empty())
    fail(FindingKind::kCopyMisuse, where(current_, line) + "\n  tensor prefetch: " + why);
  TensorMapData data;
  std::memcpy(&data, map, sizeof data);
  if (boxes_ahead_.insert(box_of(data, at)).second) ++counters_.boxes_ahead;
}

void Engine::perform(const Pending& pending) {
  if (pending.kind == Pending::kTensor && pending.block->alive == 0) {
    fail(FindingKind::kCopyMisuse, "block " + std::to_string(pending.block->id) + " of " +
                                       entry_->name +
                                       " ends while a copy into its shared memory is in flight\n  "
                                       "issued at " +
                                       line_of(pending.line));
  }
  Mbar& mbar = pending.block->mbars.at(pending.bar);
  if (pending.kind == Pending::kCopyArrive) {
    perform_copies(pending.thread, pending.copies);
    take_arrival(pending.block, mbar, pending.thread);
    if (races_) {
      mbar.gather.raise(pending.block->uid, pending.block->agents,
                        pending.thread->observer.copy_agent, pending.copies);
    }
    maybe_complete(pending.block, mbar);
    return;
  }
  Access access;
  access.observer = &pending.issued;
  access.agent = mbar.agent;
  access.time = mbar.phase + 1;
  access.block = pending.block->uid;
  access.line = pending.line;
  access.flags = kAsyncAccess;
  if (pending.kind == Pending::kTensor) {
    perform_tensor(pending, access);
  } else {
    for (uint32_t offset = 0; offset < pending.bytes; offset += 16) {
      access.flags = kAsyncAccess;
      const char* from = global_at(static_cast<const char*>(pending.src) + offset, 16, 16, access,
                                   pending.thread, false);
      access.flags = kAsyncAccess | kWriteAccess;
      char* to = shared_at(pending.block, pending.dst + offset, 16, 16, access, pending.thread);
      std::memcpy(to, from, 16);
    }
  }
  complete_tx(pending.block, mbar, pending.bytes);
}

namespace {

// XORs the 16-byte chunk index within the span with the row index, as the copy engine and wgmma do.
uint32_t swizzled(uint32_t address, uint32_t swizzle_bytes) {
  if (swizzle_bytes == 0) return address;
  const uint32_t chunks = swizzle_bytes / 16 - 1;
  return address ^ (((address >> 7) & chunks) << 4);
}

}  // namespace

void Engine::perform_tensor(const Pending& pending, Access access) {
  const TensorMapData& map = pending.map;
  const uint32_t inner = map.box[0] * map.element_bytes;
  const uint32_t per_chunk = 16 / map.element_bytes;
  const uint32_t planes = map.rank > 2 ? map.box[2] : 1;
  uint32_t linear = 0;
  for (uint32_t z = 0; z < planes; ++z) {
    const int64_t cz = map.rank > 2 ? int64_t{pending.at[2]} + z : 0;
    const bool plane_inside = map.rank < 3 || (cz >= 0 && static_cast<uint64_t>(cz) < map.dim[2]);
    for (uint32_t y = 0; y < map.box[1]; ++y, linear += inner) {
      const int64_t cy = int64_t{pending.at[1]} + y;
      const bool inside = plane_inside && cy >= 0 && static_cast<uint64_t>(cy) < map.dim[1];
      for (uint32_t chunk = 0; chunk < inner / 16; ++chunk) {
        alignas(16) char bytes[16] = {};
        if (y >= pending.rows) std::memset(bytes, 0xff, sizeof bytes);  // NaN
        const int64_t first = int64_t{pending.at[0]} + int64_t{chunk} * per_chunk;
        const int64_t begin = std::max<int64_t>(first, 0);
        const int64_t end = std::min<int64_t>(first + per_chunk, static_cast<int64_t>(map.dim[0]));
        if (inside && begin < end && y < pending.rows) {
          const char* row = static_cast<const char*>(map.base) +
                            static_cast<uint64_t>(cy) * map.stride[1] +
                            (map.rank > 2 ? static_cast<uint64_t>(cz) * map.stride[2] : 0);
          const auto count = static_cast<size_t>(end - begin) * map.element_bytes;
          access.flags = kAsyncAccess;
          const char* from = global_at(row + begin * map.element_bytes, count, map.element_bytes,
                                       access, pending.thread, false);
          std::memcpy(bytes + (begin - first) * map.element_bytes, from, count);
        }
        access.flags = kAsyncAccess | kWriteAccess;
        const uint32_t to = swizzled(pending.dst + linear + chunk * 16, map.swizzle_bytes);
        std::memcpy(shared_at(pending.block, to, 16, 16, access, pending.thread), bytes, 16);
      }
    }
  }
}

}  // namespace moejit::internal::sim
