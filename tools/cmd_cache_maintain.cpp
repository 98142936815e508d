// `moejit cache verify | clear | gc | pin | history`: what keeps a cache whole.
#include "runtime/pin.h"
#include "tools/busy.h"
#include "tools/cache_common.h"
#include "tools/parse.h"
#include "tools/report.h"

namespace moejit::tools {
namespace {

class CacheVerify : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.flag("--repair", &repair_,
                 "Drop damaged kernels; move the readable rows of a damaged file to a new one");
  }

  ExitCode run(Context& context) override {
    auto place = repair_ ? place_.resolve_to_change() : place_.resolve();
    if (!place.ok()) return context.fail(place.status());
    auto report = while_busy(context, "checking every kernel",
                             [&] { return internal::verify_cache(*place, repair_); });
    if (!report.ok()) {
      const ExitCode code = context.fail(report.status());
      return report.status().code() == StatusCode::kDataError ? ExitCode::kWrong : code;
    }
    Table table({{"kind", "kind"}, {"what", "what"}});
    table.fact("path", "path", report->path);
    table.fact("binaries", "kernels checked", report->binaries);
    table.fact("ok", "whole", report->ok());
    if (repair_) {
      table.fact("dropped", "kernels dropped", report->dropped);
      table.fact("rebuilt", "file rebuilt", report->rebuilt);
      table.fact("rescued", "rows rescued", report->rescued);
      table.fact("kept_as", "old file", report->kept_as.empty() ? Cell() : Cell(report->kept_as));
    }
    for (const std::string& key : report->damaged) {
      table.add({std::string("damaged kernel"), key});
    }
    for (const std::string& problem : report->problems) {
      table.add({std::string("problem"), problem});
    }
    const ExitCode printed = context.print(table);
    if (printed != ExitCode::kOk || report->ok()) return printed;
    // Found and repaired is still worth a code of its own: something damaged this cache.
    context.note(std::to_string(report->damaged.size()) + " damaged kernels, " +
                 std::to_string(report->problems.size()) + " problems of the file" +
                 (repair_ ? "; repaired" : "; `moejit cache verify --repair` drops them"));
    if (!report->kept_as.empty()) {
      context.note("the old file is " + report->kept_as + "; " + std::to_string(report->rescued) +
                   " of its rows went over");
    }
    return ExitCode::kWrong;
  }

  PlaceSelector place_;
  bool repair_ = false;
};

class CacheClear : public Command {
  void declare(OptionSet& options) override { place_.declare(options); }

  ExitCode run(Context& context) override {
    auto place = place_.resolve_to_change();
    if (!place.ok()) return context.fail(place.status());
    if (!context.confirm("delete every kernel, measurement and choice of " + place->where)) {
      return ExitCode::kUsage;
    }
    auto report = internal::clear_cache(*place);
    if (!report.ok() && report.status().code() != StatusCode::kNotFound) {
      return context.fail(report.status());
    }
    Table table(
        std::vector<Column>{{"bytes", "freed", Unit::kBytes}, {"removed", "files removed"}});
    if (report.ok()) {
      table.add({report->bytes, report->removed});
    } else {
      context.note("there was nothing to delete in " + place->where);
      table.add({int64_t{0}, false});
    }
    return context.print(table);
  }

  PlaceSelector place_;
};

