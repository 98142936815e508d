// config_from_hf_json: any text gives a valid config or a message.
#include "moejit/config.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = moejit::config_from_hf_json({reinterpret_cast<const char*>(data), size});
  if (config.ok()) {
    FUZZ_CHECK(config->check().ok());
    FUZZ_CHECK(moejit::MoeConfig::from_json(config->to_json()).ok());
  } else {
    FUZZ_CHECK(config.status().message().rfind("config.json: ", 0) == 0);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"model_type":"deepseek_v3","hidden_size":7168,"moe_intermediate_size":2048,)"
      R"("n_routed_experts":256,"num_experts_per_tok":8,"n_group":8,"topk_group":4,)"
      R"("topk_method":"noaux_tc","scoring_func":"sigmoid","norm_topk_prob":true,)"
      R"("routed_scaling_factor":2.5})",
      R"({"model_type":"x","text_config":{"model_type":"gpt_oss","hidden_size":64,)"
      R"("intermediate_size":64,"num_local_experts":8,"experts_per_token":4,"swiglu_limit":7.0}})",
      R"({"d_model":64,"ffn_config":{"ffn_hidden_size":64,"moe_num_experts":16,"moe_top_k":4,)"
      R"("moe_normalize_expert_weights":1}})",
      R"({"num_experts":[8,8],"moe_topk":[2,2],"hidden_size":64,"moe_intermediate_size":[32],)"
      R"("x":[NaN,-Infinity,Infinity,"NaN\"NaN"],"torch_dtype":"float32"})",
      R"({"architectures":["Qwen3MoeForCausalLM"],"num_experts":8,"num_experts_per_tok":2,)"
      R"("hidden_size":64,"intermediate_size":32,"mlp_hidden_act":"relu2"})",
      R"({"text_config":{"thinker_config":{"text_config":null}},"num_experts":1e3})",
  };
}
