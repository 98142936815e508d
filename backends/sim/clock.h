// Vector clocks: who knows about which access. Immutable once shared, so that a barrier costs one
// vector for all of its threads.
//
// Every thread of a block is an agent with a time of its own. So is whatever works on a thread's
// behalf and finishes later: its cp.async engine, each mbarrier (for the copies that complete on
// it) and each warp's wgmma pipe. An access by agent a at time s is ordered before an observer
// exactly when the observer's vector has at least s at a.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace moejit::internal::sim {

struct Vec {
  uint32_t refs;
  uint32_t size;
  uint32_t time[1];  // size entries
};

// Shared, read-only pointer to a Vec; null is the vector of zeros. Single-threaded.
class VecRef {
 public:
  VecRef() = default;
  VecRef(const VecRef& other) : vec_(other.vec_) {
    if (vec_ != nullptr) ++vec_->refs;
  }
  VecRef(VecRef&& other) noexcept : vec_(std::exchange(other.vec_, nullptr)) {}
  VecRef& operator=(VecRef other) noexcept {
    std::swap(vec_, other.vec_);
    return *this;
  }
  ~VecRef() {
    if (vec_ != nullptr && --vec_->refs == 0) free_vec(vec_);
  }

  bool operator==(const VecRef& other) const { return vec_ == other.vec_; }
  explicit operator bool() const { return vec_ != nullptr; }
  uint32_t at(uint32_t agent) const {
    return vec_ == nullptr || agent >= vec_->size ? 0 : vec_->time[agent];
  }

  // A writable copy with at least `size` agents, owned by the result alone.
  VecRef copy(uint32_t size) const;
  // REQUIRES: made by copy() and not shared since.
  void raise(uint32_t agent, uint32_t time) {
    if (vec_->time[agent] < time) vec_->time[agent] = time;
  }
  void raise(const VecRef& other);
  bool dominates(const VecRef& other) const;

 private:
  static Vec* new_vec(uint32_t size);
  static void free_vec(Vec* vec);
  Vec* vec_ = nullptr;
};

// The larger time of each agent.
VecRef join(const VecRef& a, const VecRef& b);
VecRef with_time(const VecRef& a, uint32_t size, uint32_t agent, uint32_t time);

constexpr uint32_t kNoBlock = 0xffffffff;

// What a thread or a synchronisation object knows: of its own block, of other blocks, and which
// entries of the launch have completed. `fenced` is the part that a proxy fence has made visible
// to asynchronous copies and wgmma.
struct Knowledge {
  struct Foreign {
    uint32_t block;
    VecRef vec;
    VecRef fenced;
  };

  uint32_t block = kNoBlock;
  VecRef vec;
  VecRef fenced;
  std::vector<Foreign> foreign;  // sorted by block; few or none
  uint64_t entries = 0;          // bit e: entry e has completed

  void join(const Knowledge& other);
  void add(uint32_t other_block, const VecRef& other_vec, const VecRef& other_fenced);
  const Foreign* find(uint32_t other_block) const;
};

}  // namespace moejit::internal::sim
