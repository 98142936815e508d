// The published models of data/models.json, embedded at build time.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/embedded.h"
#include "base/json_util.h"
#include "base/log.h"
#include "base/nearest.h"
#include "moejit/config.h"

namespace moejit {
inline namespace v1 {
namespace {

using internal::in_quotes;
using internal::JsonFields;
using nlohmann::json;

constexpr const char* kFile = "data/models.json";

Result<ModelPreset> read_preset(const json& value, const std::string& path) {
  ModelPreset preset;
  JsonFields fields(value, path);
  for (const char* name : {"name", "source", "config"}) fields.require(name);
  fields.read("name", &preset.name);
  fields.read("source", &preset.source);
  fields.read("moe_layers", &preset.moe_layers);
  fields.read("note", &preset.note);
  const json* config = fields.child("config");
  MOEJIT_RETURN_IF_ERROR(fields.finish());
  Result<MoeConfig> parsed = MoeConfig::from_json(config->dump());
  if (!parsed.ok()) {
    return Status(parsed.status().code(), path + ".config: " + parsed.status().message());
  }
  preset.config = *parsed;
  return preset;
}

Result<std::vector<ModelPreset>> read_presets(std::string_view text) {
  Result<json> root = internal::parse_json(text);
  if (!root.ok()) return root.status();
  JsonFields fields(*root, "");
  int32_t schema = 0;
  fields.read("schema", &schema);
  const json* models = fields.child("models");
  MOEJIT_RETURN_IF_ERROR(fields.finish());
  if (schema != 1 || models == nullptr || !models->is_array()) {
    return Status(StatusCode::kDataError, "must have schema 1 and a list of models");
  }
  std::vector<ModelPreset> presets;
  for (const json& value : *models) {
    Result<ModelPreset> preset =
        read_preset(value, "models[" + std::to_string(presets.size()) + "]");
    if (!preset.ok()) return preset.status();
    presets.push_back(*std::move(preset));
  }
  std::sort(presets.begin(), presets.end(),
            [](const ModelPreset& a, const ModelPreset& b) { return a.name < b.name; });
  return presets;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

}  // namespace

const std::vector<ModelPreset>& model_presets() {
  static const std::vector<ModelPreset>* const presets = [] {
    Result<std::vector<ModelPreset>> read = read_presets(internal::embedded_file(kFile));
    if (!read.ok()) {  // a build with a broken data file; the tests refuse it
      internal::log(internal::LogLevel::kError, "config",
                    std::string(kFile) + ": " + read.status().message());
      return new std::vector<ModelPreset>;
    }
    return new std::vector<ModelPreset>(*std::move(read));
  }();
  return *presets;
}

Result<ModelPreset> find_model_preset(std::string_view name) {
  const std::string wanted = lower(name);
  std::vector<std::string> names;
  for (const ModelPreset& preset : model_presets()) {
    if (preset.name == wanted) return preset;
    names.push_back(preset.name);
  }
  const std::vector<std::string> near = internal::nearest_names(name, names);
  return Status(StatusCode::kNotFound, "model = " + in_quotes(name) +
                                           ": no preset of that name; nearest: " +
                                           (near.empty() ? "none" : internal::join(near)));
}

Result<MoeConfig> shard_tensor_parallel(const MoeConfig& config, int32_t tp) {
  MOEJIT_RETURN_IF_ERROR(config.check());
  if (tp < 1 || config.intermediate_size % tp != 0) {
    return invalid_argument("tp = " + std::to_string(tp) + ": must divide intermediate_size (" +
                            std::to_string(config.intermediate_size) + ")");
  }
  MoeConfig shard = config;
  shard.intermediate_size /= tp;
  const Status status = shard.check();
  if (!status.ok()) {
    return invalid_argument("tp = " + std::to_string(tp) + ": the shard's " + status.message());
  }
  return shard;
}

}  // namespace v1
}  // namespace moejit
