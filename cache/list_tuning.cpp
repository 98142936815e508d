#include "cache/list_tuning.h"

#include "cache/place.h"

namespace moejit::internal {

Result<std::vector<MeasurementInfo>> list_measurements(const CachePlace& place) {
  auto opened = OpenPlace::open(place, Access::kRead);
  if (!opened.ok()) return opened.status();
  std::vector<MeasurementInfo> found;
  {
    Query query((*opened)->db(),
                "SELECT p.json, e.json, o.json, p.tokens, s.uuid, m.schedule, m.stage, m.status,"
                " m.note, m.median_s, m.predicted_s, m.floor_s, m.error, m.at"
                " FROM measurement m JOIN problem p ON p.prob_id = m.prob_id"
                " JOIN env e ON e.env_id = m.env_id JOIN policy o ON o.policy_id = m.policy_id"
                " JOIN session s ON s.sess_id = m.sess_id"
                " ORDER BY p.json, e.json, o.json, p.tokens, m.status <> 'ok', m.median_s,"
                " m.schedule, m.meas_id");
    while (query.row()) {
      MeasurementInfo m;
      m.problem = query.text_at(0);
      m.environment = query.text_at(1);
      m.policy = query.text_at(2);
      m.tokens = query.integer_at(3);
      m.session = query.text_at(4);
      m.schedule = query.text_at(5);
      m.stage = query.text_at(6);
      m.status = query.text_at(7);
      m.note = query.text_at(8);
      m.median_s = query.real_at(9);
      m.predicted_s = query.real_at(10);
      m.floor_s = query.real_at(11);
      m.error = query.real_at(12);
      m.at = query.integer_at(13);
      found.push_back(std::move(m));
    }
  }
  if (Status status = (*opened)->status("cannot be listed"); !status.ok()) return status;
  return found;
}

Result<std::vector<EnvironmentInfo>> list_environments(const CachePlace& place) {
  auto opened = OpenPlace::open(place, Access::kRead);
  if (!opened.ok()) return opened.status();
  std::vector<EnvironmentInfo> found;
  {
    Query query((*opened)->db(), "SELECT json, limits_json, limits_at FROM env ORDER BY json");
    while (query.row()) found.push_back({query.text_at(0), query.text_at(1), query.integer_at(2)});
  }
  if (Status status = (*opened)->status("cannot be listed"); !status.ok()) return status;
  return found;
}

}  // namespace moejit::internal
