// Databases on the move: pack makes one file to ship, merge takes one in, diff compares. Places and
// errors as in cache/list.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/list.h"

namespace moejit::internal {

struct PackOptions {
  std::string backend, arch, toolchain;  // empty: all
  bool binaries = true;
  bool losers = false;        // also binaries that no selection names
  bool measurements = false;  // also the measurements, else only the selections
  std::string sign;           // file of a secret key (cache/signature.h); "": not signed
};
struct PackReport {
  std::string path;
  std::string signature;  // path of the signature, where one was made
  std::string sha256;     // of the file; equal content gives an equal file
  int64_t bytes = 0;
  int64_t binaries = 0, selections = 0, measurements = 0;
};
// Writes a new file (an existing one is replaced whole) that can be opened read-only in place or
// merged. Holds no compiler logs and no time of its making.
Result<PackReport> pack_cache(const CachePlace& place, const std::string& output,
                              const PackOptions& options = {});

struct MergeOptions {
  std::string sha256;     // of the pack; refuses another one. "" accepts any
  std::string trust;      // file of public keys: refuses a pack that none of them signed. "": any
  bool cpu_code = false;  // take machine code for the CPU, which then runs in this process
  double margin = 0.03;   // a selection of the same key must be faster by this share
  bool dry_run = false;
};
struct MergeReport {
  int64_t binaries = 0, binaries_known = 0;
  int64_t binaries_refused = 0;  // code for the host that nobody vouches for
  int64_t binaries_damaged = 0;  // fail their SHA-256; not taken
  int64_t measurements = 0, measurements_known = 0;
  int64_t selections = 0;          // new or better
  int64_t selections_kept = 0;     // ours is pinned or as good
  int64_t selections_damaged = 0;  // what no tune can have found
  int64_t environments = 0;        // new ones
  std::string signed_by;           // the key, where MergeOptions::trust asked for one
};
// Takes `source` (a pack, or another cache directory) into the cache in one transaction, after its
// tables and pages were checked; every binary is checked against its SHA-256. A selection that is
// taken becomes "imported"; a pinned one here is never replaced.
Result<MergeReport> merge_cache(const CachePlace& place, const CachePlace& source,
                                const MergeOptions& options = {});

struct DiffLine {
  char side = ' ';   // '<' only in the first, '>' only in the second, '!' in both, different
  std::string kind;  // "binary" | "selection"
  std::string key;   // hexadecimal
  std::string what;  // arch and toolchain, or problem and tokens
  std::string first, second;  // for '!': both schedules or both SHA-256
};
// By kind and key.
Result<std::vector<DiffLine>> diff_caches(const CachePlace& first, const CachePlace& second);

}  // namespace moejit::internal
