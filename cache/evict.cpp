#include "cache/evict.h"

#include <vector>

#include "cache/rows.h"

namespace moejit::internal {

int64_t blob_bytes(Db& db) {
  Query query(db, "SELECT n FROM total WHERE k = 'blob_bytes'");
  return query.row() ? query.integer_at(0) : 0;
}

Evicted evict_binaries(Db& db, int64_t target_bytes, int64_t most) {
  Evicted evicted;
  int64_t excess = blob_bytes(db) - target_bytes;
  if (excess <= 0) return evicted;
  struct Victim {
    int64_t blob_id, bytes;
  };
  std::vector<Victim> victims;
  {
    Query query(db,
                "SELECT a.blob_id, b.raw_size FROM artifact a JOIN blob b ON b.blob_id = a.blob_id"
                " WHERE a.blob_id IS NOT NULL"
                " AND NOT EXISTS (SELECT 1 FROM artifact o JOIN selection s ON s.source = o.source "
                " AND s.tc_id = o.tc_id"
                "                 WHERE o.blob_id = a.blob_id)"
                " ORDER BY a.last_used_at, a.art_id LIMIT ?1");
    query.integer(most);
    while (excess > 0 && query.row()) {
      victims.push_back({query.integer_at(0), query.integer_at(1)});
      excess -= victims.back().bytes;
    }
  }
  for (const Victim& victim : victims) {
    Query(db, "UPDATE artifact SET blob_id = NULL WHERE blob_id = ?1")
        .integer(victim.blob_id)
        .run();
    Query(db, "DELETE FROM blob WHERE blob_id = ?1").integer(victim.blob_id).run();
    if (db.error() != 0) return {};
    if (db.changes() == 0) continue;  // two artifacts shared it
    ++evicted.binaries;
    evicted.bytes += victim.bytes;
  }
  return evicted;
}

}  // namespace moejit::internal
