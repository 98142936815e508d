#include "moejit/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/json_util.h"
#include "base/nearest.h"

namespace moejit {
inline namespace v1 {
namespace {

using internal::append_json_number;
using internal::in_quotes;
using internal::JsonFields;

constexpr int32_t kMaxExperts = 1024;
constexpr int32_t kMaxTopK = 32;
constexpr int32_t kMaxShared = 32;
// Keeps every product of two extents that a kernel forms for one expert within its integer types,
// at sixty times the widest published model.
constexpr int32_t kMaxExtent = 1 << 24;
constexpr int64_t kMaxWeightBytes = int64_t{1} << 47;  // user half of a 48-bit address space
constexpr int32_t kRowBytes = 16;

template <typename T>
struct Name {
  T value;
  const char* name;
};

constexpr Name<DType> kDTypes[] = {
    {DType::kF32, "f32"}, {DType::kBF16, "bf16"}, {DType::kF16, "f16"}};
constexpr Name<Activation> kActivations[] = {{Activation::kSilu, "silu"},
                                             {Activation::kGelu, "gelu"},
                                             {Activation::kGeluTanh, "gelu_tanh"},
                                             {Activation::kRelu2, "relu2"},
                                             {Activation::kSwigluOai, "swiglu_oai"},
                                             {Activation::kSiluClamp, "silu_clamp"}};
constexpr Name<Scoring> kScorings[] = {{Scoring::kSoftmax, "softmax"},
                                       {Scoring::kSigmoid, "sigmoid"},
                                       {Scoring::kSqrtSoftplus, "sqrtsoftplus"}};
constexpr Name<RouterOrder> kOrders[] = {{RouterOrder::kScoreThenTopk, "score_then_topk"},
                                         {RouterOrder::kTopkThenScore, "topk_then_score"}};

template <typename T, size_t N>
const char* name_of(const Name<T> (&table)[N], T value) {
  for (const Name<T>& row : table) {
    if (row.value == value) return row.name;
  }
  return "unknown";
}

template <typename T, size_t N>
Result<T> value_of(const Name<T> (&table)[N], const char* what, std::string_view name) {
  std::vector<std::string> names;
  for (const Name<T>& row : table) {
    if (name == row.name) return row.value;
    names.push_back(row.name);
  }
  std::string message = in_quotes(name) + " is no " + what + "; known: " + internal::join(names);
  const std::vector<std::string> near = internal::nearest_names(name, names, 1);
  if (!near.empty()) message += "; nearest: " + near[0];
  return Status(StatusCode::kNotFound, std::move(message));
}

template <typename T>
std::string text_of(T value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, double>) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    return internal::json_number(value);
  } else if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<int32_t>(value));
  } else {
    return std::to_string(value);
  }
}

template <typename T>
Status broken(const char* field, T value, const std::string& rule) {
  return invalid_argument(std::string(field) + " = " + text_of(value) + ": must be " + rule);
}

std::string between(int64_t low, int64_t high, const char* what = nullptr) {
  const std::string top =
      what ? std::string(what) + " (" + std::to_string(high) + ")" : std::to_string(high);
  return "between " + std::to_string(low) + " and " + top;
}

template <typename T, size_t N>
Status check_enum(const Name<T> (&table)[N], const char* field, T value) {
  for (const Name<T>& row : table) {
    if (row.value == value) return Status();
  }
  return broken(field, value, "an enum value between 0 and " + std::to_string(N - 1));
}

// Kernels compute in f32, so a parameter must stay finite there.
bool finite_f32(double value) {
  return std::isfinite(static_cast<float>(value));
}
bool positive_f32(double value) {
  return finite_f32(value) && static_cast<float>(value) > 0;
}

Status check_extent(const char* field, int32_t value, DType dtype) {
  const int32_t step = kRowBytes / size_of(dtype);
  if (value < step || value > kMaxExtent) return broken(field, value, between(step, kMaxExtent));
  if (value % step != 0) {
    return broken(
        field, value,
        "a multiple of " + std::to_string(step) + " (16 bytes of " + to_string(dtype) + ")");
  }
  return Status();
}

