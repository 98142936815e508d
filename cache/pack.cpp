// `pack` of cache/exchange.h: one file to ship.
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/database_files.h"
#include "cache/exchange.h"
#include "cache/exchange_rows.h"
#include "cache/place.h"
#include "cache/schema.h"
#include "cache/signature.h"

namespace moejit::internal {
namespace {

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

}  // namespace moejit::internal
