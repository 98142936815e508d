// Findings in words.
#include <algorithm>
#include <cstdio>
#include <map>

#include "backends/sim/engine.h"

namespace moejit::internal::sim {
namespace {

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const char* name_of_collective(int kind) {
  static const char* const kNames[] = {
      "warp_sync",   "a shuffle", "ballot",       "a warp reduction", "ldmatrix",   "mma",
      "wgmma_fence", "wgmma",     "wgmma_commit", "wgmma_wait",       "setmaxnreg", "mfma"};
  return kind >= 0 && kind < 12 ? kNames[kind] : "a collective call";
}

}  // namespace

const char* to_string(FindingKind kind) {
  switch (kind) {
    case FindingKind::kOutOfBounds:
      return "out-of-bounds access";
    case FindingKind::kMisaligned:
      return "misaligned access";
    case FindingKind::kReadOnlyWrite:
      return "write to an input";
    case FindingKind::kUnwrittenRead:
      return "read of memory that nothing wrote";
    case FindingKind::kRace:
      return "race";
    case FindingKind::kProxyFence:
      return "missing proxy fence";
    case FindingKind::kDivergence:
      return "divergent collective";
    case FindingKind::kDeadlock:
      return "deadlock";
    case FindingKind::kBarrierMisuse:
      return "barrier misuse";
    case FindingKind::kCopyMisuse:
      return "copy misuse";
    case FindingKind::kMatrixMisuse:
      return "matrix instruction misuse";
    case FindingKind::kStackOverflow:
      return "stack overflow";
    case FindingKind::kUncovered:
      return "uncovered output";
    case FindingKind::kTiming:
      return "result depends on timing";
    case FindingKind::kResources:
      return "resources exceeded";
  }
  return "finding";
}

std::string Engine::line_of(uint32_t line) const {
  std::string text = "line " + std::to_string(line);
  if (source == nullptr || line == 0 || line > source->size()) return text;
  std::string_view words = (*source)[line - 1];
  words.remove_prefix(std::min(words.find_first_not_of(" \t"), words.size()));
  return text + ": " + std::string(words.substr(0, 160));
}

std::string Engine::where(const Thread* thread, uint32_t line) const {
  std::string text = "entry " + entry_->name;
  if (thread != nullptr) {
    const uint32_t index = thread->self.thread;
    text += ", block " + std::to_string(thread->self.block) + ", warp " +
            std::to_string(index / 32) + ", lane " + std::to_string(index % 32) + " (thread " +
            std::to_string(index) + ")";
  }
  if (line != 0) text += "\n  at " + line_of(line);
  return text;
}

std::string Engine::who(const Cell& cell) const {
  const uint8_t entry = entry_of_block_[cell.block];
  uint32_t first = cell.block;
  while (first > 0 && entry_of_block_[first - 1] == entry) --first;
  std::string text = (cell.flags & kWriteAccess) != 0 ? "write" : "read";
  if ((cell.flags & kAtomicAccess) != 0) text = "atomic " + text;
  if ((cell.flags & kAsyncAccess) != 0) text = "asynchronous " + text;
  if ((cell.flags & kCopyAccess) != 0) text = "cp.async " + text;
  text += " by block " + std::to_string(cell.block - first);
  if (entry != entry_index_) text += " of entry number " + std::to_string(entry);
  const uint32_t threads = entry_->threads;
  if (cell.agent < threads) {
    text +=
        ", warp " + std::to_string(cell.agent / 32) + ", lane " + std::to_string(cell.agent % 32);
  } else if (cell.agent < 2 * threads) {
    text += ", thread " + std::to_string(cell.agent - threads);
  } else if (cell.agent < 2 * threads + threads / 32) {
    text += ", wgmma of warp " + std::to_string(cell.agent - 2 * threads);
  }
  return text + "\n  at " + line_of(cell.line);
}

void Engine::fail_conflict(Conflict conflict, const Access& access, const Cell& earlier,
                           const std::string& place, const Thread* thread) {
  const bool write = (access.flags & kWriteAccess) != 0;
  std::string text = where(thread, access.line) + "\n  ";
  if ((access.flags & kAsyncAccess) != 0) text += "asynchronous ";
  if ((access.flags & kCopyAccess) != 0) text += "cp.async ";
  text +=
      std::string(write ? "write" : "read") + " of " + place + "\nmeets a " + who(earlier) + "\n";
  if (conflict == Conflict::kNoProxyFence) {
    text += "no fence.proxy.async lies between the ordinary write and the asynchronous access";
    fail(FindingKind::kProxyFence, text);
  }
  text += "nothing orders the two: no barrier, wait or release/acquire pair lies between them";
  fail(FindingKind::kRace, text);
}

std::string Engine::describe_global(uintptr_t address, size_t bytes) const {
  const Region* best = nullptr;
  uintptr_t distance = ~uintptr_t{0};
  for (const Region& region : regions_) {
    uintptr_t d = 0;
    if (address < region.begin) d = region.begin - address;
    if (address + bytes > region.end) d = address + bytes - region.end;
    if (d < distance) {
      distance = d;
      best = &region;
    }
  }
  std::string text = std::to_string(bytes) + " bytes at " + hex(address);
  if (best == nullptr) return text;
  const auto size = std::to_string(best->end - best->begin);
  if (address >= best->begin) {
    return text + ", byte " + std::to_string(address - best->begin) + " of " + best->name +
           ", which has " + size;
  }
  return text + ", " + std::to_string(best->begin - address) + " bytes before " + best->name +
         ", which has " + size;
}

std::string Engine::states() const {
  // Threads in the same state are told in one line: "block 0, warp 1, lanes 0-31: ...".
  std::string text;
  int lines = 0;
  for (const auto& block : resident_) {
    const auto& threads = block->threads;
    const auto state = [&](const Thread& t) {
      std::string s;
      switch (t.wait) {
        case Wait::kReady:
          return std::string("ready");
        case Wait::kExited:
          return std::string("exited");
        case Wait::kGroup:
          s = name_of_collective(static_cast<int>(t.wait_a));
          break;
        case Wait::kBlock:
          s = "block_sync";
          break;
        case Wait::kNamed: {
          const Barrier& barrier = block->barriers[t.wait_a];
          s = "named barrier " + std::to_string(t.wait_a) + ": " + std::to_string(barrier.arrived) +
              " of " + std::to_string(barrier.expected) + " threads are there";
          break;
        }
        case Wait::kCluster:
          s = "cluster_sync";
          break;
        case Wait::kMbarrier: {
          s = "mbarrier at shared byte " + std::to_string(t.wait_a - block->shared_base) +
              ", parity " + std::to_string(t.wait_b);
          auto it = block->mbars.find(t.wait_a);
          if (it != block->mbars.end()) {
            s += ": phase " + std::to_string(it->second.phase) + " lacks " +
                 std::to_string(it->second.pending) + " of " + std::to_string(it->second.expected) +
                 " arrivals and " + std::to_string(it->second.tx) + " bytes";
          }
          break;
        }
        case Wait::kSpin:
          s = "polling global memory";
          break;
      }
      return s + "\n      at " + line_of(t.line);
    };
    for (size_t w = 0; w * 32 < threads.size(); ++w) {
      for (size_t lane = 0; lane < 32;) {
        const std::string s = state(threads[w * 32 + lane]);
        size_t last = lane;
        while (last + 1 < 32 && state(threads[w * 32 + last + 1]) == s) ++last;
        if (s != "exited" && ++lines <= 64) {
          text += "  block " + std::to_string(block->id) + ", warp " + std::to_string(w) +
                  ", lanes " + std::to_string(lane) + "-" + std::to_string(last) + ": " + s + "\n";
        }
        lane = last + 1;
      }
    }
  }
  if (lines > 64) text += "  and " + std::to_string(lines - 64) + " groups more\n";
  const uint32_t unstarted = entry_->blocks - next_block_;
  if (unstarted > 0) {
    text += "  " + std::to_string(unstarted) +
            " blocks have not started: " + std::to_string(most_resident_) +
            " fit on the device at once\n";
  }
  return text;
}

}  // namespace moejit::internal::sim
