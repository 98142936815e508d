#include "cache/exchange_rows.h"

#include <algorithm>
#include <vector>

#include "base/hash.h"

namespace moejit::internal {

Digest digest_of(const std::string& hex) {
  Digest digest{};
  std::vector<uint8_t> bytes;
  if (from_hex(hex, &bytes) && bytes.size() == digest.size()) {
    std::copy(bytes.begin(), bytes.end(), digest.begin());
  }
  return digest;
}

Selection to_selection(const SelectionInfo& info) {
  Selection s;
  s.key = {info.problem, info.tokens, info.environment, info.policy};
  s.generator = info.generator;
  s.schedule = info.schedule;
  s.source = digest_of(info.source);
  s.toolchain = info.toolchain;
  s.how = info.how;
  s.median_s = info.median_s;
  s.predicted_s = info.predicted_s;
  s.floor_s = info.floor_s;
  s.error = info.error;
  s.versus_default = info.versus_default;
  s.candidates = info.candidates;
  s.note = info.note;
  s.decided_at = info.decided_at;
  return s;
}

void each_measurement(Db& db, const std::function<void(const Measurement&, int64_t at)>& visit) {
  Query query(db,
              "SELECT p.json, p.tokens, e.json, y.json, x.uuid, m.schedule, m.source, t.name,"
              " m.stage, m.status, m.median_s, m.p20_s, m.p80_s, m.samples, m.predicted_s,"
              " m.floor_s, m.error, m.note, m.at FROM measurement m"
              " JOIN problem p ON p.prob_id = m.prob_id JOIN env e ON e.env_id = m.env_id"
              " JOIN policy y ON y.policy_id = m.policy_id JOIN session x ON x.sess_id = m.sess_id"
              " JOIN toolchain t ON t.tc_id = m.tc_id"
              " ORDER BY p.json, p.tokens, e.json, y.json, x.uuid, m.schedule, t.name, m.stage,"
              " m.source");
  while (query.row()) {
    Measurement m;
    m.key = {query.text_at(0), query.integer_at(1), query.text_at(2), query.text_at(3)};
    m.session = query.text_at(4);
    m.schedule = query.text_at(5);
    query.digest_at(6, m.source.data());
    m.toolchain = query.text_at(7);
    m.stage = query.text_at(8);
    m.status = query.text_at(9);
    m.median_s = query.real_at(10);
    m.p20_s = query.real_at(11);
    m.p80_s = query.real_at(12);
    m.samples = static_cast<int32_t>(query.integer_at(13));
    m.predicted_s = query.real_at(14);
    m.floor_s = query.real_at(15);
    m.error = query.real_at(16);
    m.note = query.text_at(17);
    visit(m, query.integer_at(18));
  }
}

bool take_limits(Db& from, Db& to, const std::string& environment) {
  const auto limits = read_limits(from, environment);
  if (!limits.has_value() || read_limits(to, environment).has_value()) return false;
  write_limits(to, environment, *limits);
  return true;
}

}  // namespace moejit::internal
