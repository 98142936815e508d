// MoeConfig::from_json: whatever is accepted passes check() and survives a round trip unchanged.
#include "moejit/config.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = moejit::MoeConfig::from_json({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    FUZZ_CHECK(!config.status().message().empty());
    return 0;
  }
  FUZZ_CHECK(config->check().ok());
  const std::string text = config->to_json();
  const auto again = moejit::MoeConfig::from_json(text);
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(*again == *config);
  FUZZ_CHECK(again->to_json() == text);
  for (int32_t tp : {1, 2, 3, 8}) {
    const auto shard = moejit::shard_tensor_parallel(*config, tp);
    FUZZ_CHECK(!shard.ok() || shard->check().ok());
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds = {
      R"({"num_experts":8,"top_k":2,"hidden_size":64,"intermediate_size":32})",
      R"({"num_experts":8,"top_k":2,"hidden_size":64,"intermediate_size":32,"router":{"n_group":4,)"
      R"("topk_group":2,"scoring":"sigmoid","scaling_factor":2.5e0,"correction_bias":true}})",
      R"( {"top_k":1,"num_experts":1,"hidden_size":8,"intermediate_size":8,"dtype":"f16",)"
      R"("activation":"relu2","gated":false,"swiglu_alpha":-0,"swiglu_limit":1E-30} )",
      "[[[[{}]]]]",
      R"({"a":"\ud83d\ude00\u0000"})",
  };
  for (const auto& preset : moejit::model_presets()) {
    if (preset.name[0] < 'e') seeds.push_back(preset.config.to_json());
  }
  return seeds;
}
