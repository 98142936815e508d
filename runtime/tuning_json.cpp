#include "runtime/tuning_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json_util.h"

namespace moejit::internal {
namespace {

using Json = nlohmann::json;
using Ordered = nlohmann::ordered_json;

Result<MoeConfig> layer_of(const Json& value) {
  return MoeConfig::from_json(value.dump());
}

// "config" or "model", and "tp". Nothing where `optional` and neither is there.
Status read_layer(JsonFields* fields, bool optional, MoeConfig* out) {
  const Json* config = fields->child("config");
  std::string model;
  int32_t tp = 0;
  fields->read("model", &model);
  fields->read("tp", &tp);
  MOEJIT_RETURN_IF_ERROR(fields->status());
  if (config != nullptr && !model.empty()) {
    return invalid_argument("model = " + json_string(model) +
                            ": config was given too; one of them names the layer");
  }
  if (config != nullptr) {
    auto read = layer_of(*config);
    if (!read.ok()) return {read.status().code(), "config: " + read.status().message()};
    *out = *read;
  } else if (!model.empty()) {
    auto preset = find_model_preset(model);
    if (!preset.ok()) return preset.status();
    *out = preset->config;
  } else if (!optional) {
    return invalid_argument("config: the request must have config or model");
  } else {
    return {};
  }
  if (!fields->has("tp")) return {};
  auto shard = shard_tensor_parallel(*out, tp);
  if (!shard.ok()) return shard.status();
  *out = *shard;
  return {};
}

Status read_tokens(JsonFields* fields, std::vector<int64_t>* out) {
  const Json* tokens = fields->child("tokens");
  if (tokens == nullptr) return fields->status();
  if (!tokens->is_array()) {
    return {StatusCode::kDataError, "tokens = " + describe(*tokens) + ": must be an array"};
  }
  for (size_t i = 0; i < tokens->size(); ++i) {
    const Json& item = (*tokens)[i];
    if (!item.is_number_integer() || item.get<double>() < 0 || item.get<double>() > 67108864) {
      return {StatusCode::kDataError, "tokens[" + std::to_string(i) + "] = " + describe(item) +
                                          ": must be an integer from 0 to 67108864"};
    }
    out->push_back(item.get<int64_t>());
  }
  return {};
}

Status read_names(JsonFields* fields, const char* name, std::vector<std::string>* out) {
  const Json* list = fields->child(name);
  if (list == nullptr) return fields->status();
  if (!list->is_array() ||
      !std::all_of(list->begin(), list->end(), [](const Json& item) { return item.is_string(); })) {
    return {StatusCode::kDataError,
            std::string(name) + " = " + describe(*list) + ": must be an array of strings"};
  }
  for (const Json& item : *list) out->push_back(item.get<std::string>());
  return {};
}

Status read_layers(JsonFields* fields, std::vector<MoeConfig>* out) {
  const Json* list = fields->child("layers");
  if (list == nullptr) return fields->status();
  if (!list->is_array()) {
    return {StatusCode::kDataError, "layers = " + describe(*list) + ": must be an array"};
  }
  for (size_t i = 0; i < list->size(); ++i) {
    auto layer = layer_of((*list)[i]);
    if (!layer.ok()) {
      return {layer.status().code(),
              "layers[" + std::to_string(i) + "]: " + layer.status().message()};
    }
    out->push_back(*layer);
  }
  return {};
}

// What every request has.
template <typename Request>
Status read_common(JsonFields* fields, bool layer_optional, Request* request) {
  MOEJIT_RETURN_IF_ERROR(read_layer(fields, layer_optional, &request->config));
  MOEJIT_RETURN_IF_ERROR(read_tokens(fields, &request->tokens));
  fields->read("device", &request->device);
  fields->read("num_threads", &request->num_threads);
  fields->read("cache_path", &request->cache_path);
  return fields->status();
}

template <typename Request>
Result<Request> read_request(std::string_view text, Request request,
                             Status (*read)(JsonFields*, Request*)) {
  auto json = parse_json(text);
  if (!json.ok()) return json.status();
  JsonFields fields(*json, "");
  MOEJIT_RETURN_IF_ERROR(read(&fields, &request));
  MOEJIT_RETURN_IF_ERROR(fields.finish());
  return request;
}

Ordered seconds(double value) {
  return value > 0 ? Ordered(value) : Ordered(nullptr);
}

Ordered object_of(const std::string& json) {
  return json.empty() ? Ordered(nullptr) : Ordered::parse(json, nullptr, false);
}

Ordered limits_of(const DeviceLimits& limits) {
  return {{"read_bytes_per_s", limits.read_bytes_per_s},
          {"dot_flops_per_s", limits.dot_flops_per_s},
          {"vector_flops_per_s", limits.vector_flops_per_s},
          {"launch_s", limits.launch_s},
          {"measured", limits.measured}};
}

Ordered row_of(const BenchRow& row) {
  return {{"tokens", row.tokens},
          {"routing", row.routing},
          {"schedule", object_of(row.schedule)},
          {"source", to_string(row.source)},
          {"median_s", seconds(row.median_s)},
          {"p20_s", seconds(row.p20_s)},
          {"p80_s", seconds(row.p80_s)},
          {"samples", row.samples},
          {"predicted_s", seconds(row.predicted_s)},
          {"floor_s", seconds(row.floor_s)},
          {"bytes", row.bytes},
          {"flops", row.flops},
          {"share", row.share},
          {"error", row.error}};
}

// Bytes that are not UTF-8, in a path maybe, must not make dump() throw.
std::string text_of(const Ordered& json) {
  return json.dump(-1, ' ', false, Ordered::error_handler_t::replace);
}

}  // namespace

Result<Isolation> isolation_from_string(std::string_view name) {
  if (name == "auto") return Isolation::kAuto;
  if (name == "on") return Isolation::kOn;
  if (name == "off") return Isolation::kOff;
  return invalid_argument("isolation = " + json_string(name) + ": must be auto, on or off");
}

Result<TuneRequest> tune_request_from_json(std::string_view text) {
  return read_request<TuneRequest>(text, {}, [](JsonFields* fields, TuneRequest* r) -> Status {
    MOEJIT_RETURN_IF_ERROR(read_layers(fields, &r->layers));
    MOEJIT_RETURN_IF_ERROR(read_common(fields, !r->layers.empty(), r));
    fields->read("routing", &r->routing);
    fields->read("budget_s", &r->budget_s);
    fields->read("jobs", &r->jobs);
    fields->read("max_candidates", &r->max_candidates);
    fields->read("exhaustive", &r->exhaustive);
    fields->read("force", &r->force);
    fields->read("shard_index", &r->shard_index);
    fields->read("shard_count", &r->shard_count);
    fields->read_enum("isolation", &r->isolation, isolation_from_string);
    fields->read("helper", &r->helper);
    fields->read("trial_timeout_s", &r->trial_timeout_s);
    fields->read("require_cache", &r->require_cache);
    return fields->status();
  });
}

Result<BenchRequest> bench_request_from_json(std::string_view text) {
  return read_request<BenchRequest>(text, {}, [](JsonFields* fields, BenchRequest* r) -> Status {
    MOEJIT_RETURN_IF_ERROR(read_common(fields, false, r));
    fields->read("routing", &r->routing);
    fields->read("samples", &r->samples);
    fields->read("check", &r->check);
    return fields->status();
  });
}

Result<VerifyRequest> verify_request_from_json(std::string_view text) {
  return read_request<VerifyRequest>(text, {}, [](JsonFields* fields, VerifyRequest* r) -> Status {
    MOEJIT_RETURN_IF_ERROR(read_common(fields, false, r));
    MOEJIT_RETURN_IF_ERROR(read_names(fields, "routings", &r->routings));
    fields->read("all_schedules", &r->all_schedules);
    return fields->status();
  });
}

Result<ExplainRequest> explain_request_from_json(std::string_view text) {
  return read_request<ExplainRequest>(
      text, {}, [](JsonFields* fields, ExplainRequest* r) -> Status {
        MOEJIT_RETURN_IF_ERROR(read_layer(fields, false, &r->config));
        MOEJIT_RETURN_IF_ERROR(read_tokens(fields, &r->tokens));
        fields->read("device", &r->options.device);
        fields->read("num_threads", &r->options.num_threads);
        fields->read("cache_path", &r->options.cache_path);
        for (const int64_t t : r->tokens)
          r->options.max_tokens = std::max(r->options.max_tokens, t);
        return fields->status();
      });
}

Result<BackgroundOptions> background_options_from_json(std::string_view text) {
  return read_request<BackgroundOptions>(
      text, {}, [](JsonFields* fields, BackgroundOptions* o) -> Status {
        fields->read("idle_s", &o->idle_s);
        fields->read("capture_quiet_s", &o->capture_quiet_s);
        fields->read("bucket_budget_s", &o->bucket_budget_s);
        fields->read("max_weight_bytes", &o->max_weight_bytes);
        fields->read("routing", &o->routing);
        fields->read_enum("isolation", &o->isolation, isolation_from_string);
        fields->read("helper", &o->helper);
        fields->read("jobs", &o->jobs);
        return fields->status();
      });
}

std::string to_json(const BackgroundStatus& status) {
  return text_of({{"running", status.running},
                  {"paused", status.paused},
                  {"queued", status.queued},
                  {"tuned", status.tuned},
                  {"failed", status.failed},
                  {"replaced", status.replaced},
                  {"at_work", status.at_work},
                  {"last_error", status.last_error}});
}

std::string to_json(const TuneProgress& p) {
  return text_of({{"tokens", p.tokens},
                  {"bucket", p.bucket},
                  {"num_buckets", p.num_buckets},
                  {"layer", p.layer},
                  {"num_layers", p.num_layers},
                  {"stage", to_string(p.stage)},
                  {"done", p.done},
                  {"total", p.total},
                  {"failed", p.failed},
                  {"best_s", p.best_s},
                  {"best_share", p.best_share},
                  {"elapsed_s", p.elapsed_s},
                  {"remaining_s", p.remaining_s},
                  {"schedule", object_of(p.schedule)}});
}

std::string to_json(const TuneReport& report) {
  Ordered failures = Ordered::array();
  for (const TuneFailure& failure : report.failures) {
    failures.push_back({{"config", object_of(failure.config.to_json())},
                        {"tokens", failure.tokens},
                        {"why", failure.why}});
  }
  Ordered rows = Ordered::array();
  for (const TuneRow& row : report.rows) {
    Ordered object = row_of(row);
    object["candidates"] = row.candidates;
    object["failed"] = row.failed;
    object["versus_default"] = seconds(row.versus_default);
    object["model_rank"] = row.model_rank > 0 ? Ordered(row.model_rank) : Ordered(nullptr);
    object["from_cache"] = row.from_cache;
    object["advice"] = row.advice;
    object["config"] = object_of(row.config.to_json());
    rows.push_back(std::move(object));
  }
  return text_of({{"device", report.device},
                  {"limits", limits_of(report.limits)},
                  {"cancelled", report.cancelled},
                  {"out_of_budget", report.out_of_budget},
                  {"missing", report.missing},
                  {"failures", std::move(failures)},
                  {"not_kept", report.not_kept},
                  {"seconds", report.seconds},
                  {"rows", std::move(rows)}});
}

std::string to_json(const BenchReport& report) {
  Ordered rows = Ordered::array();
  for (const BenchRow& row : report.rows) rows.push_back(row_of(row));
  return text_of(
      {{"device", report.device}, {"limits", limits_of(report.limits)}, {"rows", std::move(rows)}});
}

std::string to_json(const std::vector<VerifyRow>& rows) {
  Ordered list = Ordered::array();
  bool ok = true;
  for (const VerifyRow& row : rows) {
    ok &= row.ok;
    list.push_back({{"tokens", row.tokens},
                    {"routing", row.routing},
                    {"schedule", object_of(row.schedule)},
                    {"error", row.error},
                    {"tolerance", row.tolerance},
                    {"ok", row.ok},
                    {"note", row.note}});
  }
  return text_of({{"ok", ok}, {"rows", std::move(list)}});
}

std::string to_json(const MoeConfig& config, const std::vector<Explanation>& explanations) {
  Ordered rows = Ordered::array();
  for (const Explanation& e : explanations) {
    Ordered others = Ordered::array();
    for (const ExplainCandidate& c : e.runners_up) {
      others.push_back({{"schedule", object_of(c.schedule)},
                        {"predicted_s", seconds(c.predicted_s)},
                        {"measured_s", seconds(c.measured_s)},
                        {"status", c.status},
                        {"routing", c.routing.empty() ? Ordered(nullptr) : Ordered(c.routing)}});
    }
    rows.push_back({{"tokens", e.tokens},
                    {"device", e.device},
                    {"key", e.key},
                    {"kernel", e.kernel},
                    {"level", e.level},
                    {"choice",
                     {{"tokens", e.choice.tokens},
                      {"source", to_string(e.choice.source)},
                      {"schedule", object_of(e.choice.schedule)},
                      {"measured_s", seconds(e.choice.measured_s)},
                      {"predicted_s", seconds(e.choice.predicted_s)},
                      {"floor_s", seconds(e.choice.floor_s)},
                      {"reason", e.choice.reason}}},
                    {"limits", limits_of(e.limits)},
                    {"runners_up", std::move(others)},
                    {"refused", e.refused}});
  }
  return text_of({{"config", object_of(config.to_json())}, {"rows", std::move(rows)}});
}

}  // namespace moejit::internal

namespace moejit {
inline namespace v1 {

const char* to_string(TuneStage value) {
  switch (value) {
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

}  // namespace v1
}  // namespace moejit
