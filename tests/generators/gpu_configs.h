// Layers that between them use every field of the config; small enough to check in seconds.
#pragma once

#include <string>
#include <vector>

#include "backends/backend.h"
#include "generator/family.h"

namespace moejit::internal {

struct NamedConfig {
  std::string name;
  MoeConfig config;
};
inline std::vector<NamedConfig> gpu_configs() {
  MoeConfig plain;
  plain.num_experts = 8;
  plain.top_k = 2;
  plain.hidden_size = 264;
  plain.intermediate_size = 184;
  std::vector<NamedConfig> all = {{"plain", plain}};
  const auto add = [&](const char* name, auto change) {
    MoeConfig c = plain;
    change(c);
    all.push_back({name, c});
  };
  add("f16", [](MoeConfig& c) { c.dtype = DType::kF16; });
  add("f32", [](MoeConfig& c) { c.dtype = DType::kF32; });
  add("ungated_bias", [](MoeConfig& c) {
    c.gated = false;
    c.bias = true;
    c.activation = Activation::kRelu2;
  });
  add("interleaved_up_first", [](MoeConfig& c) {
    c.interleaved = c.up_first = c.bias = true;
    c.activation = Activation::kSwigluOai;
  });
  add("transposed", [](MoeConfig& c) {
    c.transposed = c.bias = true;
    c.activation = Activation::kGelu;
  });
  add("transposed_interleaved", [](MoeConfig& c) {
    c.transposed = c.interleaved = true;
    c.activation = Activation::kGeluTanh;
  });
  add("shared_weight_on_input", [](MoeConfig& c) {
    c.num_shared_experts = 2;
    c.weight_on_input = true;
    c.activation = Activation::kSiluClamp;
  });
  add("groups", [](MoeConfig& c) {
    c.num_experts = 64;
    c.top_k = 6;
    c.router.scoring = Scoring::kSigmoid;
    c.router.correction_bias = true;
    c.router.n_group = 8;
    c.router.topk_group = 3;
    c.router.renormalize = true;
    c.router.scaling_factor = 2.5;
  });
  return all;
}

}  // namespace moejit::internal
