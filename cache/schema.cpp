#include "cache/schema.h"

#include <set>
#include <string_view>

namespace moejit::internal {
namespace {

// Times are Unix seconds, durations are seconds unless a name says ms. `json` columns hold
// canonical JSON, kept whole for people; the store looks only at the hashes.
constexpr const char* kVersion1[] = {
    "CREATE TABLE meta(k TEXT PRIMARY KEY, v TEXT NOT NULL) STRICT, WITHOUT ROWID",

    "CREATE TABLE toolchain(tc_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " first_seen INTEGER NOT NULL) STRICT",

    "CREATE TABLE env(env_id INTEGER PRIMARY KEY,"
    " env_hash BLOB NOT NULL UNIQUE CHECK(length(env_hash)=32), json TEXT NOT NULL,"
    " limits_json TEXT, limits_at INTEGER) STRICT",

    "CREATE TABLE policy(policy_id INTEGER PRIMARY KEY,"
    " policy_hash BLOB NOT NULL UNIQUE CHECK(length(policy_hash)=32), json TEXT NOT NULL) STRICT",

    // A rowid table: large rows in an index b-tree would be slow. codec 0: as it is.
    "CREATE TABLE blob(blob_id INTEGER PRIMARY KEY,"
    " sha256 BLOB NOT NULL UNIQUE CHECK(length(sha256)=32), codec INTEGER NOT NULL CHECK(codec=0),"
    " raw_size INTEGER NOT NULL CHECK(raw_size>0), data BLOB NOT NULL) STRICT",

    // blob_id NULL: the binary was evicted or damaged, its figures stay. seal: see rows.h.
    "CREATE TABLE artifact(art_id INTEGER PRIMARY KEY,"
    " art_key BLOB NOT NULL UNIQUE CHECK(length(art_key)=32),"
    " source BLOB NOT NULL CHECK(length(source)=32), tc_id INTEGER NOT NULL REFERENCES toolchain,"
    " backend TEXT NOT NULL, arch TEXT NOT NULL, format TEXT NOT NULL, schedule TEXT NOT NULL,"
    " config TEXT NOT NULL, log TEXT NOT NULL, registers INTEGER NOT NULL,"
    " spill_bytes INTEGER NOT NULL, shared_bytes INTEGER NOT NULL, compile_ms REAL,"
    " blob_id INTEGER REFERENCES blob ON DELETE SET NULL,"
    " seal BLOB NOT NULL CHECK(length(seal)=32), created_at INTEGER NOT NULL,"
    " last_used_at INTEGER NOT NULL) STRICT",
    "CREATE INDEX artifact_source ON artifact(source, created_at) WHERE blob_id IS NOT NULL",
    "CREATE INDEX artifact_lru ON artifact(last_used_at) WHERE blob_id IS NOT NULL",
    "CREATE INDEX artifact_blob ON artifact(blob_id)",

    // family: hash of the problem without its token count.
    "CREATE TABLE problem(prob_id INTEGER PRIMARY KEY,"
    " family BLOB NOT NULL CHECK(length(family)=32), tokens INTEGER NOT NULL, json TEXT NOT NULL,"
    " UNIQUE(family, tokens)) STRICT",

    "CREATE TABLE session(sess_id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE,"
    " started_at INTEGER NOT NULL) STRICT",

    // source and tc_id name the artifact by value: a measurement outlives its binary.
    "CREATE TABLE measurement(meas_id INTEGER PRIMARY KEY,"
    " prob_id INTEGER NOT NULL REFERENCES problem, env_id INTEGER NOT NULL REFERENCES env,"
    " policy_id INTEGER NOT NULL REFERENCES policy, sess_id INTEGER NOT NULL REFERENCES session,"
    " schedule TEXT NOT NULL, source BLOB NOT NULL CHECK(length(source)=32),"
    " tc_id INTEGER NOT NULL REFERENCES toolchain, stage TEXT NOT NULL,"
    " status TEXT NOT NULL"
    " CHECK(status IN ('ok','compile_error','load_error','wrong','fault','timeout','spill')),"
    " median_s REAL, p20_s REAL, p80_s REAL, samples INTEGER NOT NULL, predicted_s REAL,"
    " floor_s REAL, error REAL, note TEXT NOT NULL, at INTEGER NOT NULL,"
    " UNIQUE(prob_id, env_id, policy_id, sess_id, schedule, source, tc_id, stage)) STRICT",

