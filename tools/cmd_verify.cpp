#include "moejit/tuning.h"
#include "tools/interrupt.h"
#include "tools/parse.h"
#include "tools/report.h"
#include "tools/select.h"

namespace moejit::tools {
namespace {

class Verify : public Command {
  void declare(OptionSet& options) override {
    layer_.declare_one(options);
    device_.declare(options);
    options.value("-t,--tokens", "LIST", &tokens_,
                  "Token counts: 0,7,129 or 1:64 (powers of two); default: 0,1,2,7,32,129");
    options.value("--routing", "LIST", &routings_,
                  "uniform, zipf:S, trace:FILE, one (a single expert), skip (ids to skip); "
                  "default: uniform,zipf:1.2,one,skip");
    options.flag("--all-schedules", &request_.all_schedules,
                 "Every legal schedule, not only the chosen ones");
  }

  Status prepare() {
    auto config = layer_.resolve();
    if (!config.ok()) return config.status();
    request_.config = *config;
    if (!tokens_.empty()) {
      auto tokens = parse_tokens(tokens_, /*least=*/0);
      if (!tokens.ok()) return tokens.status();
      request_.tokens = *tokens;
    }
    if (!routings_.empty()) {
      for (const std::string_view routing : split(routings_, ',')) {
        MOEJIT_RETURN_IF_ERROR(check_routing(routing, /*extremes=*/true));
        request_.routings.emplace_back(routing);
      }
    }
    request_.device = device_.name();
    request_.num_threads = device_.threads;
    request_.cache_path = device_.cache_dir;
    return device_.check(request_.config);
  }

  ExitCode run(Context& context) override {
    if (const Status status = prepare(); !status.ok()) return context.fail(status);
    request_.progress = row_progress(context, "verify " + short_name(request_.config));
    const Interruptible interruptible(
        "\nmoejit verify: stopping after this check; Ctrl-C again ends at once\n");
    auto rows = verify(request_);
    context.progress().clear();
    if (!rows.ok()) return context.fail(rows.status());
    Table table({{"tokens", "tokens"},
                 {"routing", "routing"},
                 {"schedule", "schedule"},
                 {"error", "error", Unit::kScientific},
                 {"tolerance", "tolerance", Unit::kScientific},
                 {"ok", "ok"},
                 {"note", "note"}});
    table.fact("config", "layer",
               internal::JsonText{request_.config.to_json(), short_name(request_.config)});
    table.fact("device", "device", request_.device);
    table.fact("stopped", "stopped early", Interruptible::requested());
    int64_t wrong = 0;
    for (const VerifyRow& row : *rows) {
      table.add({row.tokens, row.routing, schedule_cell(row.schedule), row.error, row.tolerance,
                 row.ok, row.note});
      wrong += row.ok ? 0 : 1;
    }
    const ExitCode printed = context.print(table);
    if (printed == ExitCode::kOk && wrong == 0 && Interruptible::requested())
      return ExitCode::kInterrupted;
    if (printed != ExitCode::kOk || wrong == 0) return printed;
    return context.fail(Status(StatusCode::kVerificationFailed,
                               std::to_string(wrong) + " of " + std::to_string(rows->size()) +
                                   " checks are outside their tolerance"));
  }

  LayerSelector layer_;
  DeviceSelector device_;
  VerifyRequest request_;
  std::string tokens_, routings_;
};

}  // namespace

std::unique_ptr<Command> make_verify() {
  return std::make_unique<Verify>();
}

}  // namespace moejit::tools
