// `merge` and `diff`; `pack` has a file of its own.
#include "cache/exchange.h"

#include <sqlite3.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/evict.h"
#include "cache/exchange_rows.h"
#include "cache/place.h"
#include "cache/schema.h"
#include "cache/signature.h"

namespace moejit::internal {
namespace {

int64_t number(Db& db, const char* sql) {
  Query query(db, sql);
  return query.row() ? query.integer_at(0) : 0;
}

// GPU code runs on the device; anything else becomes part of this process.
bool runs_on_host(const std::string& format) {
  return format != "cubin" && format != "hsaco";
}

// Whether the pack is the one that the caller vouches for, by its hash or by whose it is; asked
// before anything else reads the file.
Status check_origin(const CachePlace& source, const MergeOptions& options, MergeReport* report) {
  if (options.sha256.empty() && options.trust.empty()) return {};
  if (is_directory(source.where)) {
    const std::string option =
        options.sha256.empty() ? "trust = \"" + options.trust : "sha256 = \"" + options.sha256;
    return invalid_argument(option + "\": " + source.where +
                            " is a directory; only a pack has a hash and a signature");
  }
  auto actual = file_sha256(source.where);
  if (!actual.ok()) return actual.status();
  if (!options.sha256.empty() &&
      (!key_matches(*actual, options.sha256) || options.sha256.size() != 64)) {
    return {StatusCode::kVerificationFailed,
            source.where + " has SHA-256 " + *actual + ", not the expected " + options.sha256};
  }
  if (options.trust.empty()) return {};
  const auto trusted = read_trusted_keys(options.trust);
  if (!trusted.ok()) return trusted.status();
  auto key = check_signature(source.where, *actual, *trusted);
  if (!key.ok()) return key.status();
  report->signed_by = *key;
  return {};
}

Status check_source(const CachePlace& source, OpenPlace& opened) {
  if (opened.schema() > kSchemaVersion || !schema_is_ours(opened.db(), opened.schema())) {
    return {StatusCode::kDataError, source.where + ": its tables are not those of schema " +
                                        std::to_string(std::min(opened.schema(), kSchemaVersion)) +
                                        "; it is not merged"};
  }
  std::string damage;
  {
    Query query(opened.db(), "PRAGMA quick_check(1)");
    if (query.row()) damage = query.text_at(0);
  }
  if (Status status = opened.status("checking"); !status.ok()) return status;
  if (damage != "ok") return {StatusCode::kDataError, source.where + ": " + damage};
  return {};
}

void merge_binaries(Db& from, Db& to, bool host_code, MergeReport* report) {
  struct Row {
    ArtifactKey key;
    std::string format;
  };
  std::vector<Row> rows;
  {
    Query query(from,
                "SELECT a.source, t.name, a.format FROM artifact a"
                " JOIN toolchain t ON t.tc_id = a.tc_id WHERE a.blob_id IS NOT NULL"
                " ORDER BY a.art_key");
    while (query.row()) {
      Row row;
      query.digest_at(0, row.key.source.data());
      row.key.toolchain = query.text_at(1);
      row.format = query.text_at(2);
      rows.push_back(std::move(row));
    }
  }
  for (const Row& row : rows) {
    if (runs_on_host(row.format) && !host_code) {
      ++report->binaries_refused;
      continue;
    }
    const Digest art_key = artifact_digest(row.key);
    {
      Query known(to, "SELECT 1 FROM artifact WHERE art_key = ?1 AND blob_id IS NOT NULL");
      known.blob(art_key.data(), art_key.size());
      if (known.row()) {
        ++report->binaries_known;
        continue;
      }
    }
    const std::optional<BinaryRow> found = read_binary(from, row.key);
    if (!found.has_value() || !found->intact || found->binary.bytes.empty()) {
      ++report->binaries_damaged;
      continue;
    }
    write_binary(to, row.key, found->binary, unix_now());
    ++report->binaries;
  }
}

// How far an honest time may lie below its floor: a small layer in an L1, beside a bandwidth that
// was probed while others used the memory, is some hundred times.
constexpr double kBelowFloor = 1000;

// What no tune can have found: it would stand for ever, being better than all that are measured.
bool is_credible(const Selection& s) {
  const bool json = !s.schedule.empty() && s.schedule.front() == '{' && s.schedule.back() == '}';
  return json && s.key.tokens > 0 && std::isfinite(s.median_s) && s.median_s > 0 &&
         s.median_s > s.floor_s / kBelowFloor;
}

void merge_selections(const std::vector<SelectionInfo>& theirs, Db& from, Db& to, double margin,
                      MergeReport* report) {
  for (const SelectionInfo& info : theirs) {
    Selection s = to_selection(info);
    if (!is_credible(s)) {
      ++report->selections_damaged;
      continue;
    }
    if (environment_id(to, s.key.environment, false) == 0) ++report->environments;
    const auto ours = read_selection(to, s.key, s.generator);
    if (ours.has_value()) {
      const bool better =
          s.median_s > 0 && ours->median_s > 0 && s.median_s < ours->median_s * (1 - margin);
      if (ours->how == "pinned" || !better) {
        ++report->selections_kept;
        continue;
      }
    }
    s.how = "imported";
    write_selection(to, s, unix_now());
    take_limits(from, to, s.key.environment);
    ++report->selections;
  }
}

}  // namespace

Result<MergeReport> merge_cache(const CachePlace& place, const CachePlace& source,
                                const MergeOptions& options) {
  MergeReport report;
  if (Status status = check_origin(source, options, &report); !status.ok()) return status;
  auto from = OpenPlace::open(source, Access::kRead);
  if (!from.ok()) return from.status();
  if (Status status = check_source(source, **from); !status.ok()) return status;
  auto selections = list_selections(source);
  if (!selections.ok()) return selections.status();
  // What a dry run would be taken into where there is no cache yet.
  std::unique_ptr<Db> nothing;
  if (options.dry_run && !path_exists(join_path(place.where, kDatabaseName)) &&
      (is_directory(place.where) || !path_exists(place.where))) {
    int code = 0;
    std::string message;
    nothing = Db::open(":memory:", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, 0, &code, &message);
    if (nothing == nullptr || !create_schema(*nothing))
      return Status(StatusCode::kInternal, "no database in memory: " + message);
  }
  Result<std::unique_ptr<OpenPlace>> to = std::unique_ptr<OpenPlace>();
  if (nothing == nullptr) to = OpenPlace::open(place, Access::kWrite, !options.dry_run);
  if (!to.ok()) return to.status();
  Db& db = nothing != nullptr ? *nothing : (*to)->db();
  {
    Transaction transaction(db);
    // A pack whose digest was given is as good as its giver, a signed one as its signer.
    const bool vouched = !options.sha256.empty() || !report.signed_by.empty();
    merge_binaries((*from)->db(), db, options.cpu_code || vouched, &report);
    merge_selections(*selections, (*from)->db(), db, options.margin, &report);
    const int64_t before = number(db, "SELECT count(*) FROM measurement");
    int64_t theirs = 0;
    each_measurement((*from)->db(), [&](const Measurement& m, int64_t at) {
      write_measurement(db, m, at);
      ++theirs;
    });
    report.measurements = number(db, "SELECT count(*) FROM measurement") - before;
    report.measurements_known = theirs - report.measurements;
    if (Status status = (*from)->status("reading"); !status.ok()) return status;
    if (!options.dry_run) transaction.commit();
  }
  if (nothing != nullptr) return report;
  if (Status status = (*to)->status("cannot be merged into"); !status.ok()) return status;
  return report;
}

Result<std::vector<DiffLine>> diff_caches(const CachePlace& first, const CachePlace& second) {
  struct Side {
    std::string what, value;
  };
  std::map<std::pair<std::string, std::string>, std::pair<std::optional<Side>, std::optional<Side>>>
      all;
  int number_of_side = 0;
  for (const CachePlace* place : {&first, &second}) {
    auto artifacts = list_artifacts(*place);
    if (!artifacts.ok()) return artifacts.status();
    auto selections = list_selections(*place);
    if (!selections.ok()) return selections.status();
    const auto slot = [&](const char* kind, const std::string& key) -> std::optional<Side>& {
      auto& pair = all[{kind, key}];
      return number_of_side == 0 ? pair.first : pair.second;
    };
    for (const ArtifactInfo& a : *artifacts) {
      if (a.bytes > 0) slot("binary", a.key) = {a.arch + " " + a.toolchain, a.sha256};
    }
    for (const SelectionInfo& s : *selections) {
      slot("selection", s.key) = {"T=" + std::to_string(s.tokens) + " " + s.problem, s.schedule};
    }
    ++number_of_side;
  }
  std::vector<DiffLine> lines;
  for (const auto& [key, sides] : all) {
    const auto& [a, b] = sides;
    if (a.has_value() && b.has_value() && a->value == b->value) continue;
    DiffLine line;
    line.side = !b.has_value() ? '<' : !a.has_value() ? '>' : '!';
    line.kind = key.first;
    line.key = key.second;
    line.what = a.has_value() ? a->what : b->what;
    if (a.has_value()) line.first = a->value;
    if (b.has_value()) line.second = b->value;
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace moejit::internal
