// What this process knows without asking a file: binaries that it compiled or read, and the
// records that could not be written yet. Thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cache/store.h"

namespace moejit::internal {

class MemoryLayer {
 public:
  // Keeps at most about max_bytes of binaries, dropping the oldest.
  explicit MemoryLayer(int64_t max_bytes) : max_bytes_(max_bytes) {}

  std::shared_ptr<const StoredBinary> find(const ArtifactKey& key) const;
  void put(const ArtifactKey& key, std::shared_ptr<const StoredBinary> binary);
  // That `key` is in no file yet.
  void mark_unsaved(const ArtifactKey& key);

  void record(const Measurement& measurement);
  std::vector<Measurement> measurements(const MeasurementKey& key) const;
  std::vector<std::string> policies(const MeasurementKey& key) const;

  // As in the database, a pinned one yields only to a pinned one.
  void select(const Selection& selection);
  void forget_selection(const MeasurementKey& key, const std::string& generator);
  std::optional<Selection> find_selection(const MeasurementKey& key,
                                          const std::string& generator) const;
  std::vector<Selection> selections(const std::string& problem, const std::string& environment,
                                    const std::string& policy, const std::string& generator) const;
  std::vector<Selection> selections_elsewhere(const MeasurementKey& key,
                                              const std::string& generator) const;

  std::optional<EnvironmentLimits> limits(const std::string& environment) const;
  void set_limits(const std::string& environment, const EnvironmentLimits& limits);
  void forget_limits(const std::string& environment);

  // All that is in no file yet, in the order in which it is to be written.
  struct Unsaved {
    std::vector<std::pair<ArtifactKey, std::shared_ptr<const StoredBinary>>> binaries;
    std::vector<std::pair<std::string, EnvironmentLimits>> limits;
    std::vector<Measurement> measurements;
    std::vector<Selection> selections;
  };
  Unsaved unsaved() const;
  bool all_saved() const;
  // It was written. REQUIRES: nothing came since unsaved().
  void forget_unsaved();

 private:
  struct Entry {
    ArtifactKey key;
    std::shared_ptr<const StoredBinary> binary;
  };
  // problem, environment, policy, generator, tokens
  using SelectionKey = std::tuple<std::string, std::string, std::string, std::string, int64_t>;

  const int64_t max_bytes_;
  mutable std::mutex mutex_;
  int64_t bytes_ = 0;
  std::list<Entry> entries_;  // newest first
  std::multimap<Digest, std::list<Entry>::iterator> by_source_;
  std::vector<Measurement> measurements_;
  std::map<SelectionKey, Selection> selections_;
  std::map<std::string, EnvironmentLimits> limits_;
  std::vector<ArtifactKey> unsaved_binaries_;
};

// Best first: ok before failed, then by time.
void sort_measurements(std::vector<Measurement>* measurements);

}  // namespace moejit::internal
