#include <cstdlib>
#include <ostream>

#include "tests/generators/problem.h"

namespace moejit_test {
namespace {

using moejit::Activation;
using moejit::DType;
using moejit::MoeConfig;
using moejit::RouterOrder;
using moejit::Scoring;

MoeConfig base(int32_t experts, int32_t top_k, int32_t hidden, int32_t intermediate) {
  return {.num_experts = experts,
          .top_k = top_k,
          .hidden_size = hidden,
          .intermediate_size = intermediate};
}

template <typename Change>
MoeConfig with(MoeConfig config, Change change) {
  change(config);
  return config;
}

void add_widths(std::vector<NamedConfig>* list) {
  list->push_back({"one_expert", base(1, 1, 8, 8)});
  list->push_back({"smallest_rows", base(4, 2, 8, 8)});
  list->push_back({"plain", base(8, 2, 128, 64)});
  list->push_back({"inter_176", base(8, 2, 128, 176)});
  list->push_back({"inter_192", base(8, 4, 256, 192)});
  list->push_back({"inter_704", base(4, 2, 64, 704)});
  list->push_back({"inter_1408", base(4, 2, 48, 1408)});
  list->push_back({"hidden_2688", base(4, 2, 2688, 40)});
  list->push_back({"hidden_2880", base(4, 2, 2880, 24)});
  list->push_back({"odd_rows", base(5, 3, 136, 56)});
  list->push_back({"experts_1024", base(1024, 32, 16, 8)});
  list->push_back({"experts_96_top_22", base(96, 22, 64, 24)});
}

void add_dtypes(std::vector<NamedConfig>* list) {
  for (DType dtype : {DType::kF32, DType::kF16}) {
    const std::string name = moejit::to_string(dtype);
    const int32_t step = 16 / moejit::size_of(dtype);
    const auto set = [&](MoeConfig& c) { c.dtype = dtype; };
    list->push_back({name + "_plain", with(base(8, 2, 128, 64), set)});
    list->push_back({name + "_odd_rows", with(base(5, 3, 17 * step, 11 * step), set)});
    list->push_back({name + "_smallest", with(base(3, 2, step, step), set)});
    list->push_back({name + "_transposed_bias", with(base(6, 2, 72, 40), [&](MoeConfig& c) {
                       c.dtype = dtype;
                       c.transposed = c.bias = true;
                     })});
  }
}

void add_activations(std::vector<NamedConfig>* list) {
  for (int32_t a = 0; a <= static_cast<int32_t>(Activation::kSiluClamp); ++a) {
    const auto activation = static_cast<Activation>(a);
    for (bool gated : {true, false}) {
      if (!gated && activation == Activation::kSwigluOai) continue;
      list->push_back({std::string(moejit::to_string(activation)) + (gated ? "" : "_no_gate"),
                       with(base(6, 3, 72, 88), [&](MoeConfig& c) {
                         c.activation = activation;
                         c.gated = gated;
                         c.bias = true;
                         c.swiglu_limit = 0.75;  // low, so that many values meet it
                       })});
    }
  }
}

void add_layouts(std::vector<NamedConfig>* list) {
  for (int bits = 1; bits < 8; ++bits) {
    for (bool bias : {false, true}) {
      const MoeConfig c = with(base(6, 2, 88, 72), [&](MoeConfig& config) {
        config.transposed = bits & 1;
        config.interleaved = bits & 2;
        config.up_first = bits & 4;
        config.bias = bias;
      });
      list->push_back({std::string("layout") + (c.transposed ? "_transposed" : "") +
                           (c.interleaved ? "_interleaved" : "") + (c.up_first ? "_up_first" : "") +
                           (bias ? "_bias" : ""),
                       c});
    }
  }
  list->push_back({"no_gate_transposed", with(base(6, 2, 88, 72), [](MoeConfig& c) {
                     c.gated = false;
                     c.transposed = c.bias = true;
                   })});
}

void add_features(std::vector<NamedConfig>* list) {
  list->push_back(
      {"shared_1", with(base(8, 2, 64, 48), [](MoeConfig& c) { c.num_shared_experts = 1; })});
  list->push_back({"shared_2_bias", with(base(8, 2, 64, 48), [](MoeConfig& c) {
                     c.num_shared_experts = 2;
                     c.bias = true;
                   })});
  list->push_back(
      {"shared_32", with(base(992, 4, 16, 8), [](MoeConfig& c) { c.num_shared_experts = 32; })});
  for (bool bias : {false, true}) {
    list->push_back({bias ? "weight_on_input_bias" : "weight_on_input",
                     with(base(8, 2, 64, 48), [&](MoeConfig& c) {
                       c.weight_on_input = true;
                       c.bias = bias;
                       c.num_shared_experts = bias ? 1 : 0;
                     })});
  }
  list->push_back({"gpt_oss_like", with(base(16, 4, 184, 184), [](MoeConfig& c) {
                     c.activation = Activation::kSwigluOai;
                     c.bias = c.transposed = c.interleaved = true;
                     c.router.order = RouterOrder::kTopkThenScore;
                   })});
  list->push_back({"nemotron_like", with(base(24, 6, 168, 232), [](MoeConfig& c) {
                     c.activation = Activation::kRelu2;
                     c.gated = false;
                   })});
}

std::vector<NamedConfig> make_core() {
  std::vector<NamedConfig> list;
  add_widths(&list);
  add_dtypes(&list);
  add_activations(&list);
  add_layouts(&list);
  add_features(&list);
  return list;
}

std::vector<NamedConfig> make_routers() {
  struct Groups {
    int32_t n, topk;
  };
  std::vector<NamedConfig> list;
  for (Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid, Scoring::kSqrtSoftplus}) {
    for (RouterOrder order : {RouterOrder::kScoreThenTopk, RouterOrder::kTopkThenScore}) {
      for (bool bias : {false, true}) {
        for (Groups groups : {Groups{1, 1}, Groups{8, 3}, Groups{24, 9}}) {
          for (bool renormalize : {false, true}) {
            MoeConfig c = base(24, 6, 16, 8);
            c.router = {.scoring = scoring,
                        .order = order,
                        .correction_bias = bias,
                        .n_group = groups.n,
                        .topk_group = groups.topk,
                        .renormalize = renormalize,
                        .scaling_factor = renormalize ? 2.5 : 1.0};
            list.push_back({std::string(moejit::to_string(scoring)) + "_" +
                                moejit::to_string(order) + (bias ? "_bias" : "") + "_g" +
                                std::to_string(groups.n) + (renormalize ? "_renorm" : ""),
                            c});
          }
        }
      }
    }
  }
  MoeConfig wide = base(1024, 32, 8, 8);
  wide.router = {.scoring = Scoring::kSigmoid, .correction_bias = true, .renormalize = true};
  list.push_back({"experts_1024", wide});
  MoeConfig all = base(7, 7, 8, 8);  // every expert is chosen; E is no power of two
  list.push_back({"all_of_7", all});
  list.push_back({"softmax_128", base(128, 8, 8, 8)});
  MoeConfig many = base(256, 8, 8, 8);
  many.router = {.scoring = Scoring::kSigmoid,
                 .order = RouterOrder::kScoreThenTopk,
                 .correction_bias = true,
                 .renormalize = true};
  list.push_back({"sigmoid_256", many});
  return list;
}

}  // namespace

int test_level() {
  const char* text = getenv("MOEJIT_TEST_LEVEL");
  const int level = text == nullptr ? 1 : atoi(text);
  return level < 1 ? 1 : level > 3 ? 3 : level;
}

void PrintTo(const NamedConfig& named, std::ostream* out) {
  *out << named.name << " " << named.config.to_json();
}

const std::vector<NamedConfig>& core_configs() {
  static const std::vector<NamedConfig> list = make_core();
  return list;
}

const std::vector<NamedConfig>& router_configs() {
  static const std::vector<NamedConfig> list = make_routers();
  return list;
}

}  // namespace moejit_test
