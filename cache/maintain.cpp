#include "cache/maintain.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>

#include "base/fs.h"
#include "cache/database_files.h"
#include "cache/evict.h"
#include "cache/place.h"
#include "cache/schema.h"

namespace moejit::internal {
namespace {

constexpr int64_t kBatch = 256;
constexpr int64_t kHistoryPerKey = 50;

int64_t bytes_on_disk(const std::string& path) {
  int64_t total = 0;
  for (const char* suffix : {"", "-wal"}) total += std::max<int64_t>(file_size(path + suffix), 0);
  return total;
}

// Pages that are free go back to the file system, and the log to nothing where no reader needs it.
void shrink(Db& db) {
  db.exec("PRAGMA incremental_vacuum");
  db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  if (classify(db.error()) == Trouble::kBusy) db.take_error();
}

struct Victim {
  int64_t blob_id = 0, bytes = 0;
};

std::vector<Victim> find_victims(Db& db, const GcOptions& options) {
  std::vector<Victim> victims;
  int64_t left = blob_bytes(db);
  const int64_t oldest =
      options.unused_days > 0 ? unix_now() - options.unused_days * 86400 : INT64_MIN;
  // A binary that several artifacts share is as young as the youngest of them.
  Query query(db,
              "SELECT b.blob_id, b.raw_size, max(a.last_used_at),"
              " max(EXISTS (SELECT 1 FROM selection s WHERE s.source = a.source"
              "  AND s.tc_id = a.tc_id)),"
              " max(EXISTS (SELECT 1 FROM measurement m WHERE m.source = a.source"
              "  AND m.tc_id = a.tc_id))"
              " FROM blob b LEFT JOIN artifact a ON a.blob_id = b.blob_id"
              " GROUP BY b.blob_id ORDER BY 3, 1");
  while (query.row()) {
    const Victim blob{query.integer_at(0), query.integer_at(1)};
    const bool orphan = query.null_at(2);
    const bool selected = query.integer_at(3) != 0, measured = query.integer_at(4) != 0;
    const bool old = query.integer_at(2) < oldest;
    const bool above = options.max_bytes >= 0 && left > options.max_bytes;
    if (!orphan && (selected || !(old || above || (options.losers && measured)))) continue;
    victims.push_back(blob);
    left -= blob.bytes;
  }
  return victims;
}

}  // namespace

Result<GcReport> gc_cache(const CachePlace& place, const GcOptions& options) {
  auto opened = OpenPlace::open(place, options.dry_run ? Access::kRead : Access::kWrite);
  if (!opened.ok()) return opened.status();
  Db& db = (*opened)->db();
  const int64_t before = bytes_on_disk((*opened)->path());
  GcReport report;
  const std::vector<Victim> victims = find_victims(db, options);
  const int64_t total = blob_bytes(db);
  if (options.dry_run) {
    for (const Victim& v : victims) ++report.binaries, report.bytes += v.bytes;
  }
  // In pieces, so that nobody who compiles meanwhile waits for long.
  for (size_t start = 0; !options.dry_run && start < victims.size(); start += kBatch) {
    Transaction transaction(db);
    const size_t end = std::min(victims.size(), start + size_t{kBatch});
    for (size_t i = start; i < end; ++i) {
      remove_blob(db, victims[i].blob_id);
      ++report.binaries;
      report.bytes += victims[i].bytes;
    }
    if (!transaction.commit()) break;
  }
  report.kept_bytes = total - report.bytes;
  if (!options.dry_run && (*opened)->schema() >= 2 && db.error() == 0) {
    Query(db,
          "DELETE FROM history WHERE hist_id IN (SELECT hist_id FROM (SELECT hist_id,"
          " row_number() OVER (PARTITION BY prob_id, env_id, policy_id, generator"
          " ORDER BY hist_id DESC) AS age FROM history) WHERE age > ?1)")
        .integer(kHistoryPerKey)
        .run();
    report.history = db.changes();
    shrink(db);
    report.returned_bytes = std::max<int64_t>(0, before - bytes_on_disk((*opened)->path()));
  }
  if (Status status = (*opened)->status("cannot be cleaned"); !status.ok()) return status;
  return report;
}

Result<ClearReport> clear_cache(const CachePlace& place) {
  const std::string path = join_path(place.where, kDatabaseName);
  ClearReport report;
  if (!is_directory(place.where)) {
    return Status(StatusCode::kNotFound, "there is no cache in " + place.where);
  }
  if (Status trusted = check_private_directory(place.where); !trusted.ok() && !place.allow_shared) {
    return trusted;
  }
  report.bytes = bytes_on_disk(path);
  FileLock alone;
  const auto outcome =
      alone.acquire(join_path(place.where, kConnectedLock), LockKind::kExclusive, 0);
  if (outcome == FileLock::Outcome::kFailed) {
    return Status(StatusCode::kIoError, "cannot lock " + join_path(place.where, kConnectedLock) +
                                            ": " + errno_message(alone.error()));
  }
  if (outcome == FileLock::Outcome::kHeld) {
    report.bytes += remove_database(place.where);
    if (path_exists(path)) return Status(StatusCode::kIoError, "cannot remove " + path);
    report.removed = true;
    return report;
  }
  // Others are connected: their file must stay where it is, so its rows go.
  auto opened = OpenPlace::open(place, Access::kWrite);
  if (!opened.ok()) return opened.status();
  Db& db = (*opened)->db();
  {
    Transaction transaction(db);
    for (const char* statement :
         {"DELETE FROM history", "DELETE FROM selection", "DELETE FROM measurement",
          "DELETE FROM session", "DELETE FROM artifact", "DELETE FROM blob", "DELETE FROM problem",
          "DELETE FROM policy", "DELETE FROM env", "DELETE FROM toolchain"}) {
      db.exec(statement);
    }
    transaction.commit();
  }
  shrink(db);
  report.bytes = std::max<int64_t>(0, report.bytes - bytes_on_disk(path));
  if (Status status = (*opened)->status("cannot be cleared"); !status.ok()) return status;
  return report;
}

Result<SelectionInfo> pin_selection(const CachePlace& place, const std::string& key_prefix,
                                    bool pinned, const std::string& serving_policy) {
  MOEJIT_RETURN_IF_ERROR(check_key_prefix(key_prefix));
  CacheFilter filter;
  filter.key = key_prefix;
  auto found = list_selections(place, filter);
  if (!found.ok()) return found.status();
  if (found->empty()) {
    return Status(StatusCode::kNotFound, "key = \"" + key_prefix + "\": no selection in " +
                                             place.where + " has a key that begins so");
  }
  if (found->size() > 1) {
    return invalid_argument("key = \"" + key_prefix + "\": " + std::to_string(found->size()) +
                            " selections have a key that begins so");
  }
  SelectionInfo& s = found->front();
  auto opened = OpenPlace::open(place, Access::kWrite);
  if (!opened.ok()) return opened.status();
  Db& db = (*opened)->db();
  s.how = pinned ? "pinned" : "tuned";
  s.decided_at = unix_now();
  Transaction transaction(db);
  const int64_t problem = problem_id(db, s.problem, s.tokens, false);
  const int64_t environment = environment_id(db, s.environment, false);
  const auto hold = [&](const std::string& policy) {
    Query(db,
          "UPDATE selection SET how = ?1, decided_at = ?2 WHERE prob_id = ?3 AND env_id = ?4"
          " AND policy_id = ?5 AND generator = ?6 AND schedule = ?7")
        .text(s.how)
        .integer(s.decided_at)
        .integer(problem)
        .integer(environment)
        .integer(policy_id(db, policy, false))
        .text(s.generator)
        .text(s.schedule)
        .run();
  };
  hold(s.policy);
  if (db.changes() == 0 && db.error() == 0) {
    return Status(StatusCode::kNotFound, "the selection went away meanwhile");
  }
  if (s.policy != serving_policy && pinned) {
    Query(
        db,
        "INSERT OR REPLACE INTO selection SELECT prob_id, env_id, ?1, generator, schedule, source,"
        " tc_id, how, median_s, predicted_s, floor_s, error, versus_default, candidates, note,"
        " decided_at FROM selection"
        " WHERE prob_id = ?2 AND env_id = ?3 AND policy_id = ?4 AND generator = ?5")
        .integer(policy_id(db, serving_policy, true))
        .integer(problem)
        .integer(environment)
        .integer(policy_id(db, s.policy, false))
        .text(s.generator)
        .run();
  } else if (s.policy != serving_policy) {
    hold(serving_policy);
  }
  transaction.commit();
  if (Status status = (*opened)->status("cannot be changed"); !status.ok()) return status;
  return s;
}

}  // namespace moejit::internal
