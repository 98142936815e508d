#include "tools/report.h"

#include "tools/interrupt.h"
#include "tools/select.h"

namespace moejit::tools {

// Canonical schedules are flat: {"family":"name","parameter":1,...}.
std::string brief_schedule(const std::string& json) {
  std::string brief;
  for (const char c : json) {
    if (c == '{' || c == '}' || c == '"') continue;
    brief += c == ':' ? '=' : c == ',' ? ' ' : c;
  }
  const std::string prefix = "family=";
  return brief.starts_with(prefix) ? brief.substr(prefix.size()) : brief;
}

Cell schedule_cell(const std::string& json) {
  if (json.empty()) return {};
  return internal::JsonText{json, brief_schedule(json)};
}

void add_header(Table* table, const MoeConfig& config, const std::string& device,
                const DeviceLimits& limits) {
  table->fact("config", "layer", internal::JsonText{config.to_json(), short_name(config)});
  table->fact("device", "device", device);
  table->fact("read_bytes_per_s", "read limit",
              internal::known_if_positive(limits.read_bytes_per_s), Unit::kBytesPerS);
  table->fact("dot_flops_per_s", "dot limit", internal::known_if_positive(limits.dot_flops_per_s),
              Unit::kFlopsPerS);
  table->fact("vector_flops_per_s", "f32 limit",
              internal::known_if_positive(limits.vector_flops_per_s), Unit::kFlopsPerS);
  table->fact("limits_measured", "limits measured", limits.measured);
}

std::function<bool(int32_t, int32_t)> row_progress(Context& context, const std::string& what) {
  internal::Progress& progress = context.progress();
  return [&progress, what](int32_t done, int32_t total) {
    progress.update(
        [&] {
          if (progress.mode() == internal::ProgressMode::kJson) {
            return "{\"done\":" + std::to_string(done) + ",\"total\":" + std::to_string(total) +
                   "}";
          }
          return "[" + std::to_string(done) + "/" + std::to_string(total) + "] " + what;
        },
        /*always=*/false);
    return !Interruptible::requested();
  };
}

std::vector<Column> measured_columns() {
  return {{"tokens", "tokens"},
          {"routing", "routing", Unit::kNone, /*wide=*/true},
          {"schedule", "schedule"},
          {"source", "source"},
          {"median_s", "time", Unit::kSeconds},
          {"p20_s", "p20", Unit::kSeconds, /*wide=*/true},
          {"p80_s", "p80", Unit::kSeconds, /*wide=*/true},
          {"samples", "samples", Unit::kNone, /*wide=*/true},
          {"predicted_s", "predicted", Unit::kSeconds, /*wide=*/true},
          {"floor_s", "floor", Unit::kSeconds, /*wide=*/true},
          {"bytes_per_s", "", Unit::kBytesPerS},
          {"flops_per_s", "", Unit::kFlopsPerS},
          {"share", "of limit", Unit::kShare},
          {"error", "error", Unit::kScientific}};
}

std::vector<Cell> measured_cells(const BenchRow& row) {
  const bool timed = row.median_s > 0;
  return {row.tokens,
          row.routing,
          schedule_cell(row.schedule),
          std::string(to_string(row.source)),
          internal::known_if_positive(row.median_s),
          internal::known_if_positive(row.p20_s),
          internal::known_if_positive(row.p80_s),
          int64_t{row.samples},
          internal::known_if_positive(row.predicted_s),
          internal::known_if_positive(row.floor_s),
          timed ? Cell(row.bytes / row.median_s) : Cell(),
          timed ? Cell(row.flops / row.median_s) : Cell(),
          internal::known_if_positive(row.share),
          row.error};
}

}  // namespace moejit::tools
