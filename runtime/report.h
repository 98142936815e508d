// What `moejit report` shows, put together from a cache: one list of choices with their place
// under the roofline, the measurements behind each, the devices, the inventory.
#pragma once

#include <string>
#include <vector>

#include "cache/inspect.h"
#include "moejit/tuning.h"

namespace moejit::internal {

struct ReportDevice {
  std::string name;         // facts in brief: "cuda sm_90a, 132 units, 139 GiB"
  std::string environment;  // JSON
  DeviceLimits limits;      // of the dtype that was measured first; not measured: all 0
};

struct ReportChoice {
  SelectionInfo selection;
  size_t device = 0;    // index
  std::string layer;    // "qwen3-30b-a3b" or "E8 K2 H256 I192 bf16"
  std::string routing;  // "uniform", "zipf:1.2"
  bool served = false;  // get_kernel returns it
  double bytes = 0;     // that must move, and
  double flops = 0;     // operations of the layer, for rows spread evenly over the experts
  double share() const {
    return selection.median_s > 0 ? selection.floor_s / selection.median_s : 0;
  }
  std::vector<MeasurementInfo> trials;  // one per schedule, its last stage; best first
};

struct Report {
  std::string path;
  std::vector<ReportDevice> devices;
  std::vector<ReportChoice> choices;  // by device, layer, routing, tokens
  CacheStats stats;
};

Result<Report> read_report(const CachePlace& place);

// The page's data, documented in docs/cli.md.
std::string report_json(const Report& report);

}  // namespace moejit::internal
