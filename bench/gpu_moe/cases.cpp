#include "cases.h"

namespace moejit::gpu_bench {
namespace {

MoeConfig make(int experts, int top_k, int hidden, int intermediate, DType dtype = DType::kBF16) {
  MoeConfig c;
  c.num_experts = experts;
  c.top_k = top_k;
  c.hidden_size = hidden;
  c.intermediate_size = intermediate;
  c.dtype = dtype;
  return c;
}

}  // namespace

std::vector<CheckCase> check_cases() {
  std::vector<CheckCase> cases;
  const auto add = [&](std::string name, MoeConfig config, std::vector<int64_t> tokens,
                       std::string routing = "uniform") {
    cases.push_back({std::move(name), std::move(config), std::move(tokens), std::move(routing)});
  };
  add("plain", make(8, 2, 256, 512), {1, 2, 7, 33, 200});
  add("fine", make(64, 8, 512, 192), {1, 5, 64, 300});
  add("many", make(1000, 4, 256, 128), {1, 40, 600});
  add("tails", make(5, 3, 1048, 184), {1, 3, 65, 257});
  add("tails_small", make(4, 1, 40, 24), {1, 2, 130});
  add("odd", make(16, 4, 2880, 704), {1, 9, 100});
  add("f16", make(8, 2, 384, 320, DType::kF16), {1, 17, 150});
  add("f32", make(8, 2, 260, 132, DType::kF32), {1, 17, 150});
  add("one_expert", make(8, 2, 256, 256), {70, 1500}, "one");
  add("skewed", make(32, 4, 256, 256), {16, 500}, "zipf:1.2");
  add("skip", make(16, 4, 256, 256), {1, 30, 300}, "skip");
  for (int a = 1; a <= 5; ++a) {
    MoeConfig c = make(8, 2, 256, 264);
    c.activation = static_cast<Activation>(a);
    add(std::string("act_") + to_string(c.activation), c, {3, 90});
  }
  MoeConfig c = make(8, 2, 256, 264);
  c.gated = false;
  c.activation = Activation::kRelu2;
  add("ungated", c, {1, 5, 90});
  c.bias = true;
  add("ungated_bias", c, {5, 90});
  c = make(8, 2, 256, 264);
  c.bias = true;
  add("bias", c, {1, 90});
  c.interleaved = true;
  add("bias_interleaved", c, {2, 90});
  c.up_first = true;
  add("bias_interleaved_up_first", c, {2, 90});
  c.interleaved = false;
  add("bias_up_first", c, {2, 90});
  c.transposed = true;
  add("bias_up_first_transposed", c, {2, 90});
  c.up_first = false;
  c.interleaved = true;
  c.activation = Activation::kSwigluOai;
  add("gpt_oss_like", c, {1, 2, 90, 300});
  c.gated = false;
  c.interleaved = false;
  c.activation = Activation::kSilu;
  add("ungated_transposed", c, {2, 90});
  c = make(8, 2, 256, 264);
  c.weight_on_input = true;
  c.bias = true;
  add("weight_on_input", c, {2, 90});
  c = make(8, 2, 256, 264);
  c.num_shared_experts = 2;
  add("shared", c, {1, 9, 200, 700});
  add("large", make(16, 4, 1024, 1024), {1024, 3000});
  return cases;
}

std::vector<Layer> layers() {
  std::vector<Layer> all;
  for (const char* name : {"mixtral-8x7b", "qwen3-30b-a3b", "qwen2-57b-a14b", "qwen2-57b-a14b-top4",
                           "deepseek-v3", "gpt-oss-120b"}) {
    auto preset = find_model_preset(name);
    if (!preset.ok()) continue;
    MoeConfig config = preset->config;
    config.num_shared_experts = 0;
    all.push_back({name, config});
  }
  return all;
}

}  // namespace moejit::gpu_bench
