#include <cmath>
#include <cstdio>
#include <tuple>

#include "base/json_util.h"
#include "moejit/tuning.h"
#include "tools/interrupt.h"
#include "tools/parse.h"
#include "tools/report.h"
#include "tools/select.h"

namespace moejit::tools {
namespace {

const char* stage_name(TuneStage stage) {
  switch (stage) {
    case TuneStage::kProbe:
      return "probe";
    case TuneStage::kPrepare:
      return "prepare";
    case TuneStage::kCompile:
      return "compile";
    case TuneStage::kScreen:
      return "screen";
    case TuneStage::kFinal:
      return "final";
    case TuneStage::kDone:
      break;
  }
  return "done";
}

std::string progress_text(const TuneProgress& p, const std::string& layer) {
  if (p.stage == TuneStage::kProbe) return "measuring the limits of the device";
  char head[96];
  std::snprintf(head, sizeof head, "[%3d/%d] T%lld (%d/%d) %s ", p.done, p.total,
                static_cast<long long>(p.tokens), p.bucket + 1, p.num_buckets, stage_name(p.stage));
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
         ",\"num_buckets\":" + std::to_string(p.num_buckets) + ",\"stage\":\"" +
         stage_name(p.stage) + "\",\"done\":" + std::to_string(p.done) +
         ",\"total\":" + std::to_string(p.total) + ",\"failed\":" + std::to_string(p.failed) +
         ",\"best_s\":" + json_number(p.best_s) + ",\"best_share\":" + json_number(p.best_share) +
         ",\"elapsed_s\":" + json_number(p.elapsed_s) +
         ",\"remaining_s\":" + json_number(p.remaining_s) +
         ",\"schedule\":" + (p.schedule.empty() ? "null" : p.schedule) + "}";
}

Table result_table(const MoeConfig& config, const TuneReport& report) {
  std::vector<Column> columns = measured_columns();
  columns.push_back({"versus_default", "vs default", Unit::kRatio});
  columns.push_back({"model_rank", "model rank", Unit::kNone, /*wide=*/true});
  columns.push_back({"candidates", "measured", Unit::kNone, /*wide=*/true});
  columns.push_back({"failed", "failed", Unit::kNone, /*wide=*/true});
  columns.push_back({"from_cache", "cached"});
  columns.push_back({"advice", "to do better", Unit::kNone, /*wide=*/true});
  Table table(std::move(columns));
  add_header(&table, config, report.device, report.limits);
  table.fact("seconds", "took", report.seconds, Unit::kSeconds);
  table.fact("cancelled", "stopped early", report.cancelled);
  for (const TuneRow& row : report.rows) {
    std::vector<Cell> cells = measured_cells(row);
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

void summarize(Context& context, const TuneReport& report) {
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
  for (const TuneRow& row : report.rows) {
    if (!row.advice.empty()) context.note("T" + std::to_string(row.tokens) + ": " + row.advice);
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
    options.flag("--force", &request_.force, "Measure again what the cache knows");
  }

  Status prepare() {
    auto config = layer_.resolve();
    if (!config.ok()) return config.status();
    request_.config = *config;
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
    request_.device = device_.name();
    request_.num_threads = device_.threads;
    request_.cache_path = device_.cache_dir;
    return device_.check(request_.config);
  }

  ExitCode run(Context& context) override {
    if (const Status status = prepare(); !status.ok()) return context.fail(status);
    internal::Progress& progress = context.progress();
    const std::string layer = short_name(request_.config);
    int32_t buckets = static_cast<int32_t>(request_.tokens.size());
    std::tuple<int32_t, TuneStage, int32_t> last_step = {-1, TuneStage::kProbe, 0};
    request_.progress = [&](const TuneProgress& p) {
      buckets = p.num_buckets;
      const bool json = progress.mode() == internal::ProgressMode::kJson;
      const auto step = std::make_tuple(p.bucket, p.stage, p.done);
      progress.update([&] { return json ? progress_json(p) : progress_text(p, layer); },
                      /*always=*/json && step != last_step);
      last_step = step;
      return !Interruptible::requested();
    };
    const Interruptible interruptible(
        "\nmoejit tune: stopping after the current measurement; Ctrl-C again ends at once\n");
    auto report = tune(request_);
    progress.clear();
    if (!report.ok()) return context.fail(report.status());

    const ExitCode printed = context.print(result_table(request_.config, *report));
    if (printed != ExitCode::kOk) return printed;
    summarize(context, *report);
    if (report->cancelled) return ExitCode::kInterrupted;
    const int32_t missing = buckets - static_cast<int32_t>(report->rows.size());
    if (missing > 0) {
      context.note(std::to_string(missing) + " of " + std::to_string(buckets) +
                   " token counts have no result; run it again to go on from here");
      return report->rows.empty() ? ExitCode::kFailed : ExitCode::kPartial;
    }
    return ExitCode::kOk;
  }

  LayerSelector layer_;
  DeviceSelector device_;
  TuneRequest request_;
  std::string tokens_, budget_;
};

}  // namespace

std::unique_ptr<Command> make_tune() {
  return std::make_unique<Tune>();
}

}  // namespace moejit::tools
