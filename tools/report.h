// Columns and facts that tune, bench, verify and explain print alike.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "moejit/tuning.h"
#include "tools/context.h"

namespace moejit::tools {

// A schedule's canonical JSON; for people "cpu_moe dot_rows=4 ...".
Cell schedule_cell(const std::string& json);
std::string brief_schedule(const std::string& json);

// Layer, device and its limits, above the rows.
void add_header(Table* table, const MoeConfig& config, const std::string& device,
                const DeviceLimits& limits);

// Shows "[3/24] `what`" and answers whether to go on: not after Ctrl-C.
std::function<bool(int32_t, int32_t)> row_progress(Context& context, const std::string& what);

// tokens .. error: what BenchRow holds.
std::vector<Column> measured_columns();
std::vector<Cell> measured_cells(const BenchRow& row);

}  // namespace moejit::tools
