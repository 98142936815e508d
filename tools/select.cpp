#include "tools/select.h"

#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "base/json_util.h"
#include "tools/parse.h"

namespace moejit::tools {
namespace {

constexpr int64_t kMostConfigBytes = 16 << 20;

Status usage(const std::string& what, const Status& cause) {
  return invalid_argument(what.empty() ? cause.message() : what + ": " + cause.message());
}

Result<std::string> read_text(const std::string& path) {
  if (path == "-") return internal::read_file("/dev/stdin", kMostConfigBytes);
  return internal::read_file(path, kMostConfigBytes);
}

// A checkout of a model, or its config.json. A preset's name never holds a slash or ends in .json.
bool names_a_path(const std::string& model) {
  if (model.find('/') != std::string::npos || model.ends_with(".json")) return true;
  struct stat info {};
  return stat(model.c_str(), &info) == 0 && S_ISDIR(info.st_mode) && !find_model_preset(model).ok();
}

Result<MoeConfig> config_of_model(const std::string& model) {
  if (!names_a_path(model)) {
    auto preset = find_model_preset(model);
    if (!preset.ok()) return usage("", preset.status());
    return preset->config;
  }
  struct stat info {};
  const bool directory = stat(model.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  const std::string path = directory ? internal::join_path(model, "config.json") : model;
  auto text = read_text(path);
  if (!text.ok()) return usage("model", text.status());
  auto config = config_from_hf_json(*text);
  if (!config.ok()) return usage(path, config.status());
  return config;
}

Result<std::vector<MoeConfig>> layers_from_json(const std::string& text) {
  auto json = internal::parse_json(text);
  if (!json.ok()) return json.status();
  std::vector<MoeConfig> layers;
  for (const nlohmann::json& item : *json) {
    auto layer = MoeConfig::from_json(item.dump());
    if (!layer.ok()) {
      return Status(StatusCode::kDataError,
                    "[" + std::to_string(layers.size()) + "]: " + layer.status().message());
    }
    layers.push_back(*layer);
  }
  if (layers.empty()) return invalid_argument("the array holds no layer");
  return layers;
}

}  // namespace

void LayerSelector::declare(OptionSet& options) {
  options.value(
      "-m,--model", "NAME|PATH", &model_,
      "A layer that `moejit models` lists, or a Hugging Face model directory or config.json");
  options.value("-c,--config", "FILE", &config_, "The layer as JSON (docs/cli.md); - reads stdin");
  options.value("-E,--experts", "E", &experts_, "Number of routed experts");
  options.value("-K,--top-k", "K", &top_k_, "Experts per token");
  options.value("-H,--hidden", "H", &hidden_, "Hidden size");
  options.value("-I,--intermediate", "I", &intermediate_, "Intermediate size of one expert");
  options.value("--dtype", "TYPE", &dtype_, "f32, bf16 or f16");
  options.value("--activation", "NAME", &activation_, "As in docs/cli.md: silu, gelu, ...");
  options.value("--tp", "N", &tp_, "The layer as one of N tensor-parallel ranks holds it");
  options.flag("--packed", &packed_, "The layer with packed weights (CPU; moejit/pack.h)");
}

void LayerSelector::declare_one(OptionSet& options) {
  declare(options);
  options.value("--shared", "N", &shared_, "Shared experts fused into the layer");
}

Result<MoeConfig> LayerSelector::base(bool* complete) const {
  *complete = true;
  if (!model_.empty() && !config_.empty()) {
    return invalid_argument("model = \"" + model_ +
                            "\": --config was given too; one of them names the layer");
  }
  if (!model_.empty()) return config_of_model(model_);
  if (!config_.empty()) {
    auto text = read_text(config_);
    if (!text.ok()) return usage("config", text.status());
    auto config = MoeConfig::from_json(*text);
    if (!config.ok()) return usage(config_, config.status());
    return config;
  }
  *complete = false;
  return MoeConfig{};
}

Result<MoeConfig> LayerSelector::resolve() const {
  bool complete = false;
  auto config = base(&complete);
  if (!config.ok()) return config;
  if (!complete && !(experts_ && top_k_ && hidden_ && intermediate_)) {
    return invalid_argument(
        "no layer: give --model NAME, --config FILE, or all of --experts, --top-k, --hidden and "
        "--intermediate");
  }
  return finish(*config);
}

Result<MoeConfig> LayerSelector::finish(MoeConfig config) const {
  if (experts_) config.num_experts = *experts_;
  if (top_k_) config.top_k = *top_k_;
  if (hidden_) config.hidden_size = *hidden_;
  if (intermediate_) config.intermediate_size = *intermediate_;
  if (!dtype_.empty()) {
    auto dtype = dtype_from_string(dtype_);
    if (!dtype.ok()) return usage("dtype", dtype.status());
    config.dtype = *dtype;
  }
  if (!activation_.empty()) {
    auto activation = activation_from_string(activation_);
    if (!activation.ok()) return usage("activation", activation.status());
    config.activation = *activation;
  }
  if (tp_) {
    auto shard = shard_tensor_parallel(config, *tp_);
    if (!shard.ok()) return usage("", shard.status());
    config = *shard;
  }
  if (packed_) config.packed = true;
  if (shared_) config.num_shared_experts = *shared_;
  if (const Status status = config.check(); !status.ok()) return usage("", status);
  return config;
}

Result<std::vector<MoeConfig>> LayerSelector::resolve_all() const {
  std::vector<MoeConfig> layers;
  const auto add = [&](const Result<MoeConfig>& base, const std::string& from) -> Status {
    if (!base.ok()) return usage(from, base.status());
    auto layer = finish(*base);
    if (!layer.ok()) return usage(from, layer.status());
    layers.push_back(*layer);
    return {};
  };
  if (config_.empty() && model_.find(',') != std::string::npos && !names_a_path(model_)) {
    for (const std::string_view name : split(model_, ','))
      MOEJIT_RETURN_IF_ERROR(add(config_of_model(std::string(name)), ""));
    return layers;
  }
  if (!config_.empty() && model_.empty()) {
    auto text = read_text(config_);
    if (!text.ok()) return usage("config", text.status());
    if (const size_t at = text->find_first_not_of(" \t\r\n");
        at != std::string::npos && (*text)[at] == '[') {
      auto list = layers_from_json(*text);
      if (!list.ok()) return usage(config_, list.status());
      for (size_t i = 0; i < list->size(); ++i)
        MOEJIT_RETURN_IF_ERROR(add((*list)[i], config_ + ", layer " + std::to_string(i)));
      return layers;
    }
    auto config = MoeConfig::from_json(*text);  // once: it may be stdin
    MOEJIT_RETURN_IF_ERROR(add(config, config_));
    return layers;
  }
  auto one = resolve();
  if (!one.ok()) return one.status();
  return std::vector<MoeConfig>{*one};
}

void DeviceSelector::declare(OptionSet& options) {
  options.value("-d,--device", "NAME", &device, "auto, or a device that `moejit doctor` lists");
  options.value("--threads", "N", &threads, "CPU threads of a launch; 0: every core");
  options.value("--cache-dir", "DIR", &cache_dir,
                "Directory of the cache; default: MOEJIT_CACHE_DIR");
}

std::string DeviceSelector::name() const {
  if (device.starts_with("sm_")) return "cuda:" + device;
  if (device.starts_with("gfx")) return "hip:" + device;
  if (device.starts_with("x86-64-")) return "cpu:" + device;
  return device;
}

Status DeviceSelector::check(const MoeConfig& config) const {
  if (threads < 0) {
    return invalid_argument("threads = " + std::to_string(threads) + ": must not be negative");
  }
  Status status = supports(config, name());
  if (status.code() == StatusCode::kNotFound) {
    return Status(StatusCode::kUnavailable, status.message(), status.log());
  }
  return status;
}

std::string short_name(const MoeConfig& config) {
  return "E" + std::to_string(config.total_experts()) + " K" + std::to_string(config.top_k) + " H" +
         std::to_string(config.hidden_size) + " I" + std::to_string(config.intermediate_size) +
         " " + to_string(config.dtype) + (config.packed ? " packed" : "");
}

}  // namespace moejit::tools