    "CREATE INDEX measurement_source ON measurement(source)",

    "CREATE TABLE selection(prob_id INTEGER NOT NULL REFERENCES problem,"
    " env_id INTEGER NOT NULL REFERENCES env, policy_id INTEGER NOT NULL REFERENCES policy,"
    " generator TEXT NOT NULL, schedule TEXT NOT NULL,"
    " source BLOB NOT NULL CHECK(length(source)=32), tc_id INTEGER NOT NULL REFERENCES toolchain,"
    " how TEXT NOT NULL CHECK(how IN ('pinned','tuned','imported')),"
    " median_s REAL, predicted_s REAL, floor_s REAL, error REAL, versus_default REAL,"
    " candidates INTEGER NOT NULL, note TEXT NOT NULL, decided_at INTEGER NOT NULL,"
    " PRIMARY KEY(prob_id, env_id, policy_id, generator)) STRICT, WITHOUT ROWID",
    "CREATE INDEX selection_source ON selection(source)",

    // blob_bytes without a scan of the blobs.
    "CREATE TABLE total(k TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TRIGGER blob_added AFTER INSERT ON blob BEGIN"
    " UPDATE total SET n = n + new.raw_size WHERE k = 'blob_bytes'; END",
    "CREATE TRIGGER blob_removed AFTER DELETE ON blob BEGIN"
    " UPDATE total SET n = n - old.raw_size WHERE k = 'blob_bytes'; END",
};

// Every decision that was ever made for a key, for `cache history`.
#define MOEJIT_REMEMBER                                                                   \
  " INSERT INTO history(prob_id, env_id, policy_id, generator, schedule, source, tc_id,"  \
  " how, median_s, versus_default, candidates, note, at) VALUES(new.prob_id, new.env_id," \
  " new.policy_id, new.generator, new.schedule, new.source, new.tc_id, new.how,"          \
  " new.median_s, new.versus_default, new.candidates, new.note, new.decided_at); END"

constexpr const char* kVersion2[] = {
    "CREATE TABLE history(hist_id INTEGER PRIMARY KEY,"
    " prob_id INTEGER NOT NULL REFERENCES problem, env_id INTEGER NOT NULL REFERENCES env,"
    " policy_id INTEGER NOT NULL REFERENCES policy, generator TEXT NOT NULL,"
    " schedule TEXT NOT NULL, source BLOB NOT NULL CHECK(length(source)=32),"
    " tc_id INTEGER NOT NULL REFERENCES toolchain, how TEXT NOT NULL, median_s REAL,"
    " versus_default REAL, candidates INTEGER NOT NULL, note TEXT NOT NULL,"
    " at INTEGER NOT NULL) STRICT",
    "CREATE INDEX history_key ON history(prob_id, env_id, policy_id, generator, at)",
    "CREATE TRIGGER selection_added AFTER INSERT ON selection BEGIN" MOEJIT_REMEMBER,
    "CREATE TRIGGER selection_changed AFTER UPDATE ON selection BEGIN" MOEJIT_REMEMBER,
};

constexpr int64_t kTablesOfVersion1 = 11, kTablesOfVersion2 = 12;

void add_version2(Db& db) {
  for (const char* statement : kVersion2) db.exec(statement);
}

bool set_version(Db& db) {
  // Pragmas take no parameters; the number is ours.
  const std::string text = "PRAGMA user_version=" + std::to_string(kSchemaVersion);
  if (!db.exec(text.c_str())) return false;
  Query(db, "INSERT OR REPLACE INTO meta(k, v) VALUES('schema_min_reader', ?1)")
      .text(std::to_string(kSchemaMinReader))
      .run();
  return db.error() == 0;
}

int64_t pragma(Db& db, const char* sql) {
  Query query(db, sql);
  return query.row() ? query.integer_at(0) : 0;
}

}  // namespace

