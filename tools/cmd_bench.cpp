#include "moejit/tuning.h"
#include "tools/interrupt.h"
#include "tools/parse.h"
#include "tools/report.h"
#include "tools/select.h"

namespace moejit::tools {
namespace {

class Bench : public Command {
  void declare(OptionSet& options) override {
    layer_.declare_one(options);
    device_.declare(options);
    options.value("-t,--tokens", "LIST", &tokens_,
                  "Token counts: 1,8,32 or 1:8192 (powers of two)");
    options.value("--routing", "KIND", &request_.routing, "uniform, zipf:S or trace:FILE");
    options.value("--samples", "N", &request_.samples, "Timed launches for each token count");
    options.flag("--no-check", &no_check_, "Leave out the error against float64");
    options.flag("--require", &require_, "Exit code 3 where a token count was not tuned");
  }

  Status prepare() {
    auto config = layer_.resolve();
    if (!config.ok()) return config.status();
    request_.config = *config;
    auto tokens = parse_tokens(tokens_);
    if (!tokens.ok()) return tokens.status();
    request_.tokens = *tokens;
    MOEJIT_RETURN_IF_ERROR(check_routing(request_.routing, /*extremes=*/false));
    if (request_.samples < 1 || request_.samples > 100000) {
      return invalid_argument("samples = " + std::to_string(request_.samples) +
                              ": must be from 1 to 100000");
    }
    request_.check = !no_check_;
    request_.device = device_.name();
    request_.num_threads = device_.threads;
    request_.cache_path = device_.cache_dir;
    return device_.check(request_.config);
  }

  ExitCode run(Context& context) override {
    if (const Status status = prepare(); !status.ok()) return context.fail(status);
    request_.progress = row_progress(context, "bench " + short_name(request_.config));
    const Interruptible interruptible(
        "\nmoejit bench: stopping after this token count; Ctrl-C again ends at once\n");
    auto report = bench(request_);
    context.progress().clear();
    if (!report.ok()) return context.fail(report.status());
    Table table(measured_columns());
    add_header(&table, request_.config, report->device, report->limits);
    bool tuned = true;
    for (const BenchRow& row : report->rows) {
      std::vector<Cell> cells = measured_cells(row);
      if (no_check_) cells.back() = {};
      table.add(std::move(cells));
      tuned = tuned && row.source == Source::kExact;
    }
    const ExitCode printed = context.print(table);
    if (printed == ExitCode::kOk && report->rows.size() < request_.tokens.size())
      return ExitCode::kInterrupted;
    if (printed != ExitCode::kOk || tuned || !require_) return printed;
    return context.fail(
        Status(StatusCode::kNotFound,
               "some token counts were not tuned on this device; `moejit tune` does it"));
  }

  LayerSelector layer_;
  DeviceSelector device_;
  BenchRequest request_;
  std::string tokens_ = "1,8,32,128";
  bool no_check_ = false, require_ = false;
};

}  // namespace

std::unique_ptr<Command> make_bench() {
  return std::make_unique<Bench>();
}

}  // namespace moejit::tools
