#include "cache/memory_layer.h"

#include <algorithm>
#include <cmath>

#include "cache/rows.h"

namespace moejit::internal {
namespace {

bool same_key(const MeasurementKey& a, const MeasurementKey& b) {
  return a.tokens == b.tokens && a.problem == b.problem && a.environment == b.environment &&
         a.policy == b.policy;
}

}  // namespace

// By index, so that equals keep their order.
void sort_measurements(std::vector<Measurement>* measurements) {
  std::vector<size_t> order(measurements->size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t x, size_t y) {
    const Measurement &a = (*measurements)[x], &b = (*measurements)[y];
    const bool a_ok = a.status == "ok", b_ok = b.status == "ok";
    if (a_ok != b_ok) return a_ok;
    if (a.median_s != b.median_s) return a.median_s < b.median_s;
    return x < y;
  });
  std::vector<Measurement> sorted;
  for (const size_t i : order) sorted.push_back(std::move((*measurements)[i]));
  *measurements = std::move(sorted);
}

std::shared_ptr<const StoredBinary> MemoryLayer::find(const ArtifactKey& key) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto [begin, end] = by_source_.equal_range(key.source);
  // Equal keys are kept in the order of insertion.
  for (auto it = end; it != begin;) {
    --it;
    if (key.toolchain.empty() || it->second->key.toolchain == key.toolchain) {
      return it->second->binary;
    }
  }
  return nullptr;
}

void MemoryLayer::put(const ArtifactKey& key, std::shared_ptr<const StoredBinary> binary) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto [begin, end] = by_source_.equal_range(key.source);
  for (auto it = begin; it != end; ++it) {
    if (it->second->key.toolchain == key.toolchain) return;
  }
  bytes_ += static_cast<int64_t>(binary->bytes.size());
  entries_.push_front({key, std::move(binary)});
  by_source_.emplace(key.source, entries_.begin());
  while (bytes_ > max_bytes_ && entries_.size() > 1) {
    const auto oldest = std::prev(entries_.end());
    const auto [first, last] = by_source_.equal_range(oldest->key.source);
    for (auto it = first; it != last; ++it) {
      if (it->second == oldest) {
        by_source_.erase(it);
        break;
      }
    }
    bytes_ -= static_cast<int64_t>(oldest->binary->bytes.size());
    entries_.erase(oldest);
  }
}

void MemoryLayer::mark_unsaved(const ArtifactKey& key) {
  std::lock_guard<std::mutex> lock(mutex_);
  unsaved_binaries_.push_back(key);
}

void MemoryLayer::record(const Measurement& recorded) {
  Measurement measurement = recorded;
  if (measurement.at == 0) measurement.at = unix_now();
  // As in the database, and so that sorting has an order.
  for (double* value : {&measurement.median_s, &measurement.p20_s, &measurement.p80_s,
                        &measurement.predicted_s, &measurement.floor_s, &measurement.error}) {
    if (std::isnan(*value)) *value = 0;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  for (Measurement& m : measurements_) {
    if (same_key(m.key, measurement.key) && m.session == measurement.session &&
        m.schedule == measurement.schedule && m.source == measurement.source &&
        m.toolchain == measurement.toolchain && m.stage == measurement.stage) {
      m = measurement;
      return;
    }
  }
  measurements_.push_back(measurement);
}

std::vector<std::string> MemoryLayer::policies(const MeasurementKey& key) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> found;
  for (const Measurement& m : measurements_) {
    MeasurementKey any = key;
    any.policy = m.key.policy;
    if (same_key(any, m.key)) found.push_back(m.key.policy);
  }
  return found;
}

std::vector<Measurement> MemoryLayer::measurements(const MeasurementKey& key) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Measurement> found;
  // The newest first among equals.
  for (auto it = measurements_.rbegin(); it != measurements_.rend(); ++it) {
    if (same_key(it->key, key)) found.push_back(*it);
  }
  sort_measurements(&found);
  return found;
}

void MemoryLayer::select(const Selection& s) {
  std::lock_guard<std::mutex> lock(mutex_);
  const SelectionKey key{s.key.problem, s.key.environment, s.key.policy, s.generator, s.key.tokens};
  const auto it = selections_.find(key);
  if (it != selections_.end() && it->second.how == "pinned" && s.how != "pinned") return;
  selections_[key] = s;
}

void MemoryLayer::forget_selection(const MeasurementKey& key, const std::string& generator) {
  std::lock_guard<std::mutex> lock(mutex_);
  selections_.erase({key.problem, key.environment, key.policy, generator, key.tokens});
}

std::optional<Selection> MemoryLayer::find_selection(const MeasurementKey& key,
                                                     const std::string& generator) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it =
      selections_.find({key.problem, key.environment, key.policy, generator, key.tokens});
  if (it == selections_.end()) return std::nullopt;
  return it->second;
}

std::vector<Selection> MemoryLayer::selections(const std::string& problem,
                                               const std::string& environment,
                                               const std::string& policy,
                                               const std::string& generator) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Selection> found;
  auto it = selections_.lower_bound({problem, environment, policy, generator, INT64_MIN});
  for (; it != selections_.end(); ++it) {
    const auto& [p, e, y, g, tokens] = it->first;
    if (p != problem || e != environment || y != policy || g != generator) break;
    found.push_back(it->second);
  }
  return found;
}

std::vector<Selection> MemoryLayer::selections_elsewhere(const MeasurementKey& key,
                                                         const std::string& generator) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Selection> found;
  for (const auto& [k, s] : selections_) {
    if (s.key.problem == key.problem && (key.tokens <= 0 || s.key.tokens == key.tokens) &&
        s.generator == generator && s.key.policy == key.policy &&
        s.key.environment != key.environment) {
      found.push_back(s);
    }
  }
  return found;
}

std::optional<EnvironmentLimits> MemoryLayer::limits(const std::string& environment) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = limits_.find(environment);
  if (it == limits_.end()) return std::nullopt;
  return it->second;
}

void MemoryLayer::set_limits(const std::string& environment, const EnvironmentLimits& limits) {
  std::lock_guard<std::mutex> lock(mutex_);
  limits_[environment] = limits;
}

void MemoryLayer::forget_limits(const std::string& environment) {
  std::lock_guard<std::mutex> lock(mutex_);
  limits_.erase(environment);
}

MemoryLayer::Unsaved MemoryLayer::unsaved() const {
  Unsaved all;
  std::vector<ArtifactKey> keys;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    keys = unsaved_binaries_;
    all.limits.assign(limits_.begin(), limits_.end());
    all.measurements = measurements_;
    for (const auto& [key, selection] : selections_) all.selections.push_back(selection);
  }
  // One that has left memory since is compiled again some day.
  for (ArtifactKey& key : keys) {
    if (auto binary = find(key)) all.binaries.emplace_back(std::move(key), std::move(binary));
  }
  return all;
}

bool MemoryLayer::all_saved() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return unsaved_binaries_.empty() && limits_.empty() && measurements_.empty() &&
         selections_.empty();
}

void MemoryLayer::forget_unsaved() {
  std::lock_guard<std::mutex> lock(mutex_);
  unsaved_binaries_.clear();
  limits_.clear();
  measurements_.clear();
  selections_.clear();
}

}  // namespace moejit::internal