bool create_schema(Db& db) {
  // Both must precede the first table.
  db.exec("PRAGMA page_size=8192; PRAGMA auto_vacuum=INCREMENTAL");
  Transaction transaction(db);
  const std::string id = "PRAGMA application_id=" + std::to_string(kApplicationId);
  db.exec(id.c_str());
  for (const char* statement : kVersion1) db.exec(statement);
  add_version2(db);
  db.exec("INSERT INTO total(k, n) VALUES('blob_bytes', 0)");
  return set_version(db) && transaction.commit();
}

SchemaVerdict check_schema(Db& db, int64_t* version) {
  const int64_t id = pragma(db, "PRAGMA application_id");
  *version = pragma(db, "PRAGMA user_version");
  int64_t tables = 0, ours = 0;
  {
    Query query(db,
                "SELECT count(*), coalesce(sum(name IN ('meta','toolchain','env','policy','blob',"
                "'artifact','problem','session','measurement','selection','total','history')), 0)"
                " FROM sqlite_schema WHERE type = 'table'");
    if (query.row()) {
      tables = query.integer_at(0);
      ours = query.integer_at(1);
    }
  }
  if (db.error() != 0) return SchemaVerdict::kError;
  if (id != kApplicationId) {
    return id == 0 && tables == 0 ? SchemaVerdict::kIncomplete : SchemaVerdict::kForeign;
  }
  if (*version > kSchemaVersion) {
    Query query(db, "SELECT v FROM meta WHERE k = 'schema_min_reader'");
    const std::string oldest = query.row() ? query.text_at(0) : "";
    if (db.error() != 0) return SchemaVerdict::kError;
    const bool readable = !oldest.empty() && oldest.size() < 10 &&
                          oldest.find_first_not_of("0123456789") == std::string::npos &&
                          std::stoll(oldest) <= kSchemaVersion;
    return readable && ours >= kTablesOfVersion1 ? SchemaVerdict::kNewerRead
                                                 : SchemaVerdict::kNewer;
  }
  const int64_t wanted = *version < 2 ? kTablesOfVersion1 : kTablesOfVersion2;
  if (*version < 1 || ours < wanted) return SchemaVerdict::kIncomplete;
  return *version < kSchemaVersion ? SchemaVerdict::kOlder : SchemaVerdict::kCurrent;
}

bool migrate_schema(Db& db, int64_t from) {
  Transaction transaction(db, "BEGIN EXCLUSIVE");
  // Another process may have been here first.
  if (pragma(db, "PRAGMA user_version") != from) return db.error() == 0;
  if (from < 2) {
    add_version2(db);
    db.exec(
        "INSERT INTO history(prob_id, env_id, policy_id, generator, schedule, source, tc_id, how,"
        " median_s, versus_default, candidates, note, at) SELECT prob_id, env_id, policy_id,"
        " generator, schedule, source, tc_id, how, median_s, versus_default, candidates, note,"
        " decided_at FROM selection");
  }
  return set_version(db) && transaction.commit();
}

bool schema_is_ours(Db& db, int64_t version) {
  std::set<std::string> expected;
  for (const char* statement : kVersion1) expected.insert(statement);
  if (version >= 2) {
    for (const char* statement : kVersion2) expected.insert(statement);
  }
  Query query(db, "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL");
  size_t found = 0;
  while (query.row()) {
    if (expected.count(query.text_at(0)) == 0) return false;
    ++found;
  }
  return db.error() == 0 && found == expected.size();
}

}  // namespace moejit::internal
