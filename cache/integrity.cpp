// verify, and its repair: what can still be read is worth more than a clean start, because a
// selection stands for minutes of measuring.
#include <set>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/database_files.h"
#include "cache/evict.h"
#include "cache/maintain.h"
#include "cache/place.h"
#include "cache/rescue.h"
#include "cache/schema.h"

namespace moejit::internal {
namespace {

constexpr double kAloneWait = 1;

void check_file(Db& db, VerifyReport* report) {
  {
    Query query(db, "PRAGMA integrity_check(20)");
    while (query.row()) {
      const std::string line = query.text_at(0);
      if (line != "ok") report->problems.push_back("integrity: " + line);
    }
  }
  {
    Query query(db, "SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1");
    while (query.row()) {
      report->problems.push_back("foreign keys: " + std::to_string(query.integer_at(1)) +
                                 " rows of " + query.text_at(0) + " name rows that are not there");
    }
  }
  int64_t sum = 0;
  {
    Query query(db, "SELECT coalesce(sum(raw_size), 0) FROM blob");
    if (query.row()) sum = query.integer_at(0);
  }
  if (const int64_t total = blob_bytes(db); total != sum && db.error() == 0) {
    report->problems.push_back("total: blob_bytes = " + std::to_string(total) +
                               ", but the binaries have " + std::to_string(sum) + " bytes");
  }
}

// The blobs to drop: those whose bytes are damaged, and those whose artifact does not fit them.
std::vector<int64_t> check_binaries(Db& db, VerifyReport* report) {
  std::set<int64_t> damaged;
  {
    Query query(db, "SELECT count(*) FROM blob");
    if (query.row()) report->binaries = query.integer_at(0);
  }
  each_binary(db, [&](const BinaryRow& row) {
    if (row.intact) return;
    damaged.insert(row.blob_id);
    const Digest key = artifact_digest(row.key);
    report->damaged.push_back(to_hex(key.data(), key.size()));
  });
  return {damaged.begin(), damaged.end()};
}

Status rebuild(const std::string& directory, const CachePlace& place, VerifyReport* report) {
  FileLock alone;
  if (alone.acquire(join_path(directory, kConnectedLock), LockKind::kExclusive, kAloneWait) !=
      FileLock::Outcome::kHeld) {
    return {StatusCode::kUnavailable,
            report->path + " is damaged; end the processes that use it, then repair again"};
  }
  report->kept_as = set_database_aside(directory);
  if (report->kept_as.empty()) {
    return {StatusCode::kIoError, report->path + " is damaged and cannot be moved"};
  }
  const std::string failure =
      create_database(directory, !network_file_system(directory).empty(), &alone);
  if (!failure.empty()) return {StatusCode::kIoError, failure};
  alone.release();
  auto fresh = OpenPlace::open(place, Access::kWrite);
  if (!fresh.ok()) return fresh.status();
  Db& to = (*fresh)->db();
  report->rebuilt = true;
  report->rescued = rescue_rows(report->kept_as, to, {.binaries = true, .seconds = 3600});
  VerifyReport again;
  const std::vector<int64_t> damaged = check_binaries(to, &again);
  Transaction transaction(to);
  for (const int64_t blob_id : damaged) remove_blob(to, blob_id);
  transaction.commit();
  report->dropped += static_cast<int64_t>(damaged.size());
  return (*fresh)->status("cannot be rebuilt");
}

}  // namespace

Result<VerifyReport> verify_cache(const CachePlace& place, bool repair) {
  VerifyReport report;
  std::string directory;
  {
    auto opened = OpenPlace::open(place, Access::kRead);
    if (!opened.ok()) {
      // kDataError alone means damage: a newer or foreign file is nothing to repair.
      if (opened.status().code() != StatusCode::kDataError || !repair ||
          !is_directory(place.where)) {
        return opened.status();
      }
      // Too damaged to be opened at all.
      report.path = join_path(place.where, kDatabaseName);
      report.problems.push_back(opened.status().message());
      directory = place.where;
    } else {
      report.path = (*opened)->path();
      directory = (*opened)->directory();
      Db& db = (*opened)->db();
      check_binaries(db, &report);
      check_file(db, &report);
      if (Status status = (*opened)->status("reading"); !status.ok()) {
        report.problems.push_back(status.message());
      }
    }
  }
  if (!repair || report.ok()) return report;
  if (directory.empty()) {
    return invalid_argument("cache = \"" + place.where +
                            "\": a pack cannot be repaired; make it anew");
  }
  bool file_damaged = false;
  for (const std::string& problem : report.problems) {
    file_damaged = file_damaged || problem.rfind("total:", 0) != 0;
  }
  if (file_damaged) {
    if (Status status = rebuild(directory, place, &report); !status.ok()) return status;
    return report;
  }
  auto opened = OpenPlace::open(place, Access::kWrite);
  if (!opened.ok()) return opened.status();
  Db& db = (*opened)->db();
  VerifyReport again;
  const std::vector<int64_t> damaged = check_binaries(db, &again);
  Transaction transaction(db);
  for (const int64_t blob_id : damaged) remove_blob(db, blob_id);
  db.exec(
      "UPDATE total SET n = (SELECT coalesce(sum(raw_size), 0) FROM blob) WHERE k = 'blob_bytes'");
  transaction.commit();
  report.dropped = static_cast<int64_t>(damaged.size());
  if (Status status = (*opened)->status("cannot be repaired"); !status.ok()) return status;
  return report;
}

}  // namespace moejit::internal
