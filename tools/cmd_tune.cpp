#include <cmath>
#include <cstdio>
#include <tuple>
#include <utility>

#include "base/json_util.h"
#include "base/settings.h"
#include "moejit/tuning.h"
#include "tools/compile_only.h"
#include "tools/interrupt.h"
#include "tools/parse.h"
#include "tools/report.h"
#include "tools/select.h"

namespace moejit::tools {
namespace {

std::string progress_text(const TuneProgress& p, const std::string& layer) {
  if (p.stage == TuneStage::kProbe) return "measuring the limits of the device";
  char head[96];
  std::snprintf(head, sizeof head, "[%3d/%d] T%lld (%d/%d) %s ", p.done, p.total,
                static_cast<long long>(p.tokens), p.bucket + 1, p.num_buckets, to_string(p.stage));
  std::string text = head + layer;
  if (p.best_s > 0) {
    text += "  best " + internal::format_value(p.best_s, Unit::kSeconds);
    if (p.best_share > 0) {
      text += " (" + internal::format_value(p.best_share, Unit::kShare) + " of limit)";
    }
  }
  if (p.remaining_s > 0) text += "  eta " + internal::format_clock(p.remaining_s);
  if (p.failed > 0) text += "  failed " + std::to_string(p.failed);
  if (!p.schedule.empty()) text += "  now " + brief_schedule(p.schedule);
  return text;
}

std::string progress_json(const TuneProgress& p) {
  using internal::json_number;
  return "{\"tokens\":" + std::to_string(p.tokens) + ",\"bucket\":" + std::to_string(p.bucket) +
         ",\"num_buckets\":" + std::to_string(p.num_buckets) +
         ",\"layer\":" + std::to_string(p.layer) +
         ",\"num_layers\":" + std::to_string(p.num_layers) + ",\"stage\":\"" + to_string(p.stage) +
         "\",\"done\":" + std::to_string(p.done) + ",\"total\":" + std::to_string(p.total) +
         ",\"failed\":" + std::to_string(p.failed) + ",\"best_s\":" + json_number(p.best_s) +
         ",\"best_share\":" + json_number(p.best_share) +
         ",\"elapsed_s\":" + json_number(p.elapsed_s) +
         ",\"remaining_s\":" + json_number(p.remaining_s) +
         ",\"schedule\":" + (p.schedule.empty() ? "null" : p.schedule) + "}";
}

Table result_table(const std::vector<MoeConfig>& layers, const TuneReport& report) {
  std::vector<Column> columns;
  const bool several = layers.size() > 1;
  if (several) columns.push_back({"config", "layer"});
  for (Column& column : measured_columns()) columns.push_back(std::move(column));
  columns.push_back({"versus_default", "vs default", Unit::kRatio});
  columns.push_back({"model_rank", "model rank", Unit::kNone, /*wide=*/true});
  columns.push_back({"candidates", "measured", Unit::kNone, /*wide=*/true});
  columns.push_back({"failed", "failed", Unit::kNone, /*wide=*/true});
  columns.push_back({"from_cache", "cached"});
  columns.push_back({"advice", "to do better", Unit::kNone, /*wide=*/true});
  Table table(std::move(columns));
  add_header(&table, layers.front(), report.device, report.limits);
  if (several) table.fact("layers", "layers", static_cast<int64_t>(layers.size()));
  table.fact("seconds", "took", report.seconds, Unit::kSeconds);
  table.fact("cancelled", "stopped early", report.cancelled);
  table.fact("out_of_budget", "out of budget", report.out_of_budget);
  table.fact("missing", "without a result", int64_t{report.missing});
  for (const TuneRow& row : report.rows) {
    std::vector<Cell> cells;
    if (several) cells.push_back(internal::JsonText{row.config.to_json(), short_name(row.config)});
    for (Cell& cell : measured_cells(row)) cells.push_back(std::move(cell));
    cells.push_back(internal::known_if_positive(row.versus_default));
    cells.push_back(row.model_rank > 0 ? Cell(int64_t{row.model_rank}) : Cell());
    cells.push_back(int64_t{row.candidates});
    cells.push_back(int64_t{row.failed});
    cells.push_back(row.from_cache);
    cells.push_back(row.advice);
    table.add(std::move(cells));
  }
  return table;
}

void summarize(Context& context, const TuneReport& report, bool several) {
  double log_sum = 0;
  int compared = 0, cached = 0, failed = 0;
  for (const TuneRow& row : report.rows) {
    cached += row.from_cache ? 1 : 0;
    failed += row.failed;
    if (row.versus_default > 0) log_sum += std::log(row.versus_default), ++compared;
  }
  std::string text = std::to_string(report.rows.size()) + " token counts in " +
                     internal::format_value(report.seconds, Unit::kSeconds) + ", " +
                     std::to_string(cached) + " of them from the cache";
  if (compared > 0) {
    text += "; " + internal::format_value(std::exp(log_sum / compared), Unit::kRatio) +
            " the speed of the default schedule";
  }
  if (failed > 0) text += "; " + std::to_string(failed) + " candidates failed";
  context.note(text);
  // The same advice for neighbours once: T1, T2, T4: memory-bound: ...
  std::string tokens;
  for (size_t i = 0; i < report.rows.size(); ++i) {
    const TuneRow& row = report.rows[i];
    tokens += (tokens.empty() ? "T" : ", T") + std::to_string(row.tokens);
    const bool last = i + 1 == report.rows.size() || report.rows[i + 1].advice != row.advice ||
                      !(report.rows[i + 1].config == row.config);
    if (!last) continue;
    if (!row.advice.empty()) {
      context.note((several ? short_name(row.config) + " " : "") + tokens + ": " + row.advice);
    }
    tokens.clear();
  }
}

class Tune : public Command {
  void declare(OptionSet& options) override {
    layer_.declare(options);
    device_.declare(options);
    options.value("-t,--tokens", "LIST", &tokens_,
                  "Token counts: 1,8,32 or 1:8192 (powers of two); default: all of the latter");
    options.value("--routing", "KIND", &request_.routing, "uniform, zipf:S or trace:FILE");
    options.value("--budget", "TIME", &budget_,
                  "Stop measuring after 60s, 5m, 1h; default: no limit");
    options.value("-j,--jobs", "N", &request_.jobs, "Compile threads; 0: every core");
    options.value("--max-candidates", "N", &request_.max_candidates,
                  "Schedules to measure for each token count; 0: 14");
    options.flag("--exhaustive", &request_.exhaustive, "Measure every legal schedule");
    options.flag("--force", &request_.force, "Measure again what the cache knows, and the limits");
    options.flag("--compile-only", &compile_only_,
                 "Compile for a device that need not be here (--device sm_90a); measure nothing");
    options.value("--shared", "LIST", &shared_,
                  "Shared experts fused into the layer: 1, or 0,1 for the layer without and with");
    options.value(
        "--shard", "I/N", &shard_,
        "Only this part of the work, 0/N to N-1/N; `moejit cache merge` joins the results");
    options.value("--isolate", "WHEN", &isolate_,
                  "Candidates in a child process: auto (for GPUs), on or off");
    options.value("--trial-timeout", "TIME", &trial_timeout_,
                  "What a candidate may take beyond the expected before it counts as hung");
  }

