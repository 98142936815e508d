#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "backends/backend.h"
#include "cases.h"
#include "tuner/limits.h"
#include "tuner/roofline.h"
#include "tuner/routing.h"

namespace moejit::gpu_bench {
namespace {

using namespace moejit::internal;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

struct Point {  // one (layer, tokens, routing): what was measured there
  double best_s = 0, picked_s = 0, picked_prediction = 0;
  std::string best, picked;
};

}  // namespace

int run_model(const std::string& path, const std::string& arch) {
  const auto device = open_device("cuda:" + arch);
  if (!device.ok()) return std::printf("%s\n", device.status().to_string().c_str()), 1;
  const Target& target = (*device)->info().target;
  DeviceLimits limits = guess_limits(target, DType::kBF16);
  std::ifstream file(path);
  std::map<std::string, std::vector<double>> errors;  // family and regime -> |log(model/measured)|
  std::map<std::string, std::vector<double>> signs;
  std::map<std::string, Point> points;
  std::vector<std::pair<nlohmann::json, DeviceLimits>> rows;  // with the limits of their run
  for (std::string line; std::getline(file, line);) {
    auto row = nlohmann::json::parse(line, nullptr, false);
    if (!row.is_object()) continue;
    if (row.value("kind", "") == "limits") {
      limits.read_bytes_per_s = row.value("read", limits.read_bytes_per_s);
      limits.dot_flops_per_s = row.value("dot", limits.dot_flops_per_s);
      limits.launch_s = row.value("launch", limits.launch_s);
      limits.vector_flops_per_s = limits.dot_flops_per_s / 16;
    } else if (row.value("kind", "") == "perf" && row.value("beside", 0.0) == 0) {
      rows.emplace_back(std::move(row), limits);
    }
  }
  std::map<std::string, std::vector<RowCounts>> known;
  for (const auto& [row, limits_of_run] : rows) {
    const std::string name = row.value("layer", "");
    const int64_t tokens = row.value("tokens", int64_t{0});
    const auto schedule = Schedule::from_json(row.value("schedule", nlohmann::json()).dump());
    const Layer* layer = nullptr;
    static const std::vector<Layer> all = layers();
    for (const Layer& l : all) {
      if (l.name == name) layer = &l;
    }
    if (layer == nullptr || !schedule.ok() || find_family(schedule->family) == nullptr) continue;
    if (find_family(schedule->family)->why_not(layer->config, target, *schedule)) continue;
    const std::string routing = row.value("routing", "uniform");
    const std::string key = name + " T=" + std::to_string(tokens) + " " + routing;
    std::vector<RowCounts>& counts = known[key];
    if (counts.empty()) {
      const auto spec = RoutingSpec::parse(routing);
      if (!spec.ok()) continue;
      for (uint64_t i = 0; i < 8; ++i)
        counts.push_back(draw_routing(*spec, layer->config, tokens, 5 + i).rows);
    }
    const double measured = row.value("median_s", 0.0);
    const double predicted =
        predict_seconds(layer->config, target, *schedule, limits_of_run, counts);
    const char* regime = tokens <= 8 ? "T<=8" : tokens <= 128 ? "T<=128" : "T>128";
    errors[schedule->family + " " + regime].push_back(std::fabs(predicted / measured - 1));
    signs[schedule->family + " " + regime].push_back(predicted / measured);
    errors["all"].push_back(std::fabs(predicted / measured - 1));
    signs["all"].push_back(predicted / measured);
    Point& point = points[key];
    if (point.best_s == 0 || measured < point.best_s) {
      point.best_s = measured;
      point.best = schedule->to_json();
    }
    if (point.picked_s == 0 || predicted < point.picked_prediction) {
      point.picked_s = measured;
      point.picked_prediction = predicted;
      point.picked = schedule->to_json();
    }
  }
  std::printf("%-24s %6s %14s %22s\n", "family, regime", "points", "median error",
              "median model/measured");
  for (const auto& [name, list] : errors) {
    std::printf("%-24s %6zu %13.0f%% %22.2f\n", name.c_str(), list.size(), 100 * median(list),
                median(signs[name]));
  }
  std::vector<double> lost;
  for (const auto& [name, point] : points) {
    lost.push_back(point.picked_s / point.best_s);
    std::printf(
        "%-34s best %9.1f us  the model's pick %9.1f us, predicted %9.1f us, %.2fx  %s%s%s\n",
        name.c_str(), point.best_s * 1e6, point.picked_s * 1e6, point.picked_prediction * 1e6,
        lost.back(), point.picked.c_str(), point.picked == point.best ? "" : "  instead of ",
        point.picked == point.best ? "" : point.best.c_str());
  }
  std::printf("the model's pick: median %.3fx, worst %.2fx of the best measured\n", median(lost),
              lost.empty() ? 0 : *std::max_element(lost.begin(), lost.end()));
  return 0;
}

}  // namespace moejit::gpu_bench
