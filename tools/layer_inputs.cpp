#include "tools/layer_inputs.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/nearest.h"
#include "base/small_float.h"

namespace moejit::tools {
namespace {

using internal::TensorType;
using internal::TensorView;

constexpr int64_t kAlignment = 16;
const std::vector<std::string> kNames = {
    "x", "w13", "w2", "b13", "b2", "topk_ids", "topk_weights", "router_logits", "correction_bias"};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  }
  return text + "]";
}

// Reads one tensor after another; the first failure stays.
class Reader {
 public:
  Reader(const internal::SafeTensors& file, const MoeConfig& config)
      : file_(file), config_(config) {}

  const Status& status() const { return status_; }
  bool has(const std::string& name) const { return file_.tensors().contains(name); }
  void fail(const std::string& name, const std::string& rule) {
    if (status_.ok()) status_ = invalid_argument("tensor " + name + ": " + rule);
  }

  // The view, checked; an empty one after a failure. `meaning` explains the shape: "[T, H]".
  TensorView get(const std::string& name, const std::vector<TensorType>& types,
                 const std::vector<int64_t>& shape, const std::string& meaning) {
    if (!status_.ok()) return {};
    const auto found = file_.tensors().find(name);
    if (found == file_.tensors().end()) {
      fail(name, "is missing; must be " + type_names(types) + " " + meaning);
      return {};
    }
    const TensorView& view = found->second;
    if (std::find(types.begin(), types.end(), view.type) == types.end()) {
      fail(name, "is " + describe(view) + "; its type must be " + type_names(types));
    } else if (view.shape != shape) {
      fail(name,
           "is " + describe(view) + "; its shape must be " + shape_text(shape) + ", " + meaning);
    }
    return status_.ok() ? view : TensorView{};
  }

  TensorView get_in_dtype(const std::string& name, const std::vector<int64_t>& shape,
                          const std::string& meaning) {
    return get(name, {tensor_type(config_.dtype)}, shape, meaning);
  }

  std::vector<float> get_floats(const std::string& name, const std::vector<int64_t>& shape,
                                const std::string& meaning) {
    const TensorView view =
        get(name, {TensorType::kF32, TensorType::kBF16, TensorType::kF16}, shape, meaning);
    if (!status_.ok()) return {};
    std::vector<float> values(static_cast<size_t>(view.bytes / internal::size_of(view.type)));
    const auto* bytes = static_cast<const char*>(view.data);
    if (view.type == TensorType::kF32) {
      if (!values.empty()) std::memcpy(values.data(), bytes, values.size() * sizeof(float));
      return values;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
      values[i] = view.type == TensorType::kBF16 ? internal::bf16_to_float(bits)
                                                 : internal::f16_to_float(bits);
    }
    return values;
  }

  std::vector<int32_t> get_ids(const std::string& name, const std::vector<int64_t>& shape,
                               const std::string& meaning, bool strict) {
    const TensorView view = get(name, {TensorType::kI32, TensorType::kI64}, shape, meaning);
    if (!status_.ok()) return {};
    const int64_t width = internal::size_of(view.type);
    std::vector<int32_t> ids(static_cast<size_t>(view.bytes / width));
    const auto* bytes = static_cast<const char*>(view.data);
    for (size_t i = 0; i < ids.size(); ++i) {
      int64_t id = 0;
      if (view.type == TensorType::kI64) {
        std::memcpy(&id, bytes + i * sizeof id, sizeof id);
      } else {
        int32_t narrow = 0;
        std::memcpy(&narrow, bytes + i * sizeof narrow, sizeof narrow);
        id = narrow;
      }
      if (strict && (id < 0 || id >= config_.num_experts)) {
        const size_t k = static_cast<size_t>(config_.top_k);
        fail(name + "[" + std::to_string(i / k) + ", " + std::to_string(i % k) + "]",
             "is " + std::to_string(id) + "; with --strict an id must be from 0 to " +
                 std::to_string(config_.num_experts - 1));
        return {};
      }
      const bool fits =
          id >= std::numeric_limits<int32_t>::min() && id <= std::numeric_limits<int32_t>::max();
      ids[i] = fits ? static_cast<int32_t>(id) : -1;
    }
    return ids;
  }

  void check_names() {
    for (const auto& [name, view] : file_.tensors()) {
      if (std::find(kNames.begin(), kNames.end(), name) != kNames.end()) continue;
      const auto near = internal::nearest_names(name, kNames, 1);
      fail(name, near.empty() ? "is unknown; the layer takes " + internal::join(kNames)
                              : "is unknown; did you mean " + near.front() + "?");
    }
  }

 private:
  static std::string type_names(const std::vector<TensorType>& types) {
    std::vector<std::string> names;
    for (const TensorType type : types) names.emplace_back(to_string(type));
    return internal::join(names, " or ");
  }