  Status prepare() {
    auto layers = layer_.resolve_all();
    if (!layers.ok()) return layers.status();
    MOEJIT_RETURN_IF_ERROR(add_shared(*layers));
    request_.config = request_.layers.front();
    if (!tokens_.empty()) {
      auto tokens = parse_tokens(tokens_);
      if (!tokens.ok()) return tokens.status();
      request_.tokens = *tokens;
    }
    MOEJIT_RETURN_IF_ERROR(check_routing(request_.routing, /*extremes=*/false));
    if (!budget_.empty()) {
      auto budget = parse_seconds(budget_);
      if (!budget.ok()) return budget.status();
      request_.budget_s = *budget;
    }
    if (request_.jobs < 0) {
      return invalid_argument("jobs = " + std::to_string(request_.jobs) + ": must not be negative");
    }
    if (request_.max_candidates < 0) {
      return invalid_argument("max-candidates = " + std::to_string(request_.max_candidates) +
                              ": must not be negative");
    }
    if (!shard_.empty()) {
      auto shard = parse_shard(shard_);
      if (!shard.ok()) return shard.status();
      request_.shard_index = shard->index;
      request_.shard_count = shard->count;
    }
    if (isolate_ != "auto" && isolate_ != "on" && isolate_ != "off") {
      return invalid_argument("isolate = \"" + isolate_ + "\": must be auto, on or off");
    }
    request_.isolation = isolate_ == "on"    ? Isolation::kOn
                         : isolate_ == "off" ? Isolation::kOff
                                             : Isolation::kAuto;
    if (!trial_timeout_.empty()) {
      auto timeout = parse_seconds(trial_timeout_);
      if (!timeout.ok()) {
        return invalid_argument("trial-timeout = \"" + trial_timeout_ +
                                "\": must be a time above 0 such as \"20s\"");
      }
      request_.trial_timeout_s = *timeout;
    }
    request_.device = device_.name();
    request_.num_threads = device_.threads;
    request_.cache_path = device_.cache_dir;
    // Minutes of measuring that end with the process are what nobody wants, unless asked for.
    const internal::CacheMode cache = internal::settings().cache;
    if (cache == internal::CacheMode::kReadOnly) {
      return invalid_argument(
          "MOEJIT_CACHE = \"ro\": results could not be kept; rw keeps them, off tunes for the "
          "table "
          "alone");
    }
    request_.require_cache = cache == internal::CacheMode::kReadWrite;
    for (const MoeConfig& layer : request_.layers) MOEJIT_RETURN_IF_ERROR(device_.check(layer));
    return {};
  }

