#include "runtime/report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "generator/family.h"
#include "runtime/library.h"
#include "tuner/limits.h"

namespace moejit::internal {
namespace {

using nlohmann::json;

std::string text_of(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) return "";
  const json& value = object[key];
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// "cuda sm_90a, 132 units, 139 GiB, driver 13.0" of an environment's JSON, whatever it has of it.
std::string device_name(const std::string& environment) {
  const json e = json::parse(environment, nullptr, false);
  if (!e.is_object()) return environment;
  std::string name = text_of(e, "backend");
  if (const std::string arch = text_of(e, "arch"); !arch.empty()) name += " " + arch;
  const std::pair<const char*, std::pair<const char*, const char*>> parts[] = {
      {"product", {"", ""}},
      {"units", {"", " units"}},
      {"threads", {"", " threads"}},
      {"memory_gib", {"", " GiB"}},
      {"driver", {"driver ", ""}}};
  for (const auto& [key, around] : parts) {
    if (const std::string value = text_of(e, key); !value.empty())
      name += ", " + std::string(around.first) + value + around.second;
  }
  return name;
}

// The preset's name, with its tensor-parallel degree, where the layer is one; else its sizes.
std::string layer_name(const std::string& problem) {
  auto config = MoeConfig::from_json(problem);
  if (!config.ok()) return problem;
  const std::string packed = config->packed ? " packed" : "";
  config->packed = false;
  for (const ModelPreset& preset : model_presets()) {
    for (int tp : {1, 2, 4, 8, 16}) {
      const auto shard = shard_tensor_parallel(preset.config, tp);
      if (shard.ok() && *shard == *config)
        return preset.name + (tp > 1 ? " tp" + std::to_string(tp) : "") + packed;
    }
  }
  return "E" + std::to_string(config->num_experts) + " K" + std::to_string(config->top_k) + " H" +
         std::to_string(config->hidden_size) + " I" + std::to_string(config->intermediate_size) +
         " " + to_string(config->dtype) + packed;
}

std::string routing_of(const std::string& policy) {
  const json p = json::parse(policy, nullptr, false);
  const std::string routing = text_of(p, "routing");
  return routing.empty() ? policy : routing;
}

// The last word on each schedule of one choice: its final stage where there is one, of the newest
// session.
std::vector<MeasurementInfo> last_words(std::vector<MeasurementInfo> all) {
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
    return std::tuple(a.schedule, a.stage != "final", -a.at) <
           std::tuple(b.schedule, b.stage != "final", -b.at);
  });
  all.erase(std::unique(all.begin(), all.end(),
                        [](const auto& a, const auto& b) { return a.schedule == b.schedule; }),
            all.end());
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
    return std::tuple(a.status != "ok", a.median_s) < std::tuple(b.status != "ok", b.median_s);
  });
  return all;
}

json number_or_null(double value) {
  return value > 0 && std::isfinite(value) ? json(value) : json();
}

json schedule_json(const std::string& text) {
  json parsed = json::parse(text, nullptr, false);
  return parsed.is_discarded() ? json(text) : parsed;
}

json choice_json(const ReportChoice& c) {
  const SelectionInfo& s = c.selection;
  json trials = json::array();
  for (const MeasurementInfo& m : c.trials) {
    trials.push_back({{"schedule", schedule_json(m.schedule)},
                      {"stage", m.stage},
                      {"status", m.status},
                      {"note", m.note},
                      {"median_s", number_or_null(m.median_s)},
                      {"predicted_s", number_or_null(m.predicted_s)},
                      {"at", m.at}});
  }
  return {{"key", s.key},
          {"device", c.device},
          {"layer", c.layer},
          {"config", schedule_json(s.problem)},
          {"routing", c.routing},
          {"tokens", s.tokens},
          {"schedule", schedule_json(s.schedule)},
          {"how", s.how},
          {"served", c.served},
          {"median_s", number_or_null(s.median_s)},
          {"predicted_s", number_or_null(s.predicted_s)},
          {"floor_s", number_or_null(s.floor_s)},
          {"share", number_or_null(c.share())},
          {"bytes", c.bytes},
          {"flops", c.flops},
          {"error", s.error},
          {"versus_default", number_or_null(s.versus_default)},
          {"candidates", s.candidates},
          {"decided_at", s.decided_at},
          {"toolchain", s.toolchain},
          {"note", s.note},
          {"trials", std::move(trials)}};
}

