// What changes a cache from outside of a running kernel: verify, clear, gc, pin. Places and errors
// as in cache/list.h; all of these need a cache directory, and verify also takes a pack.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/list.h"

namespace moejit::internal {

struct VerifyReport {
  std::string path;
  int64_t binaries = 0;               // checked
  std::vector<std::string> damaged;   // keys of artifacts whose binary fails its SHA-256
  std::vector<std::string> problems;  // of the file: integrity_check, foreign keys, totals
  // With repair only.
  int64_t dropped = 0;   // damaged binaries
  bool rebuilt = false;  // the readable rows were copied to a new file
  int64_t rescued = 0;   // rows that went over
  std::string kept_as;   // where the old file is
  bool ok() const { return damaged.empty() && problems.empty(); }
};
// Reads everything. With `repair`, damaged binaries are dropped, and where the file itself is
// damaged all readable rows move to a new one; the latter needs that nobody is connected.
Result<VerifyReport> verify_cache(const CachePlace& place, bool repair);

struct ClearReport {
  int64_t bytes = 0;     // freed on disk
  bool removed = false;  // the files are gone; else others are connected and the rows went
};
// Removes everything, pinned selections included.
Result<ClearReport> clear_cache(const CachePlace& place);

struct GcOptions {
  int64_t max_bytes = -1;   // of binaries; -1: keep all that is used
  int64_t unused_days = 0;  // also drop binaries unused for that long; 0: off
  bool losers = false;      // drop measured binaries that no selection names
  bool dry_run = false;
};
struct GcReport {
  int64_t binaries = 0, bytes = 0;  // dropped
  int64_t kept_bytes = 0;
  int64_t history = 0;         // superseded decisions beyond the last 50 of their key
  int64_t returned_bytes = 0;  // given back to the file system
};
// Least recently used first; what a selection names stays. Safe while others are connected.
Result<GcReport> gc_cache(const CachePlace& place, const GcOptions& options);

// Pins or unpins the selection of a key (a prefix): a pinned one is not replaced by tuning. Pinned,
// it also becomes, and stays, the selection of its problem, environment and generator under
// `serving_policy`, which is the one that is followed; unpinned, so is that one where it is the
// same.
Result<SelectionInfo> pin_selection(const CachePlace& place, const std::string& key_prefix,
                                    bool pinned, const std::string& serving_policy);

}  // namespace moejit::internal