  // Each layer once for each number of shared experts.
  Status add_shared(const std::vector<MoeConfig>& layers) {
    request_.layers = layers;
    if (shared_.empty()) return {};
    request_.layers.clear();
    auto counts = parse_tokens(shared_, 0);
    if (!counts.ok() || counts->back() > 32) {
      return invalid_argument("shared = \"" + shared_ +
                              "\": must be numbers of experts from 0 to 32 such as \"0,1\"");
    }
    for (const MoeConfig& layer : layers) {
      for (const int64_t count : *counts) {
        request_.layers.push_back(layer);
        request_.layers.back().num_shared_experts = static_cast<int32_t>(count);
        MOEJIT_RETURN_IF_ERROR(request_.layers.back().check());
      }
    }
    return {};
  }

  ExitCode run(Context& context) override {
    if (const Status status = prepare(); !status.ok()) return context.fail(status);
    if (compile_only_) {
      for (const auto& [name, text] :
           {std::pair("budget", &budget_), std::pair("shard", &shard_)}) {
        if (text->empty()) continue;
        return context.fail(invalid_argument(std::string(name) + " = \"" + *text +
                                             "\": has no meaning with --compile-only"));
      }
      return run_compile_only(context, request_);
    }
    internal::Progress& progress = context.progress();
    std::tuple<int32_t, TuneStage, int32_t> last_step = {-1, TuneStage::kProbe, 0};
    request_.progress = [&](const TuneProgress& p) {
      const bool json = progress.mode() == internal::ProgressMode::kJson;
      const auto step = std::make_tuple(p.bucket, p.stage, p.done);
      const std::string layer = short_name(request_.layers[static_cast<size_t>(p.layer)]);
      progress.update([&] { return json ? progress_json(p) : progress_text(p, layer); },
                      /*always=*/json && step != last_step);
      last_step = step;
      return !Interruptible::requested();
    };
    const Interruptible interruptible(
        "\nmoejit tune: stopping after the current measurement; Ctrl-C again ends at once\n");
    auto report = tune(request_);
    progress.clear();
    if (!report.ok()) {
      const ExitCode code = context.fail(report.status());
      if (report.status().message().starts_with("results could not be kept"))
        context.note(
            "--cache-dir names another directory, MOEJIT_CACHE=off tunes for the table alone");
      return code;
    }

    const ExitCode printed = context.print(result_table(request_.layers, *report));
    if (printed != ExitCode::kOk) return printed;
    summarize(context, *report, request_.layers.size() > 1);
    for (const TuneFailure& failure : report->failures) {
      context.note((request_.layers.size() > 1 ? short_name(failure.config) + " " : "") + "T" +
                   std::to_string(failure.tokens) + " has no result: " + failure.why);
    }
    if (!report->not_kept.empty()) {
      return context.fail(
          {StatusCode::kIoError, "the last results are not in the cache: " + report->not_kept +
                                     "; make room and run it again to go on from here"});
    }
    if (report->cancelled) return ExitCode::kInterrupted;
    if (report->missing > 0) {
      context.note(std::to_string(report->missing) + " of " +
                   std::to_string(report->missing + static_cast<int32_t>(report->rows.size())) +
                   " token counts have no result" +
                   (report->out_of_budget ? ": out of budget" : "") +
                   "; run it again to go on from here");
      return report->out_of_budget || !report->rows.empty() ? ExitCode::kPartial
                                                            : ExitCode::kFailed;
    }
    return ExitCode::kOk;
  }

  LayerSelector layer_;
  DeviceSelector device_;
  TuneRequest request_;
  bool compile_only_ = false;
  std::string tokens_, budget_, shared_, shard_, trial_timeout_, isolate_ = "auto";
};

}  // namespace

std::unique_ptr<Command> make_tune() {
  return std::make_unique<Tune>();
}

}  // namespace moejit::tools
