#include "cache/list.h"

#include <algorithm>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/evict.h"
#include "cache/place.h"
#include "cache/schema.h"

namespace moejit::internal {
namespace {

std::string hex_at(const Query& query, int column) {
  const std::vector<uint8_t> bytes = query.blob_at(column);
  return to_hex(bytes.data(), bytes.size());
}

int64_t number(Db& db, const char* sql) {
  Query query(db, sql);
  return query.row() ? query.integer_at(0) : 0;
}

bool wanted(const std::string& filter, const std::string& value) {
  return filter.empty() || filter == value;
}

std::vector<CountOf> count_by(Db& db, const char* sql) {
  std::vector<CountOf> counts;
  Query query(db, sql);
  while (query.row()) {
    counts.push_back(
        {query.text_at(0), query.integer_at(1), query.integer_at(2), query.integer_at(3)});
  }
  return counts;
}

std::vector<ArtifactInfo> read_artifacts(Db& db, const CacheFilter& filter) {
  std::vector<ArtifactInfo> found;
  Query query(db,
              "SELECT a.art_key, a.source, t.name, a.backend, a.arch, a.format, a.schedule,"
              " a.config, a.log, a.registers, a.spill_bytes, a.shared_bytes, a.compile_ms,"
              " b.raw_size, b.sha256, a.created_at, a.last_used_at,"
              " (SELECT count(*) FROM measurement m WHERE m.source = a.source"
              "  AND m.tc_id = a.tc_id),"
              " EXISTS (SELECT 1 FROM selection s WHERE s.source = a.source"
              "  AND s.tc_id = a.tc_id)"
              " FROM artifact a JOIN toolchain t ON t.tc_id = a.tc_id"
              " LEFT JOIN blob b ON b.blob_id = a.blob_id"
              " ORDER BY a.last_used_at DESC, a.art_id DESC");
  while ((filter.limit == 0 || static_cast<int64_t>(found.size()) < filter.limit) && query.row()) {
    ArtifactInfo a;
    a.key = hex_at(query, 0);
    a.toolchain = query.text_at(2);
    a.backend = query.text_at(3);
    a.arch = query.text_at(4);
    if (!key_matches(a.key, filter.key) || !wanted(filter.toolchain, a.toolchain) ||
        !wanted(filter.backend, a.backend) || !wanted(filter.arch, a.arch)) {
      continue;
    }
    a.source = hex_at(query, 1);
    a.format = query.text_at(5);
    a.schedule = query.text_at(6);
    a.config = query.text_at(7);
    a.log = query.text_at(8);
    a.registers = static_cast<int32_t>(query.integer_at(9));
    a.spill_bytes = static_cast<int32_t>(query.integer_at(10));
    a.shared_bytes = static_cast<int32_t>(query.integer_at(11));
    a.compile_ms = query.real_at(12);
    a.bytes = query.integer_at(13);
    a.sha256 = hex_at(query, 14);
    a.created_at = query.integer_at(15);
    a.last_used_at = query.integer_at(16);
    a.measurements = query.integer_at(17);
    a.selected = query.integer_at(18) != 0;
    found.push_back(std::move(a));
  }
  return found;
}

// Columns as in both queries below.
SelectionInfo selection_at(const Query& query) {
  SelectionInfo s;
  s.problem = query.text_at(0);
  s.tokens = query.integer_at(1);
  s.environment = query.text_at(2);
  s.policy = query.text_at(3);
  s.generator = query.text_at(4);
  s.schedule = query.text_at(5);
  s.source = hex_at(query, 6);
  s.toolchain = query.text_at(7);
  s.how = query.text_at(8);
  s.median_s = query.real_at(9);
  s.versus_default = query.real_at(10);
  s.candidates = static_cast<int32_t>(query.integer_at(11));
  s.note = query.text_at(12);
  s.decided_at = query.integer_at(13);
  s.key = selection_key({s.problem, s.tokens, s.environment, s.policy}, s.generator);
  return s;
}

std::vector<SelectionInfo> read_all_selections(Db& db, const CacheFilter& filter) {
  std::vector<SelectionInfo> found;
  Query query(db,
              "SELECT p.json, p.tokens, e.json, y.json, s.generator, s.schedule, s.source, t.name,"
              " s.how, s.median_s, s.versus_default, s.candidates, s.note, s.decided_at,"
              " s.predicted_s, s.floor_s, s.error,"
              " EXISTS (SELECT 1 FROM artifact a WHERE a.source = s.source"
              "  AND a.blob_id IS NOT NULL)"
              " FROM selection s JOIN problem p ON p.prob_id = s.prob_id"
              " JOIN env e ON e.env_id = s.env_id JOIN policy y ON y.policy_id = s.policy_id"
              " JOIN toolchain t ON t.tc_id = s.tc_id"
              " ORDER BY p.json, e.json, y.json, p.tokens, s.generator");
  while ((filter.limit == 0 || static_cast<int64_t>(found.size()) < filter.limit) && query.row()) {
    SelectionInfo s = selection_at(query);
    s.predicted_s = query.real_at(14);
    s.floor_s = query.real_at(15);
    s.error = query.real_at(16);
    s.has_binary = query.integer_at(17) != 0;
    if (key_matches(s.key, filter.key) && wanted(filter.toolchain, s.toolchain)) {
      found.push_back(std::move(s));
    }
  }
  return found;
}

}  // namespace

Result<std::vector<ArtifactInfo>> list_artifacts(const CachePlace& place,
                                                 const CacheFilter& filter) {
  auto opened = OpenPlace::open(place, Access::kRead);
  if (!opened.ok()) return opened.status();
  std::vector<ArtifactInfo> found = read_artifacts((*opened)->db(), filter);
  if (Status status = (*opened)->status("cannot be listed"); !status.ok()) return status;
  return found;
}

Result<std::vector<SelectionInfo>> list_selections(const CachePlace& place,
                                                   const CacheFilter& filter) {
  auto opened = OpenPlace::open(place, Access::kRead);
  if (!opened.ok()) return opened.status();
  std::vector<SelectionInfo> found = read_all_selections((*opened)->db(), filter);
  if (Status status = (*opened)->status("cannot be listed"); !status.ok()) return status;
  return found;
}

Result<CacheEntry> show_entry(const CachePlace& place, const std::string& key_prefix) {
  MOEJIT_RETURN_IF_ERROR(check_key_prefix(key_prefix));
  CacheFilter filter;
  filter.key = key_prefix;
  auto artifacts = list_artifacts(place, filter);
  if (!artifacts.ok()) return artifacts.status();
  auto selections = list_selections(place, filter);
  if (!selections.ok()) return selections.status();
  CacheEntry entry{*std::move(artifacts), *std::move(selections)};
  const size_t count = entry.artifact.size() + entry.selection.size();
  if (count == 1) return entry;
  if (count == 0) {
    return Status(StatusCode::kNotFound, "key = \"" + key_prefix + "\": nothing in " + place.where +
                                             " has a key that begins so");
  }
  std::string message =
      "key = \"" + key_prefix + "\": " + std::to_string(count) + " keys begin so:";
  size_t named = 0;
  for (const auto& a : entry.artifact) {
    if (named++ < 8) message += " " + a.key.substr(0, 16);
  }
  for (const auto& s : entry.selection) {
    if (named++ < 8) message += " " + s.key.substr(0, 16);
  }
  return invalid_argument(message);
}

Result<CacheStats> cache_stats(const CachePlace& place) {
  auto opened = OpenPlace::open(place, Access::kRead);
  if (!opened.ok()) return opened.status();
  Db& db = (*opened)->db();
  CacheStats s;
  s.path = (*opened)->path();
  s.schema = (*opened)->schema();
  s.file_bytes =
      std::max<int64_t>(file_size(s.path), 0) + std::max<int64_t>(file_size(s.path + "-wal"), 0);
  s.free_bytes = number(db, "PRAGMA freelist_count") * number(db, "PRAGMA page_size");
  s.artifacts = number(db, "SELECT count(*) FROM artifact");
  s.binaries = number(db, "SELECT count(*) FROM blob");
  s.binary_bytes = blob_bytes(db);
  s.problems = number(db, "SELECT count(DISTINCT family) FROM problem");
  s.environments = number(db, "SELECT count(*) FROM env");
  s.sessions = number(db, "SELECT count(*) FROM session");
  s.measurements = number(db, "SELECT count(*) FROM measurement");
  s.selections = number(db, "SELECT count(*) FROM selection");
  s.pinned = number(db, "SELECT count(*) FROM selection WHERE how = 'pinned'");
  s.imported = number(db, "SELECT count(*) FROM selection WHERE how = 'imported'");
  if (s.schema >= 2) s.decisions = number(db, "SELECT count(*) FROM history");
  s.oldest_use = number(db, "SELECT min(last_used_at) FROM artifact WHERE blob_id IS NOT NULL");
  s.newest_use = number(db, "SELECT max(last_used_at) FROM artifact WHERE blob_id IS NOT NULL");
  s.by_arch = count_by(db,
                       "SELECT a.backend || ' ' || a.arch, count(*), count(b.blob_id),"
                       " coalesce(sum(b.raw_size), 0) FROM artifact a"
                       " LEFT JOIN blob b ON b.blob_id = a.blob_id GROUP BY 1 ORDER BY 4 DESC, 1");
  s.by_toolchain =
      count_by(db,
               "SELECT t.name, count(*), count(b.blob_id), coalesce(sum(b.raw_size), 0)"
               " FROM artifact a JOIN toolchain t ON t.tc_id = a.tc_id"
               " LEFT JOIN blob b ON b.blob_id = a.blob_id GROUP BY 1 ORDER BY 4 DESC, 1");
  if (Status status = (*opened)->status("cannot be read"); !status.ok()) return status;
  return s;
}

Result<std::vector<HistoryInfo>> selection_history(const CachePlace& place,
                                                   const std::string& key_prefix) {
  if (!key_prefix.empty()) MOEJIT_RETURN_IF_ERROR(check_key_prefix(key_prefix));
  auto opened = OpenPlace::open(place, Access::kRead);
  if (!opened.ok()) return opened.status();
  std::vector<HistoryInfo> found;
  if ((*opened)->schema() < 2) return found;
  Query query((*opened)->db(),
              "SELECT p.json, p.tokens, e.json, y.json, h.generator, h.schedule, h.source, t.name,"
              " h.how, h.median_s, h.versus_default, h.candidates, h.note, h.at,"
              " h.hist_id = (SELECT max(n.hist_id) FROM history n WHERE n.prob_id = h.prob_id"
              "  AND n.env_id = h.env_id AND n.policy_id = h.policy_id"
              "  AND n.generator = h.generator)"
              " FROM history h JOIN problem p ON p.prob_id = h.prob_id"
              " JOIN env e ON e.env_id = h.env_id JOIN policy y ON y.policy_id = h.policy_id"
              " JOIN toolchain t ON t.tc_id = h.tc_id ORDER BY h.at DESC, h.hist_id DESC");
  while (query.row()) {
    HistoryInfo h{selection_at(query), query.integer_at(14) != 0};
    if (key_matches(h.selection.key, key_prefix)) found.push_back(std::move(h));
  }
  if (Status status = (*opened)->status("cannot be read"); !status.ok()) return status;
  return found;
}

}  // namespace moejit::internal