json counts_json(const std::vector<CountOf>& counts) {
  json list = json::array();
  for (const CountOf& c : counts) {
    list.push_back(
        {{"name", c.name}, {"kernels", c.artifacts}, {"binaries", c.binaries}, {"bytes", c.bytes}});
  }
  return list;
}

}  // namespace

Result<Report> read_report(const CachePlace& place) {
  auto stats = cache_stats(place);
  if (!stats.ok()) return stats.status();
  auto environments = list_environments(place);
  if (!environments.ok()) return environments.status();
  auto selections = list_selections(place);
  if (!selections.ok()) return selections.status();
  auto measurements = list_measurements(place);
  if (!measurements.ok()) return measurements.status();

  Report report;
  report.path = stats->path;
  report.stats = *std::move(stats);
  std::map<std::string, size_t> device_of;
  for (const EnvironmentInfo& e : *environments) {
    ReportDevice device{.name = device_name(e.json), .environment = e.json, .limits = {}};
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      if (const auto limits = limits_from_json(e.limits_json, dtype);
          limits && !device.limits.measured) {
        device.limits = *limits;
      }
    }
    device_of[e.json] = report.devices.size();
    report.devices.push_back(std::move(device));
  }
  using Key = std::tuple<std::string, std::string, std::string, int64_t>;
  std::map<Key, std::vector<MeasurementInfo>> trials;
  for (MeasurementInfo& m : *measurements) {
    trials[{m.problem, m.environment, m.policy, m.tokens}].push_back(std::move(m));
  }
  // What get_kernel serves has a row of its own, besides that of the routing it was tuned under.
  std::map<Key, std::string> served;
  for (const SelectionInfo& s : *selections) {
    if (routing_of(s.policy) == kServingRouting)
      served[{s.problem, s.environment, s.generator, s.tokens}] = s.schedule;
  }
  for (SelectionInfo& s : *selections) {
    if (routing_of(s.policy) == kServingRouting) continue;
    ReportChoice choice;
    const auto serving = served.find({s.problem, s.environment, s.generator, s.tokens});
    choice.served = serving != served.end() && serving->second == s.schedule;
    choice.device = device_of[s.environment];
    choice.layer = layer_name(s.problem);
    choice.routing = routing_of(s.policy);
    if (const auto config = MoeConfig::from_json(s.problem); config.ok()) {
      const Floor floor = layer_floor(*config, typical_rows(*config, s.tokens), s.tokens);
      choice.bytes = floor.bytes;
      choice.flops = floor.flops;
    }
    if (const auto it = trials.find({s.problem, s.environment, s.policy, s.tokens});
        it != trials.end()) {
      choice.trials = last_words(it->second);
    }
    choice.selection = std::move(s);
    report.choices.push_back(std::move(choice));
  }
  std::stable_sort(report.choices.begin(), report.choices.end(), [](const auto& a, const auto& b) {
    return std::tie(a.device, a.layer, a.routing, a.selection.tokens) <
           std::tie(b.device, b.layer, b.routing, b.selection.tokens);
  });
  return report;
}

std::string report_json(const Report& report) {
  json devices = json::array();
  for (const ReportDevice& d : report.devices) {
    devices.push_back({{"name", d.name},
                       {"environment", schedule_json(d.environment)},
                       {"read_bytes_per_s", number_or_null(d.limits.read_bytes_per_s)},
                       {"dot_flops_per_s", number_or_null(d.limits.dot_flops_per_s)}});
  }
  json choices = json::array();
  for (const ReportChoice& c : report.choices) choices.push_back(choice_json(c));
  const CacheStats& s = report.stats;
  const json all = {{"schema", 1},
                    {"command", "report"},
                    {"version", version()},
                    {"path", report.path},
                    {"devices", std::move(devices)},
                    {"choices", std::move(choices)},
                    {"inventory",
                     {{"file_bytes", s.file_bytes},
                      {"kernels", s.artifacts},
                      {"binaries", s.binaries},
                      {"binary_bytes", s.binary_bytes},
                      {"measurements", s.measurements},
                      {"choices", s.selections},
                      {"pinned", s.pinned},
                      {"imported", s.imported},
                      {"sessions", s.sessions},
                      {"by_arch", counts_json(s.by_arch)},
                      {"by_compiler", counts_json(s.by_toolchain)}}}};
  return all.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace moejit::internal