Status check_activation(const MoeConfig& c) {
  MOEJIT_RETURN_IF_ERROR(check_enum(kActivations, "activation", c.activation));
  if (!c.gated && c.activation == Activation::kSwigluOai) {
    return invalid_argument("gated = false: must be true for activation swiglu_oai");
  }
  if (!finite_f32(c.swiglu_alpha)) {
    return broken("swiglu_alpha", c.swiglu_alpha, "finite as f32");
  }
  if (!positive_f32(c.swiglu_limit)) {
    return broken("swiglu_limit", c.swiglu_limit, "above 0 and finite as f32");
  }
  if (!c.gated && c.interleaved) return broken("interleaved", true, "false where gated is false");
  if (!c.gated && c.up_first) return broken("up_first", true, "false where gated is false");
  return Status();
}

Status check_router(const MoeConfig& c) {
  const RouterConfig& r = c.router;
  MOEJIT_RETURN_IF_ERROR(check_enum(kScorings, "router.scoring", r.scoring));
  MOEJIT_RETURN_IF_ERROR(check_enum(kOrders, "router.order", r.order));
  if (r.n_group < 1 || r.n_group > c.num_experts) {
    return broken("router.n_group", r.n_group, between(1, c.num_experts, "num_experts"));
  }
  if (c.num_experts % r.n_group != 0) {
    return broken("router.n_group", r.n_group,
                  "a divisor of num_experts (" + std::to_string(c.num_experts) + ")");
  }
  if (r.topk_group < 1 || r.topk_group > r.n_group) {
    return broken("router.topk_group", r.topk_group, between(1, r.n_group, "router.n_group"));
  }
  const int32_t open = r.topk_group * (c.num_experts / r.n_group);
  if (c.top_k > open) {
    return broken("top_k", c.top_k,
                  "at most the " + std::to_string(open) + " experts of router.topk_group (" +
                      std::to_string(r.topk_group) + ") groups");
  }
  if (!positive_f32(r.scaling_factor)) {
    return broken("router.scaling_factor", r.scaling_factor, "above 0 and finite as f32");
  }
  return Status();
}

void append_field(std::string* out, const char* name, const std::string& value) {
  if (out->back() != '{') *out += ',';
  *out += '"';
  *out += name;
  *out += "\":";
  *out += value;
}

std::string name_text(const char* name) {
  return internal::json_string(name);
}

Status read_router(const nlohmann::json& value, RouterConfig* router) {
  JsonFields fields(value, "router");
  fields.read_enum<Scoring>("scoring", &router->scoring, [](std::string_view name) {
    return value_of(kScorings, "scoring", name);
  });
  fields.read_enum<RouterOrder>("order", &router->order, [](std::string_view name) {
    return value_of(kOrders, "router order", name);
  });
  fields.read("correction_bias", &router->correction_bias);
  fields.read("n_group", &router->n_group);
  fields.read("topk_group", &router->topk_group);
  fields.read("renormalize", &router->renormalize);
  fields.read("scaling_factor", &router->scaling_factor);
  return fields.finish();
}

}  // namespace

