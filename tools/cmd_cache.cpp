// `moejit cache path | ls | show | stats`: looking, nothing is changed.
#include <nlohmann/json.hpp>
#include <utility>

#include "base/settings.h"
#include "tools/cache_common.h"
#include "tools/report.h"

namespace moejit::tools {
namespace {

class CachePath : public Command {
  void declare(OptionSet&) override {}

  ExitCode run(Context& context) override {
    const internal::Settings& settings = internal::settings();
    if (settings.cache_dir.empty()) {
      return context.fail(Status(StatusCode::kNotFound, settings.cache_dir_reason));
    }
    if (context.for_people()) return context.print_text(settings.cache_dir + "\n");
    Table table({{"path", "path"}, {"reason", "because"}});
    table.add({settings.cache_dir, settings.cache_dir_reason});
    return context.print(table);
  }
};

Cell policy_cell(const std::string& json) {
  return internal::JsonText{json, brief_schedule(json)};
}

// Backend and architecture of an environment's JSON; empty where it has none.
std::pair<std::string, std::string> device_of(const std::string& environment) {
  const auto json = nlohmann::json::parse(environment, nullptr, false);
  const auto text = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_string()
               ? json[key].get<std::string>()
               : std::string();
  };
  return {text("backend"), text("arch")};
}

class CacheLs : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.value("--kind", "KIND", &kind_, "kernel or choice; default: both");
    options.value("--key", "PREFIX", &filter_.key, "Only keys that begin with these digits");
    options.value("--backend", "NAME", &filter_.backend, "Only of this backend");
    options.value("--arch", "NAME", &filter_.arch, "Only of this architecture");
    options.value("--limit", "N", &limit_, "At most so many of a kind; 0: all");
  }

  ExitCode run(Context& context) override {
    if (!kind_.empty() && kind_ != "kernel" && kind_ != "choice") {
      return context.fail(invalid_argument("kind = \"" + kind_ + "\": must be kernel or choice"));
    }
    if (limit_ < 0) {
      return context.fail(
          invalid_argument("limit = " + std::to_string(limit_) + ": must not be negative"));
    }
    filter_.limit = limit_;
    // As the column shows it: "cpu:x86-64-v4".
    if (const size_t colon = filter_.arch.find(':'); colon != std::string::npos) {
      filter_.backend = filter_.arch.substr(0, colon);
      filter_.arch.erase(0, colon + 1);
    }
    auto place = place_.resolve();
    if (!place.ok()) return context.fail(place.status());
    Table table({{"kind", "kind"},
                 {"key", "key"},
                 {"layer", "layer"},
                 {"tokens", "tokens"},
                 {"arch", "arch"},
                 {"schedule", "schedule"},
                 {"how", "how"},
                 {"policy", "policy"},
                 {"median_s", "time", Unit::kSeconds},
                 {"bytes", "size", Unit::kBytes},
                 {"used_at", "used", Unit::kUnixTime},
                 {"toolchain", "compiler", Unit::kNone, /*wide=*/true}});
    if (kind_ != "kernel") {
      internal::CacheFilter every = filter_;
      every.limit = 0;
      auto choices = internal::list_selections(*place, every);
      if (!choices.ok()) return context.fail(choices.status());
      int64_t shown = 0;
      for (const internal::SelectionInfo& s : *choices) {
        const auto [backend, arch] = device_of(s.environment);
        if (!filter_.backend.empty() && backend != filter_.backend) continue;
        if (!filter_.arch.empty() && arch != filter_.arch) continue;
        if (filter_.limit > 0 && ++shown > filter_.limit) break;
        table.add({std::string("choice"), shown_key(context, s.key), layer_cell(s.problem),
                   s.tokens, arch.empty() ? Cell() : Cell(backend + ":" + arch),
                   schedule_cell(s.schedule), s.how, policy_cell(s.policy),
                   internal::known_if_positive(s.median_s), Cell(), s.decided_at, s.toolchain});
      }
    }
    if (kind_ != "choice") {
      auto kernels = internal::list_artifacts(*place, filter_);
      if (!kernels.ok()) return context.fail(kernels.status());
      for (const internal::ArtifactInfo& a : *kernels) {
        table.add({std::string("kernel"), shown_key(context, a.key), layer_cell(a.config), Cell(),
                   a.backend + ":" + a.arch, schedule_cell(a.schedule), Cell(), Cell(), Cell(),
                   a.bytes, a.last_used_at, a.toolchain});
      }
    }
    return context.print(table);
  }

  PlaceSelector place_;
  internal::CacheFilter filter_;
  std::string kind_;
  int32_t limit_ = 0;
};

