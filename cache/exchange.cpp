#include "cache/exchange.h"

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/database_files.h"
#include "cache/evict.h"
#include "cache/place.h"
#include "cache/schema.h"
#include "cache/signature.h"

namespace moejit::internal {
namespace {

int64_t number(Db& db, const char* sql) {
  Query query(db, sql);
  return query.row() ? query.integer_at(0) : 0;
}

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

// Walks measurements, ordered by what they say and not by when they came.
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

// GPU code runs on the device; anything else becomes part of this process.
bool runs_on_host(const std::string& format) {
  return format != "cubin" && format != "hsaco";
}

Status fill_pack(const CachePlace& place, OpenPlace& source, Db& pack, const PackOptions& options,
                 PackReport* report) {
  CacheFilter filter;
  filter.backend = options.backend;
  filter.arch = options.arch;
  filter.toolchain = options.toolchain;
  auto artifacts = list_artifacts(place, filter);
  if (!artifacts.ok()) return artifacts.status();
  auto selections = list_selections(place);
  if (!selections.ok()) return selections.status();
  std::sort(artifacts->begin(), artifacts->end(),
            [](const ArtifactInfo& a, const ArtifactInfo& b) { return a.key < b.key; });
  const bool filtered =
      !options.backend.empty() || !options.arch.empty() || !options.toolchain.empty();
  std::map<std::string, bool> included;  // source, toolchain
  for (const ArtifactInfo& a : *artifacts) {
    included[a.source + a.toolchain] = true;
    if (!options.binaries || a.bytes == 0 || !(a.selected || options.losers)) continue;
    const ArtifactKey key{digest_of(a.source), a.toolchain};
    std::optional<BinaryRow> row = read_binary(source.db(), key);
    if (!row.has_value() || !row->intact) continue;
    row->binary.compiler_log.clear();  // may name paths
    row->binary.compile_ms = 0;
    write_binary(pack, key, row->binary, 0);
    ++report->binaries;
  }
  std::sort(selections->begin(), selections->end(),
            [](const SelectionInfo& a, const SelectionInfo& b) { return a.key < b.key; });
  for (const SelectionInfo& s : *selections) {
    if (filtered && !included.count(s.source + s.toolchain)) continue;
    write_selection(pack, to_selection(s), s.decided_at);
    take_limits(source.db(), pack, s.environment);
    ++report->selections;
  }
  if (options.measurements) {
    each_measurement(source.db(), [&](const Measurement& m, int64_t at) {
      write_measurement(pack, m, at);
      ++report->measurements;
    });
  }
  pack.exec("DELETE FROM history; UPDATE toolchain SET first_seen = 0");
  pack.exec(
      "UPDATE session SET started_at = (SELECT min(at) FROM measurement m"
      " WHERE m.sess_id = session.sess_id)");
  if (pack.error() != 0) {
    return {StatusCode::kIoError, "cannot write the pack: " + pack.message()};
  }
  return source.status("reading");
}

// A pack replaces its file whole: neither what it is made of nor the database of any cache.
Status check_output(OpenPlace& source, const std::string& output) {
  std::error_code error;
  const bool same = std::filesystem::equivalent(source.path(), output, error) && !error;
  const bool live = output.substr(output.rfind('/') + 1) == kDatabaseName &&
                    path_exists(join_path(parent_path(output), kConnectedLock));
  if (same || live) {
    return invalid_argument("file = \"" + output + "\": is " +
                            (same ? "what is to be packed" : "the database of a cache") +
                            ", which a pack would replace");
  }
  if (!is_database_file(output)) return {};
  std::string why;
  const auto other = open_read_only_db(output, /*allow_shared=*/true, &why);
  int64_t version = 0;
  if (other == nullptr || check_schema(*other, &version) != SchemaVerdict::kForeign) return {};
  return invalid_argument("file = \"" + output +
                          "\": is the database of another application, which a pack would replace");
}

}  // namespace

Result<PackReport> pack_cache(const CachePlace& place, const std::string& output,
                              const PackOptions& options) {
  auto source = OpenPlace::open(place, Access::kRead);
  if (!source.ok()) return source.status();
  MOEJIT_RETURN_IF_ERROR(check_output(**source, output));
  PackReport report;
  report.path = output;
  if (!options.sign.empty()) MOEJIT_RETURN_IF_ERROR(check_signing_key(options.sign));
  // The name tells leftovers from anything else that begins like the pack's.
  const std::string unfinished = output + ".unfinished-";
  remove_stale(parent_path(output), unfinished.substr(unfinished.rfind('/') + 1));
  const std::string temporary = unfinished + std::to_string(::getpid());
  ::unlink(temporary.c_str());
  Status status;
  {
    int code = 0;
    std::string message;
    // Nobody else opens this name, and a fleet's file system may have no locks.
    const auto pack =
        Db::open("file:" + uri_escape(temporary) + "?nolock=1",
                 SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI,
                 0, &code, &message);
    if (pack == nullptr) {
      return Status(StatusCode::kIoError, "cannot create " + temporary + ": " + message);
    }
    // What is shipped holds no leftovers of pages.
    pack->exec("PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY; PRAGMA secure_delete=ON");
    if (create_schema(*pack)) {
      Transaction transaction(*pack);
      status = fill_pack(place, **source, *pack, options, &report);
      if (status.ok()) transaction.commit();
    }
    pack->exec("VACUUM; PRAGMA journal_mode=DELETE");
    if (status.ok() && pack->error() != 0) {
      status = {StatusCode::kIoError, "cannot write " + output + ": " + pack->message()};
    }
  }
  // A pack that was announced survives a loss of power.
  if (status.ok()) {
    if (const std::string why = sync_file(temporary); !why.empty())
      status = {StatusCode::kIoError, "cannot write " + temporary + ": " + why};
  }
  if (status.ok()) {
    auto digest = file_sha256(temporary);
    if (digest.ok()) report.sha256 = *digest;
    status = digest.status();
  }
  report.bytes = file_size(temporary);
  // A signature of another pack must not stay beside this one.
  if (status.ok()) ::unlink(signature_path(output).c_str());
  if (status.ok() && !options.sign.empty()) {
    status = sign_pack(output, report.sha256, options.sign);
    report.signature = signature_path(output);
  }
  if (status.ok() &&
      (::chmod(temporary.c_str(), 0444) != 0 || ::rename(temporary.c_str(), output.c_str()) != 0)) {
    status = {StatusCode::kIoError, "cannot create " + output + ": " + errno_message(errno)};
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return report;
}

namespace {

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
