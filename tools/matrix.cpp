#include "tools/matrix.h"

#include <functional>

#include "generator/family.h"

namespace moejit::tools {
namespace {

using internal::BackendKind;
using internal::Family;
using internal::Target;

// Representative targets: the architectures that the templates know, with their documented limits.
const std::vector<Target>& targets() {
  constexpr int64_t kKiB = 1024, kMiB = 1024 * kKiB;
  static const std::vector<Target> all = [=] {
    std::vector<Target> list;
    for (const char* arch : {"x86-64-v3", "x86-64-v4", "x86-64-v4+bf16"}) {
      Target target;
      target.arch = arch;
      target.num_units = 8;
      list.push_back(target);
    }
    struct Gpu {
      BackendKind backend;
      const char* arch;
      int32_t units;
      int64_t l2, shared;
    };
    for (const Gpu& gpu : {Gpu{BackendKind::kCuda, "sm_80", 108, 40 * kMiB, 163 * kKiB},
                           Gpu{BackendKind::kCuda, "sm_89", 128, 72 * kMiB, 99 * kKiB},
                           Gpu{BackendKind::kCuda, "sm_90a", 132, 50 * kMiB, 227 * kKiB},
                           Gpu{BackendKind::kCuda, "sm_100a", 148, 126 * kMiB, 227 * kKiB},
                           Gpu{BackendKind::kHip, "gfx90a", 110, 8 * kMiB, 64 * kKiB},
                           Gpu{BackendKind::kHip, "gfx942", 304, 32 * kMiB, 64 * kKiB},
                           Gpu{BackendKind::kHip, "gfx1100", 48, 6 * kMiB, 64 * kKiB}}) {
      Target target;
      target.backend = gpu.backend;
      target.arch = gpu.arch;
      target.num_units = gpu.units;
      target.l2_bytes = gpu.l2;
      target.shared_bytes = gpu.shared;
      target.registers = 65536;
      list.push_back(target);
    }
    return list;
  }();
  return all;
}

MoeConfig plain_layer(DType dtype) {
  MoeConfig config;
  config.num_experts = 64;
  config.top_k = 8;
  config.hidden_size = 2048;
  config.intermediate_size = 1024;
  config.dtype = dtype;
  return config;
}

// Every value of an enum whose names the config knows, so that a new one shows up by itself.
template <typename T>
std::vector<T> every(Result<T> (*parse)(std::string_view)) {
  std::vector<T> values;
  for (int32_t i = 0; i < 64; ++i) {
    const auto value = static_cast<T>(i);
    const auto known = parse(to_string(value));
    if (known.ok() && *known == value) values.push_back(value);
  }
  return values;
}

// The names of those choices that the family accepts; "all" where it accepts every one, "all but"
// the one that it does not.
template <typename T>
std::string accepted(const std::vector<T>& choices,
                     const std::function<std::string(const T&)>& name,
                     const std::function<bool(const T&)>& accepts) {
  std::string list, refused;
  size_t count = 0;
  for (const T& choice : choices) {
    if (!accepts(choice)) {
      refused = name(choice);
      continue;
    }
    list += (list.empty() ? "" : ", ") + name(choice);
    ++count;
  }
  if (count == choices.size()) return "all";
  if (choices.size() > 4 && count + 1 == choices.size()) return "all but " + refused;
  return list.empty() ? "none" : list;
}

struct Feature {
  const char* name;
  void (*set)(MoeConfig*);
};

constexpr Feature kFeatures[] = {
    {"bias", [](MoeConfig* c) { c->bias = true; }},
    {"not gated", [](MoeConfig* c) { c->gated = false; }},
    {"transposed", [](MoeConfig* c) { c->transposed = true; }},
    {"interleaved", [](MoeConfig* c) { c->interleaved = true; }},
    {"up first", [](MoeConfig* c) { c->up_first = true; }},
    {"packed", [](MoeConfig* c) { c->packed = true; }},
    {"shared experts", [](MoeConfig* c) { c->num_shared_experts = 1; }},
    {"weight on input", [](MoeConfig* c) { c->weight_on_input = true; }},
    {"narrow tails", [](MoeConfig* c) { c->hidden_size = 2688, c->intermediate_size = 176; }},
};

}  // namespace

internal::Table support_matrix() {
  internal::Table table({{"family", "family"},
                         {"arch", "arch"},
                         {"dtypes", "dtypes"},
                         {"activations", "activations"},
                         {"features", "features"}});
  const auto dtypes = every<DType>(dtype_from_string);
  const auto activations = every<Activation>(activation_from_string);
  const std::vector<Feature> features(std::begin(kFeatures), std::end(kFeatures));
  for (const Family* family : internal::families()) {
    for (const Target& target : targets()) {
      const auto runs = [&](const MoeConfig& config) {
        return config.check().ok() && !family->why_not(config, target);
      };
      std::vector<DType> working;
      for (const DType dtype : dtypes) {
        if (runs(plain_layer(dtype))) working.push_back(dtype);
      }
      if (working.empty()) continue;
      const MoeConfig base = plain_layer(working.front());
      std::string dtype_names;
      for (const DType dtype : working) {
        dtype_names += (dtype_names.empty() ? "" : ", ") + std::string(to_string(dtype));
      }
      const std::string activation_names = accepted<Activation>(
          activations, [](const Activation& a) { return std::string(to_string(a)); },
          [&](const Activation& a) {
            MoeConfig config = base;
            config.activation = a;
            return runs(config);
          });
      const std::string feature_names = accepted<Feature>(
          features, [](const Feature& f) { return std::string(f.name); },
          [&](const Feature& f) {
            MoeConfig config = base;
            f.set(&config);
            return runs(config);
          });
      table.add(
          {std::string(family->name()), target.arch, dtype_names, activation_names, feature_names});
    }
  }
  return table;
}

}  // namespace moejit::tools