Cell count_or_unknown(int32_t value) {
  return value >= 0 ? Cell(int64_t{value}) : Cell();
}

void add_kernel(Table* table, const internal::ArtifactInfo& a) {
  table->fact("kind", "kind", std::string("kernel"));
  table->fact("key", "key", a.key);
  table->fact("source", "source", a.source);
  table->fact("backend", "backend", a.backend);
  table->fact("arch", "arch", a.arch);
  table->fact("format", "format", a.format);
  table->fact("toolchain", "compiler", a.toolchain);
  table->fact("config", "layer", json_or_text(a.config));
  table->fact("schedule", "schedule", schedule_cell(a.schedule));
  table->fact("bytes", "size", a.bytes, Unit::kBytes);
  table->fact("sha256", "sha256", a.sha256.empty() ? Cell() : Cell(a.sha256));
  table->fact("registers", "registers", count_or_unknown(a.registers));
  table->fact("spill_bytes", "spills", count_or_unknown(a.spill_bytes), Unit::kBytes);
  table->fact("shared_bytes", "shared memory", count_or_unknown(a.shared_bytes), Unit::kBytes);
  table->fact("compile_s", "compiled in", a.compile_ms * 1e-3, Unit::kSeconds);
  table->fact("created_at", "created", a.created_at, Unit::kUnixTime);
  table->fact("last_used_at", "last used", a.last_used_at, Unit::kUnixTime);
  table->fact("measurements", "measured", a.measurements);
  table->fact("selected", "chosen", a.selected);
  table->fact("log", "compiler's log", a.log.empty() ? Cell() : Cell(a.log));
}

void add_choice(Table* table, const internal::SelectionInfo& s) {
  table->fact("kind", "kind", std::string("choice"));
  table->fact("key", "key", s.key);
  table->fact("problem", "layer", json_or_text(s.problem));
  table->fact("tokens", "tokens", s.tokens);
  table->fact("environment", "device", json_or_text(s.environment));
  table->fact("policy", "policy", json_or_text(s.policy));
  table->fact("generator", "generator", s.generator);
  table->fact("schedule", "schedule", schedule_cell(s.schedule));
  table->fact("source", "kernel's source", s.source);
  table->fact("toolchain", "compiler", s.toolchain);
  table->fact("how", "how", s.how);
  table->fact("median_s", "measured", internal::known_if_positive(s.median_s), Unit::kSeconds);
  table->fact("predicted_s", "predicted", internal::known_if_positive(s.predicted_s),
              Unit::kSeconds);
  table->fact("floor_s", "floor", internal::known_if_positive(s.floor_s), Unit::kSeconds);
  table->fact("error", "error", s.error, Unit::kScientific);
  table->fact("versus_default", "vs default", internal::known_if_positive(s.versus_default),
              Unit::kRatio);
  table->fact("candidates", "candidates", int64_t{s.candidates});
  table->fact("decided_at", "decided", s.decided_at, Unit::kUnixTime);
  table->fact("has_binary", "kernel is here", s.has_binary);
  table->fact("note", "note", s.note.empty() ? Cell() : Cell(s.note));
}

