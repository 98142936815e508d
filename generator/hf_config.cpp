// config.json of Hugging Face checkpoints -> MoeConfig. The families name the same things
// differently; what a file does not say is the family's rule, in kFamilies.
#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/json_util.h"
#include "base/log.h"
#include "base/nearest.h"
#include "moejit/config.h"

namespace moejit {
inline namespace v1 {
namespace {

using internal::in_quotes;
using nlohmann::json;
using Keys = std::initializer_list<const char*>;

// What a family's code does where its config.json is silent. Rows match by the beginning of
// model_type, the longest first.
struct FamilyRule {
  const char* model_type;
  Scoring scoring;
  RouterOrder order;
  bool correction_bias;
  bool renormalize;
};

constexpr Scoring kSoftmax = Scoring::kSoftmax, kSigmoid = Scoring::kSigmoid;
constexpr RouterOrder kScoreFirst = RouterOrder::kScoreThenTopk;
constexpr RouterOrder kTopkFirst = RouterOrder::kTopkThenScore;

constexpr FamilyRule kFamilies[] = {
    {"dbrx", kSoftmax, kScoreFirst, false, true},
    {"deepseek_v2", kSoftmax, kScoreFirst, false, false},
    {"deepseek_v3", kSigmoid, kScoreFirst, true, true},
    {"deepseek_v4", Scoring::kSqrtSoftplus, kScoreFirst, true, true},
    {"dots1", kSigmoid, kScoreFirst, true, true},
    {"ernie4_5", kSoftmax, kScoreFirst, true, true},
    {"glm4_moe", kSigmoid, kScoreFirst, true, true},
    {"glm_moe", kSigmoid, kScoreFirst, true, true},
    {"gpt_oss", kSoftmax, kTopkFirst, false, false},
    {"granitemoe", kSoftmax, kTopkFirst, false, false},
    {"hunyuan", kSoftmax, kScoreFirst, false, true},
    {"kimi", kSigmoid, kScoreFirst, true, true},
    {"lfm2_moe", kSigmoid, kScoreFirst, true, true},
    {"llama4", kSigmoid, kTopkFirst, false, false},
    {"longcat", kSoftmax, kScoreFirst, true, false},
    {"minimax", kSoftmax, kScoreFirst, false, true},
    {"minimax_m", kSigmoid, kScoreFirst, true, true},
    {"mimo_v2", kSigmoid, kScoreFirst, true, true},
    {"mixtral", kSoftmax, kScoreFirst, false, true},
    {"nemotron_h", kSigmoid, kScoreFirst, true, true},
    {"qwen3_next", kSoftmax, kScoreFirst, false, true},
    {"qwen3_5", kSoftmax, kScoreFirst, false, true},
    {"step3", kSigmoid, kScoreFirst, false, false},
};
constexpr FamilyRule kAnyFamily = {"", kSoftmax, kScoreFirst, false, false};

FamilyRule family_of(std::string_view model_type) {
  FamilyRule best = kAnyFamily;
  for (const FamilyRule& rule : kFamilies) {
    const std::string_view name = rule.model_type;
    if (model_type.substr(0, name.size()) == name &&
        name.size() > std::string_view(best.model_type).size()) {
      best = rule;
    }
  }
  return best;
}

constexpr Keys kExpertKeys = {"n_routed_experts", "num_experts", "num_local_experts",
                              "moe_num_experts"};
constexpr Keys kTopKKeys = {
    "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k",
    "top_k_experts",       "experts_per_token"};
// The latent width, where the routed experts have one, before the model's.
constexpr Keys kHiddenKeys = {"routed_expert_hidden_size", "moe_latent_size", "hidden_size",
                              "d_model"};
// The experts' width before the dense layers'.
constexpr Keys kWidthKeys = {"moe_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size",
                             "intermediate_size"};

// Python writes Infinity and NaN, which JSON lacks, into files that are otherwise fine; no field
// that is read here may be one, so they become null.
std::string without_python_numbers(std::string_view text) {
  std::string result;
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (in_string && c == '\\' && i + 1 < text.size()) {
      result.append(text.substr(i, 2));
      i += 2;
      continue;
    }
    if (c == '"') in_string = !in_string;
    size_t length = 0;
    if (!in_string) {
      for (std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
        if (text.substr(i, word.size()) == word) length = std::max(length, word.size());
      }
    }
    if (length > 0) {
      result += "null";
      i += length;
    } else {
      result += c;
      ++i;
    }
  }
  return result;
}

// Reads fields of one block. The first error is kept; absent and null are the same.
class HfFields {
 public:
  HfFields(const json& block, const json& root) : block_(block), root_(root) {}

  // The first of `keys` that the block, or its ffn_config (DBRX), has.
  const json* find(Keys keys, std::string* found = nullptr) const {
    for (const char* key : keys) {
      const json* value = in(block_, key);
      if (value == nullptr && block_.contains("ffn_config")) {
        value = in(block_["ffn_config"], key);
      }
      if (value == nullptr) continue;
      if (found != nullptr) *found = key;
      return value;
    }
    return nullptr;
  }

  // Holds something, here or in the file around it.
  bool has(const char* key) const {
    const json* value = in(block_, key);
    if (value == nullptr) value = in(root_, key);
    return value != nullptr && !value->empty();
  }

  std::optional<int32_t> integer(Keys keys) {
    std::string key;
    const json* value = find(keys, &key);
    if (value == nullptr) return std::nullopt;
    if (value->is_array() && !value->empty()) {  // one entry per layer
      for (const json& entry : *value) {
        if (entry != value->front()) {
          fail(key, *value, "must be the same for all layers");
          return std::nullopt;
        }
      }
      value = &value->front();
    }
    if (!value->is_number_integer() || value->get<int64_t>() < 0 ||
        value->get<int64_t>() > INT32_MAX) {
      fail(key, *value, "must be an integer from 0 to 2^31 - 1");
      return std::nullopt;
    }
    return value->get<int32_t>();
  }

  int32_t required(const char* what, Keys keys) {
    const std::optional<int32_t> value = integer(keys);
    if (!value && status_.ok()) {
      std::vector<std::string> names(keys.begin(), keys.end());
      status_ = Status(StatusCode::kDataError, std::string("config.json: ") + what +
                                                   ": none of its keys is there (" +
                                                   internal::join(names) + ")");
    }
    return value.value_or(0);
  }

  std::optional<double> number(Keys keys) {
    std::string key;
    const json* value = find(keys, &key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) {
      fail(key, *value, "must be a number");
      return std::nullopt;
    }
    return value->get<double>();
  }

  // True and false, or a number of which 0 is false (DBRX normalises by a p-norm).
  std::optional<bool> flag(Keys keys) {
    std::string key;
    const json* value = find(keys, &key);
    if (value == nullptr) return std::nullopt;
    if (value->is_number()) return value->get<double>() != 0;
    if (!value->is_boolean()) {
      fail(key, *value, "must be true or false");
      return std::nullopt;
    }
    return value->get<bool>();
  }

  std::string text(Keys keys) {
    std::string key;
    const json* value = find(keys, &key);
    for (const char* name : keys) {
      if (value == nullptr && (value = in(root_, name)) != nullptr) key = name;
    }
    if (value == nullptr) return "";
    if (!value->is_string()) {
      fail(key, *value, "must be a string");
      return "";
    }
    return value->get<std::string>();
  }

  void fail(const std::string& key, const json& value, const std::string& rule) {
    if (status_.ok()) {
      status_ = Status(StatusCode::kDataError,
                       "config.json: " + key + " = " + internal::describe(value) + ": " + rule);
    }
  }
  void unsupported(const std::string& message) {
    if (status_.ok()) status_ = Status(StatusCode::kUnsupported, "config.json: " + message);
  }
  const Status& status() const { return status_; }

 private:
  static const json* in(const json& object, const char* key) {
    if (!object.is_object()) return nullptr;
    const auto it = object.find(key);
    return it == object.end() || it->is_null() ? nullptr : &*it;
  }

  const json& block_;
  const json& root_;
  Status status_;
};

// The object that describes the language model: the root, or the nested block of a multimodal one.
const json& language_block(const json& root) {
  const json* block = &root;
  for (int depth = 0; depth < 2; ++depth) {
    const json* next = nullptr;
    for (const char* key : {"text_config", "llm_config", "language_config", "thinker_config"}) {
      const auto it = block->find(key);
      if (it != block->end() && it->is_object()) next = &*it;
    }
    if (next == nullptr) break;
    block = next;
  }
  return *block;
}

// model_type, or for a file without it what the class's name makes of it: "DeepseekV4ForCausalLM"
// is "deepseek_v4".
std::string read_model_type(HfFields& in) {
  const std::string given = in.text({"model_type"});
  const json* classes = in.find({"architectures"});
  if (!given.empty() || classes == nullptr || !classes->is_array() || classes->empty() ||
      !classes->front().is_string()) {
    return given;
  }
  std::string name = classes->front().get<std::string>();
  name = name.substr(0, name.find("For"));
  std::string result;
  for (const char c : name) {
    const bool upper = c >= 'A' && c <= 'Z';
    if (upper && !result.empty()) result += '_';
    result += upper ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return result;
}

void read_activation(HfFields& in, std::string_view model_type, MoeConfig* c) {
  std::string name = in.text({"mlp_hidden_act", "hidden_act", "hidden_activation"});
  if (model_type == "gpt_oss") {  // says silu, and computes this
    name = "swigluoai";
    c->bias = true;
    c->interleaved = true;
  }
  const std::optional<double> limit = in.number({"swiglu_limit"});
  if (name.empty() || name == "silu" || name == "swish") {
    c->activation = limit && *limit > 0 ? Activation::kSiluClamp : Activation::kSilu;
  } else if (name == "gelu") {
    c->activation = Activation::kGelu;
  } else if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_tanh") {
    c->activation = Activation::kGeluTanh;
  } else if (name == "relu2") {
    c->activation = Activation::kRelu2;
    c->gated = false;
  } else if (name == "swigluoai") {
    c->activation = Activation::kSwigluOai;
  } else {
    in.unsupported("the activation " + in_quotes(name) + " is none of moejit's");
  }
  if (limit && *limit > 0) c->swiglu_limit = *limit;
  c->swiglu_alpha = in.number({"swiglu_alpha"}).value_or(c->swiglu_alpha);
}

void read_router(HfFields& in, std::string_view model_type, RouterConfig* r) {
  const FamilyRule family = family_of(model_type);
  r->order = family.order;
  r->scoring = family.scoring;
  const std::string scoring = in.text({"scoring_func", "moe_router_activation_func"});
  if (scoring == "softmax") {
    r->scoring = Scoring::kSoftmax;
  } else if (scoring == "sigmoid") {
    r->scoring = Scoring::kSigmoid;
  } else if (scoring == "sqrtsoftplus") {
    r->scoring = Scoring::kSqrtSoftplus;
  } else if (!scoring.empty()) {
    in.unsupported("the router's score " + in_quotes(scoring) + " is none of moejit's");
  }
  const std::string method = in.text({"topk_method"});
  const std::optional<bool> bias =
      in.flag({"use_routing_bias", "use_moe_router_bias", "use_expert_bias", "moe_use_aux_free"});
  if (!method.empty() && method != "noaux_tc" && method != "greedy" &&
      method != "group_limited_greedy") {
    in.unsupported("topk_method = " + in_quotes(method) +
                   ": must be noaux_tc, greedy or group_limited_greedy");
  }
  r->correction_bias =
      !method.empty() ? method == "noaux_tc" : bias.value_or(family.correction_bias);
  if (method != "greedy") {
    r->n_group = std::max(1, in.integer({"n_group", "num_expert_group"}).value_or(1));
    r->topk_group = std::max(1, in.integer({"topk_group"}).value_or(1));
  }
  r->renormalize = in.flag({"norm_topk_prob", "moe_renormalize", "moe_normalize_expert_weights"})
                       .value_or(family.renormalize);
  r->scaling_factor =
      in.number({"routed_scaling_factor", "moe_router_scaling_factor"}).value_or(1.0);
}

void warn(const std::string& message) {
  internal::log_once(internal::LogLevel::kWarning, "config.json", message, message);
}

// `dtype` is what transformers 5 writes, and reads before the older name.
void read_dtype(HfFields& in, MoeConfig* c) {
  std::string name = in.text({"dtype", "torch_dtype"});
  if (name.rfind("torch.", 0) == 0) name.erase(0, 6);
  if (name == "float16") {
    c->dtype = DType::kF16;
  } else if (name == "float32") {
    c->dtype = DType::kF32;
  } else if (!name.empty() && name != "bfloat16" && name != "auto") {
    warn("dtype = " + in_quotes(name) +
         ": is none of bfloat16, float16 and float32; taken as bf16");
  }
}

// What a layer can be made of, and yet is not all that the file asks for.
void warn_of_more(const HfFields& in, std::string_view model_type) {
  if (in.has("quantization_config"))
    warn("quantization_config: quantised weights are not supported; the layer has whole ones");
  if (model_type.rfind("phimoe", 0) == 0)
    warn("model_type = \"phimoe\": its router is none of moejit's; give ids and weights");
}

}  // namespace

Result<MoeConfig> config_from_hf_json(std::string_view text) {
  Result<json> root = internal::parse_json(without_python_numbers(text));
  if (!root.ok()) {
    return Status(StatusCode::kDataError, "config.json: " + root.status().message());
  }
  if (!root->is_object()) return Status(StatusCode::kDataError, "config.json: must be an object");
  HfFields in(language_block(*root), *root);
  const std::string model_type = read_model_type(in);
  MoeConfig c;
  c.num_experts = in.required("the number of experts", kExpertKeys);
  c.top_k = in.required("the experts per token", kTopKKeys);
  c.hidden_size = in.required("the hidden size", kHiddenKeys);
  c.intermediate_size = in.required("the experts' intermediate size", kWidthKeys);
  read_dtype(in, &c);
  read_activation(in, model_type, &c);
  read_router(in, model_type, &c.router);
  c.weight_on_input = model_type.rfind("llama4", 0) == 0;
  MOEJIT_RETURN_IF_ERROR(in.status());
  if (const Status status = c.check(); !status.ok()) {
    return Status(status.code(), "config.json: " + status.message());
  }
  warn_of_more(in, model_type);
  return c;
}

}  // namespace v1
}  // namespace moejit
