// Keeping the database under its cap: least recently used binaries go, figures and choices stay.
#pragma once

#include <cstdint>

#include "cache/db.h"

namespace moejit::internal {

int64_t blob_bytes(Db& db);  // bytes of all binaries, without a scan

struct Evicted {
  int64_t binaries = 0;
  int64_t bytes = 0;
};
// Drops binaries, the least recently used first, until at most `target_bytes` are left or `most`
// went. Those that a selection names stay. Inside the caller's transaction.
Evicted evict_binaries(Db& db, int64_t target_bytes, int64_t most);

}  // namespace moejit::internal