int32_t size_of(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

const char* to_string(DType value) {
  return name_of(kDTypes, value);
}
const char* to_string(Activation value) {
  return name_of(kActivations, value);
}
const char* to_string(Scoring value) {
  return name_of(kScorings, value);
}
const char* to_string(RouterOrder value) {
  return name_of(kOrders, value);
}

Result<DType> dtype_from_string(std::string_view name) {
  return value_of(kDTypes, "dtype", name);
}
Result<Activation> activation_from_string(std::string_view name) {
  return value_of(kActivations, "activation", name);
}

Status MoeConfig::check() const {
  if (num_experts < 1 || num_experts > kMaxExperts) {
    return broken("num_experts", num_experts, between(1, kMaxExperts));
  }
  if (top_k < 1 || top_k > kMaxTopK || top_k > num_experts) {
    return broken(
        "top_k", top_k,
        num_experts < kMaxTopK ? between(1, num_experts, "num_experts") : between(1, kMaxTopK));
  }
  // Before the extents, whose alignment depends on it.
  MOEJIT_RETURN_IF_ERROR(check_enum(kDTypes, "dtype", dtype));
  MOEJIT_RETURN_IF_ERROR(check_extent("hidden_size", hidden_size, dtype));
  MOEJIT_RETURN_IF_ERROR(check_extent("intermediate_size", intermediate_size, dtype));
  MOEJIT_RETURN_IF_ERROR(check_activation(*this));
  if (num_shared_experts < 0 || num_shared_experts > kMaxShared) {
    return broken("num_shared_experts", num_shared_experts, between(0, kMaxShared));
  }
  if (total_experts() > kMaxExperts) {
    return broken("num_shared_experts", num_shared_experts,
                  "at most " + std::to_string(kMaxExperts - num_experts) + ", for " +
                      std::to_string(kMaxExperts) + " experts with num_experts (" +
                      std::to_string(num_experts) + ")");
  }
  // At most 2^10 experts of 2^25 rows of 2^24 elements of 4 bytes: no overflow before the check.
  const int64_t bytes =
      total_experts() * (w13_rows() + intermediate_size) * (int64_t{hidden_size} * size_of(dtype));
  if (bytes > kMaxWeightBytes) {
    return broken("hidden_size", hidden_size,
                  "smaller: w13 and w2 of " + std::to_string(total_experts()) +
                      " experts would take " + std::to_string(bytes) + " bytes, above 2^47");
  }
  return check_router(*this);
}

std::string MoeConfig::to_json() const {
  std::string out = "{";
  append_field(&out, "num_experts", text_of(num_experts));
  append_field(&out, "top_k", text_of(top_k));
  append_field(&out, "hidden_size", text_of(hidden_size));
  append_field(&out, "intermediate_size", text_of(intermediate_size));
  append_field(&out, "dtype", name_text(moejit::to_string(dtype)));
  append_field(&out, "activation", name_text(moejit::to_string(activation)));
  append_field(&out, "gated", text_of(gated));
  append_field(&out, "bias", text_of(bias));
  append_field(&out, "swiglu_alpha", internal::json_number(swiglu_alpha));
  append_field(&out, "swiglu_limit", internal::json_number(swiglu_limit));
  append_field(&out, "transposed", text_of(transposed));
  append_field(&out, "interleaved", text_of(interleaved));
  append_field(&out, "up_first", text_of(up_first));
  // Came after the first caches: left out where false, keys of layers stay what they were.
  if (packed) append_field(&out, "packed", text_of(packed));
  append_field(&out, "num_shared_experts", text_of(num_shared_experts));
  append_field(&out, "weight_on_input", text_of(weight_on_input));
  std::string inner = "{";
  append_field(&inner, "scoring", name_text(moejit::to_string(router.scoring)));
  append_field(&inner, "order", name_text(moejit::to_string(router.order)));
  append_field(&inner, "correction_bias", text_of(router.correction_bias));
  append_field(&inner, "n_group", text_of(router.n_group));
  append_field(&inner, "topk_group", text_of(router.topk_group));
  append_field(&inner, "renormalize", text_of(router.renormalize));
  append_field(&inner, "scaling_factor", internal::json_number(router.scaling_factor));
  append_field(&out, "router", inner + "}");
  return out + "}";
}

Result<MoeConfig> MoeConfig::from_json(std::string_view text) {
  Result<nlohmann::json> parsed = internal::parse_json(text);
  if (!parsed.ok()) return parsed.status();
  MoeConfig config;
  JsonFields fields(*parsed, "");
  for (const char* name : {"num_experts", "top_k", "hidden_size", "intermediate_size"}) {
    fields.require(name);
  }
  fields.read("num_experts", &config.num_experts);
  fields.read("top_k", &config.top_k);
  fields.read("hidden_size", &config.hidden_size);
  fields.read("intermediate_size", &config.intermediate_size);
  fields.read_enum<DType>("dtype", &config.dtype, dtype_from_string);
  fields.read_enum<Activation>("activation", &config.activation, activation_from_string);
  fields.read("gated", &config.gated);
  fields.read("bias", &config.bias);
  fields.read("swiglu_alpha", &config.swiglu_alpha);
  fields.read("swiglu_limit", &config.swiglu_limit);
  fields.read("transposed", &config.transposed);
  fields.read("interleaved", &config.interleaved);
  fields.read("up_first", &config.up_first);
  fields.read("packed", &config.packed);
  fields.read("num_shared_experts", &config.num_shared_experts);
  fields.read("weight_on_input", &config.weight_on_input);
  const nlohmann::json* router = fields.child("router");
  MOEJIT_RETURN_IF_ERROR(fields.finish());
  if (router != nullptr) MOEJIT_RETURN_IF_ERROR(read_router(*router, &config.router));
  MOEJIT_RETURN_IF_ERROR(config.check());
  return config;
}

}  // namespace v1
}  // namespace moejit
