// Looking at a cache, for people: what is in it, how large it is, whether it is whole. Every
// function opens the file for itself. `where` is a cache directory or the path of a pack; nothing
// is created. kNotFound where there is no database, kIoError or kDataError with the reason where it
// cannot be read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

struct CachePlace {
  std::string where;
  bool allow_shared = false;  // as in StoreOptions
  bool allow_network = false;
};

// An SQLite database by its first bytes, whatever it holds: nothing writes over one that it was not
// asked to replace.
bool is_database_file(const std::string& path);

// Narrows a listing; empty fields match everything. `key` is a prefix of the hexadecimal key.
struct CacheFilter {
  std::string key;
  std::string backend, arch, toolchain;
  int64_t limit = 0;  // 0: all
};

// A compiled kernel. Times are Unix seconds.
struct ArtifactInfo {
  std::string key;     // 64 hexadecimal digits
  std::string source;  // digest of the source text, likewise
  std::string toolchain, backend, arch, format, schedule, config, log;
  int32_t registers = -1, spill_bytes = -1, shared_bytes = -1;
  double compile_ms = 0;
  int64_t bytes = 0;   // of the binary; 0 where it was evicted
  std::string sha256;  // of the binary; "" likewise
  int64_t created_at = 0, last_used_at = 0;
  int64_t measurements = 0;  // how often it was measured
  bool selected = false;     // some selection names it
};

// A decision of the tuner.
struct SelectionInfo {
  std::string key;  // 64 hexadecimal digits
  std::string problem, environment, policy, generator, schedule, toolchain, how, note;
  std::string source;
  int64_t tokens = 0;
  double median_s = 0, predicted_s = 0, floor_s = 0, error = 0, versus_default = 0;
  int32_t candidates = 0;
  int64_t decided_at = 0;
  bool has_binary = false;
};

struct HistoryInfo {
  SelectionInfo selection;  // predicted_s, floor_s, error and has_binary are not kept
  bool current = false;
};

struct CountOf {
  std::string name;
  int64_t artifacts = 0, binaries = 0, bytes = 0;
};

struct CacheStats {
  std::string path;
  int64_t schema = 0;
  int64_t file_bytes = 0;  // with its log
  int64_t free_bytes = 0;  // inside the file, to be used again
  int64_t artifacts = 0, binaries = 0, binary_bytes = 0;
  int64_t problems = 0, environments = 0, sessions = 0;
  int64_t measurements = 0, selections = 0, pinned = 0, imported = 0, decisions = 0;
  int64_t oldest_use = 0, newest_use = 0;
  std::vector<CountOf> by_arch, by_toolchain;  // by bytes, descending
};

// By last use, newest first.
Result<std::vector<ArtifactInfo>> list_artifacts(const CachePlace& place,
                                                 const CacheFilter& filter = {});
// By problem, environment, policy and tokens.
Result<std::vector<SelectionInfo>> list_selections(const CachePlace& place,
                                                   const CacheFilter& filter = {});

// What a key, or an unambiguous prefix of at least 4 digits, stands for: exactly one of the two
// lists has one entry. kNotFound, or kInvalidArgument with the candidates.
struct CacheEntry {
  std::vector<ArtifactInfo> artifact;
  std::vector<SelectionInfo> selection;
};
Result<CacheEntry> show_entry(const CachePlace& place, const std::string& key_prefix);

Result<CacheStats> cache_stats(const CachePlace& place);

// Every decision for a selection's key (a prefix), newest first; "" for all keys.
Result<std::vector<HistoryInfo>> selection_history(const CachePlace& place,
                                                   const std::string& key_prefix = "");

}  // namespace moejit::internal
