// Shadow memory: for every word of a tracked piece of memory, which bytes were written in this run
// and which accesses came last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backends/sim/clock.h"

namespace moejit::internal::sim {

// What a thread can see: what it learned from others, and its own threads of work.
struct Observer {
  Knowledge know;
  uint32_t self = 0;        // agent of the thread
  uint32_t now = 1;         // its time
  uint32_t copy_agent = 0;  // its cp.async engine, and the last copy that it waited for
  uint32_t copied = 0;
  uint32_t mma_agent = 0;  // its warp's wgmma pipe, and the last product that it waited for
  uint32_t multiplied = 0;

  bool sees(uint32_t agent, uint32_t time) const {
    if (agent == self) return time <= now;
    if (agent == copy_agent && time <= copied) return true;
    if (agent == mma_agent && time <= multiplied) return true;
    return know.vec.at(agent) >= time;
  }
  // The same as a vector with room for `agents` agents, for others to learn from.
  VecRef folded(uint32_t agents) const;
};

// A recorded access. Empty while mask is 0.
struct Cell {
  uint32_t time = 0;
  uint32_t line = 0;  // offset in the module's image
  uint32_t block = 0;
  uint16_t agent = 0;
  uint8_t mask = 0;  // bytes of the word
  uint8_t flags = 0;
};
constexpr uint8_t kAtomicAccess = 1;
constexpr uint8_t kAsyncAccess = 2;  // through the async proxy
constexpr uint8_t kCopyAccess = 4;   // cp.async
constexpr uint8_t kWriteAccess = 8;
// A relaxed atomic right after a fence: whoever knows of the fence through it knows of the atomic.
constexpr uint8_t kFencedAtomic = 16;

// One word: its last writes (of different bytes) and last reads (of different agents).
struct alignas(64) Line {
  Cell write[2];
  Cell read[2];
};

struct Access {
  const Observer* observer = nullptr;
  uint32_t agent = 0;  // whom to blame: the observer itself, or an engine that works for it
  uint32_t time = 0;
  uint32_t block = 0;
  uint32_t line = 0;
  uint8_t flags = 0;
};

enum class Conflict { kNone, kRace, kNoProxyFence };

class Shadow {
 public:
  static constexpr uint8_t kBarrierWord = 0x80;  // holds (half of) an mbarrier object

  void reset(size_t bytes, bool written);
  size_t bytes() const { return bytes_; }

  // Bytes [offset, offset+count) were all written in this run.
  bool written(size_t offset, size_t count) const;
  void mark_written(size_t offset, size_t count);
  void mark_unwritten(size_t offset, size_t count);  // whole words
  // Offset of the first unwritten byte, or bytes().
  size_t first_unwritten() const;
  bool is_barrier(size_t offset, size_t count) const;
  void set_barrier(size_t offset, bool on);

  // Records the access and returns the first earlier one that it conflicts with. `entry_of_block`
  // maps a block of the launch to its entry.
  Conflict record(size_t offset, size_t count, const Access& access,
                  const std::vector<uint8_t>& entry_of_block, Cell* earlier, size_t* at);

 private:
  static constexpr size_t kPageWords = 1024;
  Line& line(size_t word) {
    auto& page = pages_[word / kPageWords];
    if (page == nullptr) page = new_page();
    return page.get()[word % kPageWords];
  }
  static std::unique_ptr<Line[]> new_page();
  Conflict record_word(Line& line, uint8_t mask, const Access& access,
                       const std::vector<uint8_t>& entry_of_block, Cell* earlier);

  size_t bytes_ = 0;
  std::vector<uint8_t> written_;  // low 4 bits: bytes of the word
  std::vector<std::unique_ptr<Line[]>> pages_;
};

}  // namespace moejit::internal::sim
