#include "tools/compile_only.h"

#include "base/json_util.h"
#include "tools/interrupt.h"
#include "tools/report.h"
#include "tools/select.h"

namespace moejit::tools {

ExitCode run_compile_only(Context& context, TuneRequest request) {
  internal::Progress& progress = context.progress();
  request.progress = [&](const TuneProgress& p) {
    progress.update(
        [&] {
          if (progress.mode() == internal::ProgressMode::kJson) {
            return "{\"stage\":\"compile\",\"done\":" + std::to_string(p.done) +
                   ",\"total\":" + std::to_string(p.total) + ",\"schedule\":" + p.schedule + "}";
          }
          return "[" + std::to_string(p.done) + "/" + std::to_string(p.total) + "] compile  eta " +
                 internal::format_clock(p.remaining_s) + "  now " + brief_schedule(p.schedule);
        },
        /*always=*/false);
    return !Interruptible::requested();
  };
  const Interruptible interruptible(
      "\nmoejit tune: stopping after the current kernel; Ctrl-C again ends at once\n");
  const auto report = compile_only(request);
  progress.clear();
  if (!report.ok()) return context.fail(report.status());

  Table table({{"layer", "layer"},
               {"tokens", "tokens"},
               {"schedule", "schedule"},
               {"planned", "first choice"},
               {"predicted_s", "predicted", Unit::kSeconds},
               {"registers", "registers"},
               {"spill_bytes", "spills", Unit::kBytes},
               {"binary_bytes", "size", Unit::kBytes},
               {"ok", "compiled"},
               {"error", "error", Unit::kNone, /*wide=*/true}});
  table.fact("device", "device", report->device);
  table.fact("seconds", "took", report->seconds, Unit::kSeconds);
  table.fact("measured", "measured", false);
  int64_t failed = 0;
  const auto known = [](int32_t value) { return value >= 0 ? Cell(int64_t{value}) : Cell(); };
  for (const CompileRow& row : report->rows) {
    std::string tokens, brief;
    for (int64_t t : row.tokens) {
      tokens += (tokens.empty() ? "[" : ",") + std::to_string(t);
      brief += (brief.empty() ? "" : " ") + std::to_string(t);
    }
    const MoeConfig& config =
        request.layers.empty() ? request.config : request.layers[static_cast<size_t>(row.layer)];
    failed += row.ok ? 0 : 1;
    table.add({short_name(config), internal::JsonText{tokens + "]", brief},
               schedule_cell(row.schedule), row.planned,
               internal::known_if_positive(row.predicted_s), known(row.registers),
               known(row.spill_bytes), row.binary_bytes, row.ok,
               row.error.empty() ? Cell() : Cell(row.error)});
  }
  const ExitCode printed = context.print(table);
  if (printed != ExitCode::kOk) return printed;
  const std::string compiled = std::to_string(report->rows.size() - static_cast<size_t>(failed)) +
                               " kernels compiled for " + report->device;
  if (!report->not_kept.empty() && request.require_cache) {
    return context.fail(
        {StatusCode::kIoError, compiled + ", not all of them kept: " + report->not_kept});
  }
  context.note(compiled + (report->not_kept.empty() ? " and kept" : " and not kept") +
               "; nothing was measured, so get_kernel there takes the model's choices where the "
               "cache has none");
  if (report->cancelled) return ExitCode::kInterrupted;
  if (failed == 0) return ExitCode::kOk;
  context.note(std::to_string(failed) + " schedules did not compile (-v shows why)");
  return failed < static_cast<int64_t>(report->rows.size()) ? ExitCode::kPartial
                                                            : ExitCode::kFailed;
}

}  // namespace moejit::tools