class CacheShow : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.positional("key", &key_, "The key, or its first digits (4 or more)", true);
  }

  ExitCode run(Context& context) override {
    auto place = place_.resolve();
    if (!place.ok()) return context.fail(place.status());
    auto entry = internal::show_entry(*place, key_);
    if (entry.status().code() == StatusCode::kNotFound) entry = by_source(*place, entry.status());
    if (!entry.ok()) return context.fail(entry.status());
    const bool rows =
        context.format == TableFormat::kCsv || context.format == TableFormat::kJsonLines;
    Table table(std::vector<Column>{});
    for (const auto& kernel : entry->artifact) add_kernel(&table, kernel);
    for (const auto& choice : entry->selection) add_choice(&table, choice);
    return context.print(rows ? table.facts_as_row() : table);
  }

  // `moejit explain` names a kernel by the digest of its source; of several compilers' the one used
  // last is shown.
  Result<internal::CacheEntry> by_source(const internal::CachePlace& place,
                                         const Status& otherwise) {
    auto kernels = internal::list_artifacts(place);
    if (!kernels.ok()) return kernels.status();
    for (internal::ArtifactInfo& kernel : *kernels) {
      if (key_.size() < 4 || !kernel.source.starts_with(key_)) continue;
      internal::CacheEntry entry;
      entry.artifact.push_back(std::move(kernel));
      return entry;
    }
    return otherwise;
  }

  PlaceSelector place_;
  std::string key_;
};

class CacheStatsVerb : public Command {
  void declare(OptionSet& options) override { place_.declare(options); }

  ExitCode run(Context& context) override {
    auto place = place_.resolve();
    if (!place.ok()) return context.fail(place.status());
    auto stats = internal::cache_stats(*place);
    if (!stats.ok()) return context.fail(stats.status());
    Table table({{"group", "by"},
                 {"name", "name"},
                 {"artifacts", "kernels"},
                 {"binaries", "with code"},
                 {"bytes", "size", Unit::kBytes}});
    table.fact("path", "path", stats->path);
    table.fact("schema_version", "schema", stats->schema);
    table.fact("file_bytes", "file", stats->file_bytes, Unit::kBytes);
    table.fact("free_bytes", "free inside", stats->free_bytes, Unit::kBytes);
    table.fact("limit_bytes", "limit", internal::settings().cache_size, Unit::kBytes);
    table.fact("artifacts", "kernels", stats->artifacts);
    table.fact("binaries", "with code", stats->binaries);
    table.fact("binary_bytes", "code", stats->binary_bytes, Unit::kBytes);
    table.fact("problems", "layers", stats->problems);
    table.fact("environments", "devices", stats->environments);
    table.fact("sessions", "tuning runs", stats->sessions);
    table.fact("measurements", "measurements", stats->measurements);
    table.fact("selections", "choices", stats->selections);
    table.fact("pinned", "  pinned", stats->pinned);
    table.fact("imported", "  imported", stats->imported);
    table.fact("decisions", "decisions", stats->decisions);
    table.fact("oldest_use", "oldest use", stats->oldest_use, Unit::kUnixTime);
    table.fact("newest_use", "newest use", stats->newest_use, Unit::kUnixTime);
    table.add(
        {std::string("all"), stats->path, stats->artifacts, stats->binaries, stats->binary_bytes});
    for (const internal::CountOf& c : stats->by_arch) {
      table.add({std::string("arch"), c.name, c.artifacts, c.binaries, c.bytes});
    }
    for (const internal::CountOf& c : stats->by_toolchain) {
      table.add({std::string("compiler"), c.name, c.artifacts, c.binaries, c.bytes});
    }
    return context.print(table);
  }

  PlaceSelector place_;
};

}  // namespace

std::unique_ptr<Command> make_cache_path() {
  return std::make_unique<CachePath>();
}
std::unique_ptr<Command> make_cache_ls() {
  return std::make_unique<CacheLs>();
}
std::unique_ptr<Command> make_cache_show() {
  return std::make_unique<CacheShow>();
}
std::unique_ptr<Command> make_cache_stats() {
  return std::make_unique<CacheStatsVerb>();
}

}  // namespace moejit::tools