  const internal::SafeTensors& file_;
  const MoeConfig& config_;
  Status status_;
};

// T is what x says it is; everything else follows.
int64_t count_tokens(const internal::SafeTensors& file) {
  const auto x = file.tensors().find("x");
  return x == file.tensors().end() || x->second.shape.empty() ? 0 : x->second.shape[0];
}

void read_routing(Reader& reader, const MoeConfig& config, bool strict, LayerInputs* inputs) {
  const int64_t tokens = inputs->num_tokens, k = config.top_k, experts = config.num_experts;
  const bool logits = reader.has("router_logits"), chosen = reader.has("topk_ids");
  inputs->routed = logits && !chosen;
  if (logits && chosen) {
    reader.fail("router_logits", "was given with topk_ids; the layer takes one or the other");
  } else if (!logits && !chosen) {
    reader.fail("topk_ids",
                "is missing, and so is router_logits; the layer takes topk_ids with "
                "topk_weights, or router_logits");
  } else if (inputs->routed) {
    if (reader.has("topk_weights")) reader.fail("topk_weights", "was given without topk_ids");
    inputs->router_logits =
        reader.get_floats("router_logits", {tokens, experts}, "[T, num_experts]");
    if (config.router.correction_bias) {
      inputs->correction_bias = reader.get_floats("correction_bias", {experts}, "[num_experts]");
    }
  } else {
    inputs->topk_ids = reader.get_ids("topk_ids", {tokens, k}, "[T, top_k]", strict);
    inputs->topk_weights = reader.get_floats("topk_weights", {tokens, k}, "[T, top_k]");
  }
  if (reader.has("correction_bias") && !config.router.correction_bias) {
    reader.fail("correction_bias", "was given, but router.correction_bias of the config is false");
  }
}

}  // namespace

internal::TensorType tensor_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return TensorType::kF32;
    case DType::kBF16:
      return TensorType::kBF16;
    case DType::kF16:
      break;
  }
  return TensorType::kF16;
}

Result<LayerInputs> read_layer_inputs(const internal::SafeTensors& file, const MoeConfig& config,
                                      bool strict) {
  LayerInputs inputs;
  inputs.num_tokens = count_tokens(file);
  const int64_t experts = config.total_experts(), hidden = config.hidden_size;
  const int64_t rows = config.w13_rows(), inner = config.intermediate_size;
  const std::string e =
      config.num_shared_experts > 0 ? "num_experts + num_shared_experts" : "num_experts";
  const std::string r = config.gated ? "2 intermediate_size" : "intermediate_size";
  using Shape = std::vector<int64_t>;

  Reader reader(file, config);
  reader.check_names();
  inputs.x = reader.get_in_dtype("x", {inputs.num_tokens, hidden}, "[T, hidden_size]");
  if (config.transposed) {
    inputs.w13 = reader.get_in_dtype("w13", Shape{experts, hidden, rows},
                                     "[" + e + ", hidden_size, " + r + "], as transposed says");
    inputs.w2 =
        reader.get_in_dtype("w2", Shape{experts, inner, hidden},
                            "[" + e + ", intermediate_size, hidden_size], as transposed says");
  } else {
    inputs.w13 = reader.get_in_dtype("w13", Shape{experts, rows, hidden},
                                     "[" + e + ", " + r + ", hidden_size]");
    inputs.w2 = reader.get_in_dtype("w2", Shape{experts, hidden, inner},
                                    "[" + e + ", hidden_size, intermediate_size]");
  }
  if (config.bias) {
    inputs.b13 = reader.get_in_dtype("b13", Shape{experts, rows}, "[" + e + ", " + r + "]");
    inputs.b2 = reader.get_in_dtype("b2", Shape{experts, hidden}, "[" + e + ", hidden_size]");
  } else {
    for (const char* name : {"b13", "b2"}) {
      if (reader.has(name)) reader.fail(name, "was given, but bias of the config is false");
    }
  }
  read_routing(reader, config, strict, &inputs);
  if (!reader.status().ok()) return reader.status();
  return inputs;
}

Result<Placed> place(const internal::Device& device, const void* host, int64_t bytes) {
  const internal::BackendKind kind = device.info().target.backend;
  const bool on_host = kind == internal::BackendKind::kCpu || kind == internal::BackendKind::kSim;
  const bool aligned = reinterpret_cast<uintptr_t>(host) % kAlignment == 0;
  if (on_host && aligned && bytes > 0) return Placed{nullptr, const_cast<void*>(host)};
  auto memory = device.allocate(static_cast<size_t>(std::max(bytes, kAlignment)));
  if (!memory.ok()) return memory.status();
  if (bytes > 0) {
    MOEJIT_RETURN_IF_ERROR(device.copy_in(memory->get(), host, static_cast<size_t>(bytes)));
  }
  return Placed{*memory, memory->get()};
}

}  // namespace moejit::tools
