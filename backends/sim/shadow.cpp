#include "backends/sim/shadow.h"

#include <algorithm>
#include <cstring>

namespace moejit::internal::sim {
namespace {

// Bytes of word `word` that lie in [offset, offset+count).
uint8_t byte_mask(size_t word, size_t offset, size_t count) {
  const size_t begin = std::max(offset, word * 4) - word * 4;
  const size_t end = std::min(offset + count, word * 4 + 4) - word * 4;
  return static_cast<uint8_t>(((1u << end) - 1u) & ~((1u << begin) - 1u));
}

bool ordered(const Cell& cell, const Access& access, const std::vector<uint8_t>& entry_of_block) {
  const Observer& observer = *access.observer;
  const uint32_t time = cell.time - ((cell.flags & kFencedAtomic) != 0 ? 1 : 0);
  if (cell.block == observer.know.block) return observer.sees(cell.agent, time);
  if ((observer.know.entries >> entry_of_block[cell.block] & 1) != 0) return true;
  const Knowledge::Foreign* other = observer.know.find(cell.block);
  return other != nullptr && other->vec.at(cell.agent) >= time;
}

// Whether a generic write has been made visible to the async proxy for this observer.
bool proxy_fenced(const Cell& cell, const Access& access,
                  const std::vector<uint8_t>& entry_of_block) {
  const Observer& observer = *access.observer;
  if (cell.block == observer.know.block) return observer.know.fenced.at(cell.agent) >= cell.time;
  if ((observer.know.entries >> entry_of_block[cell.block] & 1) != 0) return true;
  const Knowledge::Foreign* other = observer.know.find(cell.block);
  return (other != nullptr && other->fenced.at(cell.agent) >= cell.time);
}

}  // namespace

VecRef Observer::folded(uint32_t agents) const {
  VecRef result = know.vec.copy(agents);
  result.raise(self, now);
  if (copied > 0) result.raise(copy_agent, copied);
  if (multiplied > 0) result.raise(mma_agent, multiplied);
  return result;
}

std::unique_ptr<Line[]> Shadow::new_page() {
  return std::make_unique<Line[]>(kPageWords);
}

void Shadow::reset(size_t bytes, bool written) {
  bytes_ = bytes;
  const size_t words = (bytes + 3) / 4;
  written_.assign(words, written ? 0x0f : 0);
  pages_.resize((words + kPageWords - 1) / kPageWords);
  for (auto& page : pages_) {
    if (page != nullptr) std::memset(static_cast<void*>(page.get()), 0, sizeof(Line) * kPageWords);
  }
}

bool Shadow::written(size_t offset, size_t count) const {
  if (((offset | count) & 3) == 0) {
    for (size_t w = offset / 4; w < (offset + count) / 4; ++w) {
      if ((written_[w] & 0x0f) != 0x0f) return false;
    }
    return true;
  }
  for (size_t w = offset / 4; w * 4 < offset + count; ++w) {
    const uint8_t mask = byte_mask(w, offset, count);
    if ((written_[w] & mask) != mask) return false;
  }
  return true;
}

void Shadow::mark_written(size_t offset, size_t count) {
  if (((offset | count) & 3) == 0) {
    for (size_t w = offset / 4; w < (offset + count) / 4; ++w) written_[w] |= 0x0f;
    return;
  }
  for (size_t w = offset / 4; w * 4 < offset + count; ++w) {
    written_[w] |= byte_mask(w, offset, count);
  }
}

void Shadow::mark_unwritten(size_t offset, size_t count) {
  for (size_t w = offset / 4; w < (offset + count) / 4; ++w) written_[w] &= 0xf0;
}

size_t Shadow::first_unwritten() const {
  for (size_t offset = 0; offset < bytes_; ++offset) {
    if ((written_[offset / 4] >> (offset % 4) & 1) == 0) return offset;
  }
  return bytes_;
}

bool Shadow::is_barrier(size_t offset, size_t count) const {
  for (size_t w = offset / 4; w * 4 < offset + count; ++w) {
    if ((written_[w] & kBarrierWord) != 0) return true;
  }
  return false;
}

void Shadow::set_barrier(size_t offset, bool on) {
  for (size_t w = offset / 4; w < offset / 4 + 2; ++w) {
    written_[w] = static_cast<uint8_t>(on ? kBarrierWord | 0x0f : 0);
  }
}

Conflict Shadow::record(size_t offset, size_t count, const Access& access,
                        const std::vector<uint8_t>& entry_of_block, Cell* earlier, size_t* at) {
  for (size_t w = offset / 4; w * 4 < offset + count; ++w) {
    const Conflict conflict =
        record_word(line(w), byte_mask(w, offset, count), access, entry_of_block, earlier);
    if (conflict != Conflict::kNone) {
      *at = std::max(offset, w * 4);
      return conflict;
    }
  }
  return Conflict::kNone;
}

Conflict Shadow::record_word(Line& line, uint8_t mask, const Access& access,
                             const std::vector<uint8_t>& entry_of_block, Cell* earlier) {
  const bool write = (access.flags & kWriteAccess) != 0;
  const bool atomic = (access.flags & kAtomicAccess) != 0;
  const auto same = [&](const Cell& cell) {
    return cell.agent == access.agent && cell.block == access.block;
  };
  for (const Cell& cell : line.write) {
    if ((cell.mask & mask) == 0) continue;
    if (same(cell) && cell.time == access.time && !write) continue;
    if (!(atomic && (cell.flags & kAtomicAccess) != 0) && !ordered(cell, access, entry_of_block)) {
      *earlier = cell;
      return Conflict::kRace;
    }
    if ((access.flags & kAsyncAccess) != 0 && (cell.flags & kAsyncAccess) == 0 &&
        !proxy_fenced(cell, access, entry_of_block)) {
      *earlier = cell;
      return Conflict::kNoProxyFence;
    }
  }
  const Cell mine{access.time, access.line, access.block, static_cast<uint16_t>(access.agent),
                  mask,        access.flags};
  if (!write) {
    for (Cell& cell : line.read) {
      if (cell.mask == 0 || same(cell)) {
        const uint8_t together = cell.mask | mask;
        cell = mine;
        cell.mask = together;
        return Conflict::kNone;
      }
    }
    // A read that this one is ordered after tells nothing more; else the older of the two goes.
    for (Cell& cell : line.read) {
      if ((cell.mask & ~mask) == 0 && ordered(cell, access, entry_of_block)) {
        cell = mine;
        return Conflict::kNone;
      }
    }
    line.read[1] = line.read[0];
    line.read[0] = mine;
    return Conflict::kNone;
  }
  for (Cell& cell : line.read) {
    if ((cell.mask & mask) == 0) continue;
    if (!(atomic && (cell.flags & kAtomicAccess) != 0) && !ordered(cell, access, entry_of_block)) {
      *earlier = cell;
      return Conflict::kRace;
    }
    cell.mask &= static_cast<uint8_t>(~mask);
  }
  if (atomic) {
    // An ordinary write stays beside the atomic that follows it: other atomics may race with it.
    Cell& slot =
        line.write[(line.write[0].flags & kAtomicAccess) != 0 || line.write[0].mask == 0 ? 0 : 1];
    slot = mine;
    return Conflict::kNone;
  }
  for (Cell& cell : line.write) {
    if (cell.mask == 0 || (cell.mask & ~mask) == 0) {
      cell = mine;
      // The other cell keeps only what this write did not cover.
      Cell& other = line.write[&cell == &line.write[0] ? 1 : 0];
      other.mask &= static_cast<uint8_t>(~mask);
      return Conflict::kNone;
    }
  }
  // Both cells hold other bytes as well (byte and half-word writers): the older one is forgotten.
  line.write[0].mask &= static_cast<uint8_t>(~mask);
  line.write[1] = line.write[0];
  line.write[0] = mine;
  return Conflict::kNone;
}

}  // namespace moejit::internal::sim
