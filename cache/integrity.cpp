// verify, and its repair: what can still be read is worth more than a clean start, because a
// selection stands for minutes of measuring.
#include <sqlite3.h>

#include <cstring>
#include <set>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/database_files.h"
#include "cache/evict.h"
#include "cache/maintain.h"
#include "cache/place.h"
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

struct Table {
  const char* name;
  const char* columns;
  const char* order;
};
// Parents before children.
constexpr Table kTables[] = {
    {"toolchain", "tc_id, name, first_seen", "tc_id"},
    {"env", "env_id, env_hash, json, limits_json, limits_at", "env_id"},
    {"policy", "policy_id, policy_hash, json", "policy_id"},
    {"problem", "prob_id, family, tokens, json", "prob_id"},
    {"session", "sess_id, uuid, started_at", "sess_id"},
    {"blob", "blob_id, sha256, codec, raw_size, data", "blob_id"},
    {"artifact",
     "art_id, art_key, source, tc_id, backend, arch, format, schedule, config, log, registers,"
     " spill_bytes, shared_bytes, compile_ms, blob_id, seal, created_at, last_used_at",
     "art_id"},
    {"selection",
     "prob_id, env_id, policy_id, generator, schedule, source, tc_id, how, median_s, predicted_s,"
     " floor_s, error, versus_default, candidates, note, decided_at",
     "prob_id"},
    {"measurement",
     "meas_id, prob_id, env_id, policy_id, sess_id, schedule, source, tc_id, stage, status,"
     " median_s, p20_s, p80_s, samples, predicted_s, floor_s, error, note, at",
     "meas_id"},
    {"history",
     "hist_id, prob_id, env_id, policy_id, generator, schedule, source, tc_id, how, median_s,"
     " versus_default, candidates, note, at",
     "hist_id"},
};

// Copies rows in one direction until the damage. Rows that are there already, or that break a
// rule, are skipped.
int64_t copy_rows(sqlite3* from, sqlite3* to, const Table& table, const char* direction) {
  const std::string columns = table.columns;
  const std::string select =
      "SELECT " + columns + " FROM " + table.name + " ORDER BY " + table.order + " " + direction;
  int count = 1;
  for (const char c : columns) count += c == ',';
  std::string insert =
      std::string("INSERT OR IGNORE INTO ") + table.name + "(" + columns + ") VALUES(";
  for (int i = 1; i <= count; ++i) insert += (i > 1 ? ",?" : "?") + std::to_string(i);
  insert += ")";
  sqlite3_stmt *read = nullptr, *write = nullptr;
  int64_t copied = 0;
  if (sqlite3_prepare_v2(from, select.c_str(), -1, &read, nullptr) == SQLITE_OK &&
      sqlite3_prepare_v2(to, insert.c_str(), -1, &write, nullptr) == SQLITE_OK) {
    while (sqlite3_step(read) == SQLITE_ROW) {
      for (int i = 0; i < count; ++i)
        sqlite3_bind_value(write, i + 1, sqlite3_column_value(read, i));
      if (sqlite3_step(write) == SQLITE_DONE) copied += sqlite3_changes64(to);
      sqlite3_reset(write);
    }
  }
  sqlite3_finalize(read);
  sqlite3_finalize(write);
  return copied;
}

// Rows whose parents were lost would point nowhere.
void drop_danglers(Db& db) {
  for (const char* statement :
       {"UPDATE artifact SET blob_id = NULL WHERE blob_id NOT IN (SELECT blob_id FROM blob)",
        "DELETE FROM artifact WHERE tc_id NOT IN (SELECT tc_id FROM toolchain)",
        "DELETE FROM selection WHERE prob_id NOT IN (SELECT prob_id FROM problem)"
        " OR env_id NOT IN (SELECT env_id FROM env) OR policy_id NOT IN"
        " (SELECT policy_id FROM policy) OR tc_id NOT IN (SELECT tc_id FROM toolchain)",
        "DELETE FROM measurement WHERE prob_id NOT IN (SELECT prob_id FROM problem)"
        " OR env_id NOT IN (SELECT env_id FROM env) OR policy_id NOT IN"
        " (SELECT policy_id FROM policy) OR tc_id NOT IN (SELECT tc_id FROM toolchain)"
        " OR sess_id NOT IN (SELECT sess_id FROM session)",
        "DELETE FROM history WHERE prob_id NOT IN (SELECT prob_id FROM problem)"
        " OR env_id NOT IN (SELECT env_id FROM env) OR policy_id NOT IN"
        " (SELECT policy_id FROM policy) OR tc_id NOT IN (SELECT tc_id FROM toolchain)"}) {
    db.exec(statement);
  }
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
  int code = 0;
  std::string message;
  const std::unique_ptr<Db> from =
      Db::open(report->kept_as, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, 0, &code, &message);
  report->rebuilt = true;
  if (from == nullptr) return {};
  to.exec("PRAGMA foreign_keys=OFF");
  {
    Transaction transaction(to);
    for (const Table& table : kTables) {
      // The triggers of `selection` have written history of their own.
      if (std::strcmp(table.name, "history") == 0) to.exec("DELETE FROM history");
      report->rescued += copy_rows(from->handle(), to.handle(), table, "ASC");
      report->rescued += copy_rows(from->handle(), to.handle(), table, "DESC");
    }
    drop_danglers(to);
    transaction.commit();
  }
  to.exec("PRAGMA foreign_keys=ON");
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
