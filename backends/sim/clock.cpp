#include "backends/sim/clock.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace moejit::internal::sim {
namespace {

// Freed vectors by size; the simulator runs one launch at a time, so no lock.
std::unordered_map<uint32_t, std::vector<Vec*>>& free_lists() {
  static auto* lists = new std::unordered_map<uint32_t, std::vector<Vec*>>();
  return *lists;
}

std::vector<Vec*>& free_list(uint32_t size) {
  static uint32_t last_size = 0;
  static std::vector<Vec*>* last = nullptr;
  if (last == nullptr || last_size != size) {
    last = &free_lists()[size];
    last_size = size;
  }
  return *last;
}

constexpr size_t kMostFree = 4096;

}  // namespace

Vec* VecRef::new_vec(uint32_t size) {
  auto& list = free_list(size);
  Vec* vec;
  if (!list.empty()) {
    vec = list.back();
    list.pop_back();
  } else {
    vec = static_cast<Vec*>(std::malloc(sizeof(Vec) + sizeof(uint32_t) * size));
    if (vec == nullptr) std::abort();
  }
  vec->refs = 1;
  vec->size = size;
  return vec;
}

void VecRef::free_vec(Vec* vec) {
  auto& list = free_list(vec->size);
  if (list.size() < kMostFree) {
    list.push_back(vec);
  } else {
    std::free(vec);
  }
}

VecRef VecRef::copy(uint32_t size) const {
  VecRef result;
  const uint32_t old = vec_ == nullptr ? 0 : vec_->size;
  size = std::max(size, old);
  result.vec_ = new_vec(size);
  if (old > 0) std::memcpy(result.vec_->time, vec_->time, sizeof(uint32_t) * old);
  std::memset(result.vec_->time + old, 0, sizeof(uint32_t) * (size - old));
  return result;
}

void VecRef::raise(const VecRef& other) {
  if (other.vec_ == nullptr) return;
  const uint32_t size = std::min(vec_->size, other.vec_->size);
  uint32_t* a = vec_->time;
  const uint32_t* b = other.vec_->time;
  for (uint32_t i = 0; i < size; ++i) a[i] = std::max(a[i], b[i]);
}

bool VecRef::dominates(const VecRef& other) const {
  if (vec_ == other.vec_ || other.vec_ == nullptr) return true;
  if (vec_ == nullptr || vec_->size < other.vec_->size) return false;
  const uint32_t* a = vec_->time;
  const uint32_t* b = other.vec_->time;
  uint32_t less = 0;
  for (uint32_t i = 0; i < other.vec_->size; ++i) less |= a[i] < b[i] ? 1u : 0u;
  return less == 0;
}

VecRef join(const VecRef& a, const VecRef& b) {
  if (a.dominates(b)) return a;
  if (b.dominates(a)) return b;
  // Vectors that meet belong to one block, hence have one size.
  VecRef merged = a.copy(0);
  merged.raise(b);
  return merged;
}

VecRef with_time(const VecRef& a, uint32_t size, uint32_t agent, uint32_t time) {
  VecRef result = a.copy(size);
  result.raise(agent, time);
  return result;
}

const Knowledge::Foreign* Knowledge::find(uint32_t other_block) const {
  auto it = std::lower_bound(foreign.begin(), foreign.end(), other_block,
                             [](const Foreign& f, uint32_t b) { return f.block < b; });
  return it != foreign.end() && it->block == other_block ? &*it : nullptr;
}

void Knowledge::add(uint32_t other_block, const VecRef& other_vec, const VecRef& other_fenced) {
  if (other_block == block) {
    vec = sim::join(vec, other_vec);
    fenced = sim::join(fenced, other_fenced);
    return;
  }
  auto it = std::lower_bound(foreign.begin(), foreign.end(), other_block,
                             [](const Foreign& f, uint32_t b) { return f.block < b; });
  if (it != foreign.end() && it->block == other_block) {
    it->vec = sim::join(it->vec, other_vec);
    it->fenced = sim::join(it->fenced, other_fenced);
  } else {
    foreign.insert(it, Foreign{other_block, other_vec, other_fenced});
  }
}

void Knowledge::join(const Knowledge& other) {
  entries |= other.entries;
  if (other.block != kNoBlock) add(other.block, other.vec, other.fenced);
  for (const Foreign& f : other.foreign) add(f.block, f.vec, f.fenced);
}

}  // namespace moejit::internal::sim
