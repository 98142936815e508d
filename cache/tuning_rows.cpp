// Measurements, selections and limits.
#include "cache/rows.h"

namespace moejit::internal {
namespace {

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

void write_measurement(Db& db, const Measurement& m, int64_t now) {
  const int64_t prob = problem_id(db, m.key.problem, m.key.tokens, true);
  const int64_t env = environment_id(db, m.key.environment, true);
  const int64_t policy = policy_id(db, m.key.policy, true);
  const int64_t tc = toolchain_id(db, m.toolchain, now);
  Query(db, "INSERT INTO session(uuid, started_at) VALUES(?1, ?2) ON CONFLICT(uuid) DO NOTHING")
      .text(m.session)
      .integer(now)
      .run();
  int64_t session = 0;
  {
    Query query(db, "SELECT sess_id FROM session WHERE uuid = ?1");
    query.text(m.session);
    if (query.row()) session = query.integer_at(0);
  }
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
  Query query(
      db,
      "SELECT x.uuid, m.schedule, m.source, t.name, m.stage, m.status, m.median_s, m.p20_s,"
      " m.p80_s, m.samples, m.predicted_s, m.floor_s, m.error, m.note, m.at FROM measurement m"
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
    m.at = query.integer_at(14);
    found.push_back(std::move(m));
  }
  return found;
}

std::vector<std::string> read_policies(Db& db, const MeasurementKey& key) {
  std::vector<std::string> found;
  Query query(db,
              "SELECT y.json FROM policy y WHERE EXISTS (SELECT 1 FROM measurement m"
              " WHERE m.prob_id = ?1 AND m.env_id = ?2 AND m.policy_id = y.policy_id)"
              " ORDER BY y.json");
  query.integer(problem_id(db, key.problem, key.tokens, false))
      .integer(environment_id(db, key.environment, false));
  while (query.row()) found.push_back(query.text_at(0));
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
  const int64_t policy = policy_id(db, key.policy, false);
  if (policy == 0) return found;
  const int64_t env = environment_id(db, key.environment, false);
  const Digest family = text_digest(key.problem);
  Query query(db, MOEJIT_SELECTION_SELECT
              "WHERE p.family = ?1 AND (?2 <= 0 OR p.tokens = ?2) AND s.env_id <> ?3"
              " AND s.policy_id = ?4 AND s.generator = ?5"
              " ORDER BY s.decided_at DESC, p.tokens, s.env_id");
  query.blob(family.data(), 32).integer(key.tokens).integer(env).integer(policy).text(generator);
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