class CacheGc : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.value("--max-size", "SIZE", &max_size_, "Keep at most so much code: 2G, 512M");
    options.value("--older-than", "DAYS", &older_than_, "Drop what was not used for so long: 30d");
    options.flag("--losers", &options_.losers, "Drop what was measured and not chosen");
    options.flag("--dry-run", &options_.dry_run, "Only say what would go");
  }

  ExitCode run(Context& context) override {
    if (!max_size_.empty()) {
      auto bytes = parse_bytes("max-size", max_size_);
      if (!bytes.ok()) return context.fail(bytes.status());
      options_.max_bytes = *bytes;
    }
    if (!older_than_.empty()) {
      auto days = parse_days("older-than", older_than_);
      if (!days.ok()) return context.fail(days.status());
      options_.unused_days = *days;
    }
    auto place = options_.dry_run ? place_.resolve() : place_.resolve_to_change();
    if (!place.ok()) return context.fail(place.status());
    if (!options_.dry_run && !context.confirm("delete unused kernels of " + place->where)) {
      return ExitCode::kUsage;
    }
    auto report = while_busy(context, "looking for unused kernels",
                             [&] { return internal::gc_cache(*place, options_); });
    if (!report.ok()) return context.fail(report.status());
    Table table({{"binaries", "kernels dropped"},
                 {"bytes", "dropped", Unit::kBytes},
                 {"kept_bytes", "kept", Unit::kBytes},
                 {"history", "old decisions"},
                 {"returned_bytes", "returned", Unit::kBytes},
                 {"dry_run", "dry run"}});
    table.add({report->binaries, report->bytes, report->kept_bytes, report->history,
               report->returned_bytes, options_.dry_run});
    return context.print(table);
  }

  PlaceSelector place_;
  internal::GcOptions options_;
  std::string max_size_, older_than_;
};

std::vector<Column> choice_columns() {
  return {{"key", "key"},
          {"layer", "layer"},
          {"tokens", "tokens"},
          {"schedule", "schedule"},
          {"how", "how"},
          {"median_s", "time", Unit::kSeconds},
          {"versus_default", "vs default", Unit::kRatio},
          {"decided_at", "decided", Unit::kUnixTime}};
}

std::vector<Cell> choice_cells(const Context& context, const internal::SelectionInfo& s) {
  return {shown_key(context, s.key),
          layer_cell(s.problem),
          s.tokens,
          schedule_cell(s.schedule),
          s.how,
          internal::known_if_positive(s.median_s),
          internal::known_if_positive(s.versus_default),
          s.decided_at};
}

class CachePin : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.positional("key", &key_, "Key of a choice, or its first digits (4 or more)", true);
    options.flag("--off", &off_, "Let tuning replace it again");
  }

  ExitCode run(Context& context) override {
    auto place = place_.resolve_to_change();
    if (!place.ok()) return context.fail(place.status());
    auto choice = internal::pin_choice(*place, key_, !off_);
    if (!choice.ok()) return context.fail(choice.status());
    Table table(choice_columns());
    table.add(choice_cells(context, *choice));
    return context.print(table);
  }

  PlaceSelector place_;
  std::string key_;
  bool off_ = false;
};

class CacheHistory : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.positional("key", &key_, "Key of a choice, or its first digits (4 or more)", false);
  }

  ExitCode run(Context& context) override {
    auto place = place_.resolve();
    if (!place.ok()) return context.fail(place.status());
    auto history = internal::selection_history(*place, key_);
    if (!history.ok()) return context.fail(history.status());
    if (history->empty()) context.note("no decision yet; `moejit tune` makes them");
    std::vector<Column> columns = choice_columns();
    columns.push_back({"current", "current"});
    Table table(std::move(columns));
    for (const internal::HistoryInfo& entry : *history) {
      std::vector<Cell> cells = choice_cells(context, entry.selection);
      cells.push_back(entry.current);
      table.add(std::move(cells));
    }
    return context.print(table);
  }

  PlaceSelector place_;
  std::string key_;
};

}  // namespace

std::unique_ptr<Command> make_cache_verify() {
  return std::make_unique<CacheVerify>();
}
std::unique_ptr<Command> make_cache_clear() {
  return std::make_unique<CacheClear>();
}
std::unique_ptr<Command> make_cache_gc() {
  return std::make_unique<CacheGc>();
}
std::unique_ptr<Command> make_cache_pin() {
  return std::make_unique<CachePin>();
}
std::unique_ptr<Command> make_cache_history() {
  return std::make_unique<CacheHistory>();
}

}  // namespace moejit::tools
