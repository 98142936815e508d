#include "cache/rows.h"

#include <chrono>

#include "base/hash.h"

namespace moejit::internal {
namespace {

// In the order of BinaryColumns below.
#define MOEJIT_BINARY_SELECT                                                                \
  "SELECT a.art_id, b.blob_id, a.last_used_at, a.backend, a.arch, a.format, t.name,"        \
  " a.schedule, a.config, a.log, a.registers, a.spill_bytes, a.shared_bytes, a.compile_ms," \
  " b.sha256, b.raw_size, b.data FROM artifact a JOIN blob b ON b.blob_id = a.blob_id"      \
  " JOIN toolchain t ON t.tc_id = a.tc_id "

std::optional<BinaryRow> binary_of(Query& query) {
  if (!query.row()) return std::nullopt;
  BinaryRow row;
  row.art_id = query.integer_at(0);
  row.blob_id = query.integer_at(1);
  row.last_used_at = query.integer_at(2);
  StoredBinary& b = row.binary;
  b.backend = query.text_at(3);
  b.arch = query.text_at(4);
  b.format = query.text_at(5);
  b.toolchain = query.text_at(6);
  b.schedule = query.text_at(7);
  b.config = query.text_at(8);
  b.compiler_log = query.text_at(9);
  b.registers = static_cast<int32_t>(query.integer_at(10));
  b.spill_bytes = static_cast<int32_t>(query.integer_at(11));
  b.shared_bytes = static_cast<int32_t>(query.integer_at(12));
  b.compile_ms = query.real_at(13);
  b.bytes = query.blob_at(16);
  Digest expected{};
  row.intact = query.digest_at(14, expected.data()) &&
               query.integer_at(15) == static_cast<int64_t>(b.bytes.size()) &&
               sha256(b.bytes.data(), b.bytes.size()) == expected;
  return row;
}

int64_t id_of(Query& query) {
  return query.row() ? query.integer_at(0) : 0;
}

Selection selection_of(const Query& query, const MeasurementKey& key,
                       const std::string& generator) {
  Selection s;
  s.key = key;
  s.key.tokens = query.integer_at(0);
  s.generator = generator;
  s.schedule = query.text_at(1);
  query.digest_at(2, s.source.data());
  s.toolchain = query.text_at(3);
  s.how = query.text_at(4);
  s.median_s = query.real_at(5);
  s.predicted_s = query.real_at(6);
  s.floor_s = query.real_at(7);
  s.error = query.real_at(8);
  s.versus_default = query.real_at(9);
  s.candidates = static_cast<int32_t>(query.integer_at(10));
  s.note = query.text_at(11);
  s.decided_at = query.integer_at(12);
  return s;
}

#define MOEJIT_SELECTION_SELECT                                                       \
  "SELECT p.tokens, s.schedule, s.source, t.name, s.how, s.median_s, s.predicted_s,"  \
  " s.floor_s, s.error, s.versus_default, s.candidates, s.note, s.decided_at, e.json" \
  " FROM selection s JOIN problem p ON p.prob_id = s.prob_id"                         \
  " JOIN toolchain t ON t.tc_id = s.tc_id JOIN env e ON e.env_id = s.env_id "

}  // namespace

Digest artifact_digest(const ArtifactKey& key) {
  return Sha256()
      .field("moejit artifact 1")
      .update(key.source.data(), key.source.size())
      .field(key.toolchain)
      .finish();
}

Digest text_digest(const std::string& json) {
  return sha256(json.data(), json.size());
}

int64_t unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int64_t toolchain_id(Db& db, const std::string& name, int64_t now) {
  const int64_t id = id_of(Query(db, "SELECT tc_id FROM toolchain WHERE name = ?1").text(name));
  if (id != 0 || db.error() != 0) return id;
  Query(db, "INSERT INTO toolchain(name, first_seen) VALUES(?1, ?2)").text(name).integer(now).run();
  return db.last_row_id();
}

int64_t environment_id(Db& db, const std::string& json, bool create) {
  const Digest hash = text_digest(json);
  const int64_t id =
      id_of(Query(db, "SELECT env_id FROM env WHERE env_hash = ?1").blob(hash.data(), 32));
  if (id != 0 || !create || db.error() != 0) return id;
  Query(db, "INSERT INTO env(env_hash, json) VALUES(?1, ?2)")
      .blob(hash.data(), 32)
      .text(json)
      .run();
  return db.last_row_id();
}

int64_t policy_id(Db& db, const std::string& json, bool create) {
  const Digest hash = text_digest(json);
  const int64_t id =
      id_of(Query(db, "SELECT policy_id FROM policy WHERE policy_hash = ?1").blob(hash.data(), 32));
  if (id != 0 || !create || db.error() != 0) return id;
  Query(db, "INSERT INTO policy(policy_hash, json) VALUES(?1, ?2)")
      .blob(hash.data(), 32)
      .text(json)
      .run();
  return db.last_row_id();
}

int64_t problem_id(Db& db, const std::string& json, int64_t tokens, bool create) {
  const Digest family = text_digest(json);
  const int64_t id =
      id_of(Query(db, "SELECT prob_id FROM problem WHERE family = ?1 AND tokens = ?2")
                .blob(family.data(), 32)
                .integer(tokens));
  if (id != 0 || !create || db.error() != 0) return id;
  Query(db, "INSERT INTO problem(family, tokens, json) VALUES(?1, ?2, ?3)")
      .blob(family.data(), 32)
      .integer(tokens)
      .text(json)
      .run();
  return db.last_row_id();
}

std::optional<BinaryRow> read_binary(Db& db, const ArtifactKey& key) {
  if (key.toolchain.empty()) {
    Query query(db, MOEJIT_BINARY_SELECT
                "WHERE a.source = ?1 AND a.blob_id IS NOT NULL"
                " ORDER BY a.created_at DESC, a.art_id DESC LIMIT 1");
    query.blob(key.source.data(), key.source.size());
    return binary_of(query);
  }
  const Digest art_key = artifact_digest(key);
  Query query(db, MOEJIT_BINARY_SELECT "WHERE a.art_key = ?1");
  query.blob(art_key.data(), art_key.size());
  return binary_of(query);
}

PutOutcome write_binary(Db& db, const ArtifactKey& key, const StoredBinary& b, int64_t now) {
  const Digest art_key = artifact_digest(key);
  const Digest hash = sha256(b.bytes.data(), b.bytes.size());
  const int64_t tc_id = toolchain_id(db, key.toolchain, now);
  Query(db,
        "INSERT INTO blob(sha256, codec, raw_size, data) VALUES(?1, 0, ?2, ?3)"
        " ON CONFLICT(sha256) DO NOTHING")
      .blob(hash.data(), 32)
      .integer(static_cast<int64_t>(b.bytes.size()))
      .blob(b.bytes.data(), b.bytes.size())
      .run();
  const int64_t blob_id =
      id_of(Query(db, "SELECT blob_id FROM blob WHERE sha256 = ?1").blob(hash.data(), 32));
  // The first complete record of a key stays: its text and its bytes came from one compilation.
  Query(db,
        "INSERT INTO artifact(art_key, source, tc_id, backend, arch, format, schedule, config, log,"
        " registers, spill_bytes, shared_bytes, compile_ms, blob_id, created_at, last_used_at)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?15)"
        " ON CONFLICT(art_key) DO UPDATE SET backend = excluded.backend, arch = excluded.arch,"
        " format = excluded.format, schedule = excluded.schedule, config = excluded.config,"
        " log = excluded.log, registers = excluded.registers, spill_bytes = excluded.spill_bytes,"
        " shared_bytes = excluded.shared_bytes, compile_ms = excluded.compile_ms,"
        " blob_id = excluded.blob_id, created_at = excluded.created_at,"
        " last_used_at = excluded.last_used_at WHERE artifact.blob_id IS NULL")
      .blob(art_key.data(), 32)
      .blob(key.source.data(), 32)
      .integer(tc_id)
      .text(b.backend)
      .text(b.arch)
      .text(b.format)
      .text(b.schedule)
      .text(b.config)
      .text(b.compiler_log)
      .integer(b.registers)
      .integer(b.spill_bytes)
      .integer(b.shared_bytes)
      .real(b.compile_ms)
      .integer(blob_id)
      .integer(now)
      .run();
  if (db.changes() > 0) return PutOutcome::kAdded;
  // Another compilation's bytes are in place; ours may be an orphan now.
  Query(db,
        "DELETE FROM blob WHERE blob_id = ?1"
        " AND NOT EXISTS (SELECT 1 FROM artifact WHERE blob_id = ?1)")
      .integer(blob_id)
      .run();
  return PutOutcome::kAlreadyThere;
}

void remove_blob(Db& db, int64_t blob_id) {
  Query(db, "UPDATE artifact SET blob_id = NULL WHERE blob_id = ?1").integer(blob_id).run();
  Query(db, "DELETE FROM blob WHERE blob_id = ?1").integer(blob_id).run();
}

void touch_artifact(Db& db, int64_t art_id, int64_t now) {
  Query(db, "UPDATE artifact SET last_used_at = ?2 WHERE art_id = ?1 AND last_used_at < ?2")
      .integer(art_id)
      .integer(now)
      .run();
}

void write_measurement(Db& db, const Measurement& m, int64_t now) {
  const int64_t prob = problem_id(db, m.key.problem, m.key.tokens, true);
  const int64_t env = environment_id(db, m.key.environment, true);
  const int64_t policy = policy_id(db, m.key.policy, true);
  const int64_t tc = toolchain_id(db, m.toolchain, now);
  Query(db, "INSERT INTO session(uuid, started_at) VALUES(?1, ?2) ON CONFLICT(uuid) DO NOTHING")
      .text(m.session)
      .integer(now)
      .run();
  const int64_t session =
      id_of(Query(db, "SELECT sess_id FROM session WHERE uuid = ?1").text(m.session));
  Query(db,
        "INSERT INTO measurement(prob_id, env_id, policy_id, sess_id, schedule, source, tc_id,"
        " stage, status, median_s, p20_s, p80_s, samples, predicted_s, floor_s, error, note, at)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)"
        " ON CONFLICT(prob_id, env_id, policy_id, sess_id, schedule, source, tc_id, stage)"
        " DO UPDATE SET status = excluded.status, median_s = excluded.median_s,"
        " p20_s = excluded.p20_s, p80_s = excluded.p80_s, samples = excluded.samples,"
        " predicted_s = excluded.predicted_s, floor_s = excluded.floor_s, error = excluded.error,"
        " note = excluded.note, at = excluded.at")
      .integer(prob)
      .integer(env)
      .integer(policy)
      .integer(session)
      .text(m.schedule)
      .blob(m.source.data(), 32)
      .integer(tc)
      .text(m.stage)
      .text(m.status)
      .real(m.median_s)
      .real(m.p20_s)
      .real(m.p80_s)
      .integer(m.samples)
      .real(m.predicted_s)
      .real(m.floor_s)
      .real(m.error)
      .text(m.note)
      .integer(now)
      .run();
}

std::vector<Measurement> read_measurements(Db& db, const MeasurementKey& key) {
  std::vector<Measurement> found;
  const int64_t prob = problem_id(db, key.problem, key.tokens, false);
  const int64_t env = environment_id(db, key.environment, false);
  const int64_t policy = policy_id(db, key.policy, false);
  if (prob == 0 || env == 0 || policy == 0) return found;
  Query query(db,
              "SELECT x.uuid, m.schedule, m.source, t.name, m.stage, m.status, m.median_s, m.p20_s,"
              " m.p80_s, m.samples, m.predicted_s, m.floor_s, m.error, m.note FROM measurement m"
              " JOIN session x ON x.sess_id = m.sess_id JOIN toolchain t ON t.tc_id = m.tc_id"
              " WHERE m.prob_id = ?1 AND m.env_id = ?2 AND m.policy_id = ?3"
              " ORDER BY m.status <> 'ok', m.median_s, x.started_at DESC, m.meas_id DESC");
  query.integer(prob).integer(env).integer(policy);
  while (query.row()) {
    Measurement m;
    m.key = key;
    m.session = query.text_at(0);
    m.schedule = query.text_at(1);
    query.digest_at(2, m.source.data());
    m.toolchain = query.text_at(3);
    m.stage = query.text_at(4);
    m.status = query.text_at(5);
    m.median_s = query.real_at(6);
    m.p20_s = query.real_at(7);
    m.p80_s = query.real_at(8);
    m.samples = static_cast<int32_t>(query.integer_at(9));
    m.predicted_s = query.real_at(10);
    m.floor_s = query.real_at(11);
    m.error = query.real_at(12);
    m.note = query.text_at(13);
    found.push_back(std::move(m));
  }
  return found;
}

bool write_selection(Db& db, const Selection& s, int64_t now) {
  const int64_t prob = problem_id(db, s.key.problem, s.key.tokens, true);
  const int64_t env = environment_id(db, s.key.environment, true);
  const int64_t policy = policy_id(db, s.key.policy, true);
  const int64_t tc = toolchain_id(db, s.toolchain, now);
  Query(db,
        "INSERT INTO selection(prob_id, env_id, policy_id, generator, schedule, source, tc_id, how,"
        " median_s, predicted_s, floor_s, error, versus_default, candidates, note, decided_at)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        " ON CONFLICT(prob_id, env_id, policy_id, generator) DO UPDATE SET"
        " schedule = excluded.schedule, source = excluded.source, tc_id = excluded.tc_id,"
        " how = excluded.how, median_s = excluded.median_s, predicted_s = excluded.predicted_s,"
        " floor_s = excluded.floor_s, error = excluded.error,"
        " versus_default = excluded.versus_default, candidates = excluded.candidates,"
        " note = excluded.note, decided_at = excluded.decided_at"
        " WHERE selection.how <> 'pinned' OR excluded.how = 'pinned'")
      .integer(prob)
      .integer(env)
      .integer(policy)
      .text(s.generator)
      .text(s.schedule)
      .blob(s.source.data(), 32)
      .integer(tc)
      .text(s.how)
      .real(s.median_s)
      .real(s.predicted_s)
      .real(s.floor_s)
      .real(s.error)
      .real(s.versus_default)
      .integer(s.candidates)
      .text(s.note)
      .integer(now)
      .run();
  return db.error() == 0 && db.changes() > 0;
}

std::optional<Selection> read_selection(Db& db, const MeasurementKey& key,
                                        const std::string& generator) {
  const int64_t prob = problem_id(db, key.problem, key.tokens, false);
  const int64_t env = environment_id(db, key.environment, false);
  const int64_t policy = policy_id(db, key.policy, false);
  if (prob == 0 || env == 0 || policy == 0) return std::nullopt;
  Query query(db, MOEJIT_SELECTION_SELECT
              "WHERE s.prob_id = ?1 AND s.env_id = ?2 AND s.policy_id = ?3 AND s.generator = ?4");
  query.integer(prob).integer(env).integer(policy).text(generator);
  if (!query.row()) return std::nullopt;
  return selection_of(query, key, generator);
}

std::vector<Selection> read_selections(Db& db, const std::string& problem,
                                       const std::string& environment, const std::string& policy,
                                       const std::string& generator) {
  std::vector<Selection> found;
  const int64_t env = environment_id(db, environment, false);
  const int64_t policy_row = policy_id(db, policy, false);
  if (env == 0 || policy_row == 0) return found;
  const Digest family = text_digest(problem);
  Query query(db, MOEJIT_SELECTION_SELECT
              "WHERE p.family = ?1 AND s.env_id = ?2 AND s.policy_id = ?3 AND s.generator = ?4"
              " ORDER BY p.tokens");
  query.blob(family.data(), 32).integer(env).integer(policy_row).text(generator);
  const MeasurementKey key{problem, 0, environment, policy};
  while (query.row()) found.push_back(selection_of(query, key, generator));
  return found;
}

std::vector<Selection> read_selections_elsewhere(Db& db, const MeasurementKey& key,
                                                 const std::string& generator) {
  std::vector<Selection> found;
  const int64_t prob = problem_id(db, key.problem, key.tokens, false);
  const int64_t policy = policy_id(db, key.policy, false);
  if (prob == 0 || policy == 0) return found;
  const int64_t env = environment_id(db, key.environment, false);
  Query query(db, MOEJIT_SELECTION_SELECT
              "WHERE s.prob_id = ?1 AND s.env_id <> ?2"
              " AND s.policy_id = ?3 AND s.generator = ?4 ORDER BY s.decided_at DESC, s.env_id");
  query.integer(prob).integer(env).integer(policy).text(generator);
  while (query.row()) {
    found.push_back(selection_of(query, key, generator));
    found.back().key.environment = query.text_at(13);
  }
  return found;
}

std::optional<EnvironmentLimits> read_limits(Db& db, const std::string& environment) {
  const Digest hash = text_digest(environment);
  Query query(db,
              "SELECT limits_json, limits_at FROM env"
              " WHERE env_hash = ?1 AND limits_json IS NOT NULL");
  query.blob(hash.data(), 32);
  if (!query.row()) return std::nullopt;
  return EnvironmentLimits{query.text_at(0), query.integer_at(1)};
}

void write_limits(Db& db, const std::string& environment, const EnvironmentLimits& limits) {
  const int64_t env = environment_id(db, environment, true);
  Query(db, "UPDATE env SET limits_json = ?2, limits_at = ?3 WHERE env_id = ?1")
      .integer(env)
      .text(limits.json)
      .integer(limits.measured_at)
      .run();
}

}  // namespace moejit::internal
