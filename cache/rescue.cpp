#include "cache/rescue.h"

#include <sqlite3.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "cache/rows.h"

namespace moejit::internal {
namespace {

using Clock = std::chrono::steady_clock;

// Pages that point in circles could be read for ever.
int past_deadline(void* deadline) {
  return Clock::now() > *static_cast<const Clock::time_point*>(deadline) ? 1 : 0;
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
int64_t copy_rows(Db& from_db, Db& to_db, const Table& table, const char* direction) {
  sqlite3 *from = from_db.handle(), *to = to_db.handle();
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

// Rows are looked up by the hash of their text; a text that changed is somebody else's.
void drop_altered(Db& db, const char* select, const char* remove) {
  std::vector<int64_t> altered;
  {
    Query query(db, select);
    while (query.row()) {
      Digest hash{};
      if (!query.digest_at(1, hash.data()) || text_digest(query.text_at(2)) != hash) {
        altered.push_back(query.integer_at(0));
      }
    }
  }
  for (const int64_t id : altered) Query(db, remove).integer(id).run();
}

bool readable(Db& from, const char* literal_sql) {
  { Query(from, literal_sql).run(); }
  return from.take_error() == 0;
}

}  // namespace

int64_t rescue_rows(const std::string& path, Db& to, const RescueOptions& options) {
  int code = 0;
  std::string message;
  const std::unique_ptr<Db> from =
      Db::open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, 0, &code, &message);
  if (from == nullptr) return 0;
  Clock::time_point deadline =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options.seconds * 1000));
  sqlite3_progress_handler(from->handle(), 1000, past_deadline, &deadline);
  int64_t rescued = 0;
  to.exec("PRAGMA foreign_keys=OFF");
  {
    Transaction transaction(to);
    for (const Table& table : kTables) {
      if (!options.binaries && std::strcmp(table.name, "blob") == 0) continue;
      // The triggers of `selection` have written history of their own.
      if (std::strcmp(table.name, "history") == 0 &&
          readable(*from, "SELECT hist_id FROM history LIMIT 1")) {
        to.exec("DELETE FROM history");
      }
      rescued += copy_rows(*from, to, table, "ASC");
      rescued += copy_rows(*from, to, table, "DESC");
    }
    drop_altered(to, "SELECT env_id, env_hash, json FROM env", "DELETE FROM env WHERE env_id = ?1");
    drop_altered(to, "SELECT policy_id, policy_hash, json FROM policy",
                 "DELETE FROM policy WHERE policy_id = ?1");
    drop_altered(to, "SELECT prob_id, family, json FROM problem",
                 "DELETE FROM problem WHERE prob_id = ?1");
    drop_danglers(to);
    if (!transaction.commit()) rescued = 0;
  }
  to.take_error();
  to.exec("PRAGMA foreign_keys=ON");
  to.take_error();
  return rescued;
}

}  // namespace moejit::internal
