// What the families' config.json files say about their experts, reduced to those fields, must give
// the layer of the preset; each family spells it differently.
#include <gtest/gtest.h>

#include "base/log.h"
#include "moejit/config.h"

namespace moejit {
namespace {

struct Case {
  const char* preset;
  const char* json;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.preset;
}

std::string case_name(const testing::TestParamInfo<Case>& test) {
  std::string name = test.param.preset;
  for (char& c : name) {
    if (c == '-' || c == '.') c = '_';
  }
  return name;
}

class HfConfig : public testing::TestWithParam<Case> {};

TEST_P(HfConfig, GivesTheLayerOfThePreset) {
  Result<ModelPreset> preset = find_model_preset(GetParam().preset);
  ASSERT_TRUE(preset.ok());
  Result<MoeConfig> config = config_from_hf_json(GetParam().json);
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->to_json(), preset->config.to_json());
}

INSTANTIATE_TEST_SUITE_P(
    Families, HfConfig,
    testing::Values(
        Case{"mixtral-8x7b",
             R"({"model_type":"mixtral","hidden_size":4096,"intermediate_size":14336,
                 "num_local_experts":8,"num_experts_per_tok":2,"hidden_act":"silu",
                 "torch_dtype":"bfloat16","num_hidden_layers":32})"},
        Case{"qwen2-57b-a14b",  // the dense width is not the experts'
             R"({"model_type":"qwen2_moe","hidden_size":3584,"intermediate_size":18944,
                 "moe_intermediate_size":2560,"shared_expert_intermediate_size":20480,
                 "num_experts":64,"num_experts_per_tok":8,"norm_topk_prob":false,
                 "hidden_act":"silu"})"},
        Case{"qwen3-30b-a3b",
             R"({"model_type":"qwen3_moe","hidden_size":2048,"intermediate_size":6144,
                 "moe_intermediate_size":768,"num_experts":128,"num_experts_per_tok":8,
                 "norm_topk_prob":true,"mlp_only_layers":[]})"},
        Case{"qwen3-235b-a22b",  // nested, beside a vision tower with sizes of its own
             R"({"model_type":"qwen3_vl_moe","vision_config":{"hidden_size":1152,"num_experts":3},
                 "text_config":{"model_type":"qwen3_vl_moe_text","hidden_size":4096,
                 "intermediate_size":12288,"moe_intermediate_size":1536,"num_experts":128,
                 "num_experts_per_tok":8,"norm_topk_prob":true,"dtype":"bfloat16"}})"},
        Case{"qwen3.5-397b-a17b",
             R"({"model_type":"qwen3_5_moe","text_config":{"model_type":"qwen3_5_moe_text",
                 "hidden_size":4096,"moe_intermediate_size":1024,"num_experts":512,
                 "num_experts_per_tok":10,"hidden_act":"silu"}})"},
        Case{"olmoe-1b-7b",
             R"({"model_type":"olmoe","hidden_size":2048,"intermediate_size":1024,
                 "num_experts":64,"num_experts_per_tok":8,"norm_topk_prob":false})"},
        Case{"dbrx",
             R"({"model_type":"dbrx","d_model":6144,"ffn_config":{"ffn_hidden_size":10752,
                 "moe_num_experts":16,"moe_top_k":4,"moe_normalize_expert_weights":1}})"},
        Case{"deepseek-v2",
             R"({"model_type":"deepseek_v2","hidden_size":5120,"intermediate_size":12288,
                 "moe_intermediate_size":1536,"n_routed_experts":160,"num_experts_per_tok":6,
                 "n_group":8,"topk_group":3,"topk_method":"group_limited_greedy",
                 "scoring_func":"softmax","norm_topk_prob":false,"routed_scaling_factor":16.0})"},
        Case{"deepseek-v2-lite",
             R"({"model_type":"deepseek_v2","hidden_size":2048,"moe_intermediate_size":1408,
                 "n_routed_experts":64,"num_experts_per_tok":6,"n_group":1,"topk_group":1,
                 "topk_method":"greedy","scoring_func":"softmax","norm_topk_prob":false,
                 "routed_scaling_factor":1.0})"},
        Case{"deepseek-v3",
             R"({"model_type":"deepseek_v3","hidden_size":7168,"intermediate_size":18432,
                 "moe_intermediate_size":2048,"n_routed_experts":256,"num_experts_per_tok":8,
                 "n_group":8,"topk_group":4,"topk_method":"noaux_tc","scoring_func":"sigmoid",
                 "norm_topk_prob":true,"routed_scaling_factor":2.5,"n_shared_experts":1})"},
        Case{"deepseek-v4-flash",
             R"({"model_type":"deepseek_v4","hidden_size":4096,"moe_intermediate_size":2048,
                 "n_routed_experts":256,"num_experts_per_tok":6,"topk_method":"noaux_tc",
                 "scoring_func":"sqrtsoftplus","norm_topk_prob":true,"routed_scaling_factor":1.5,
                 "hidden_act":"silu","swiglu_limit":10.0,"index_topk":512})"},
        Case{"kimi-k2",  // a generation parameter top_k lies beside
             R"({"model_type":"kimi_k25","text_config":{"model_type":"kimi_k2","top_k":50,
                 "hidden_size":7168,"intermediate_size":18432,"moe_intermediate_size":2048,
                 "n_routed_experts":384,"num_experts_per_tok":8,"n_group":1,"topk_group":1,
                 "topk_method":"noaux_tc","scoring_func":"sigmoid","norm_topk_prob":true,
                 "routed_scaling_factor":2.827}})"},
        Case{"glm-4.5-air",
             R"({"model_type":"glm4_moe","hidden_size":4096,"moe_intermediate_size":1408,
                 "n_routed_experts":128,"num_experts_per_tok":8,"n_group":1,"topk_group":1,
                 "norm_topk_prob":true,"routed_scaling_factor":1.0})"},
        Case{"gpt-oss-120b",
             R"({"model_type":"gpt_oss","hidden_size":2880,"intermediate_size":2880,
                 "num_local_experts":128,"num_experts_per_tok":4,"experts_per_token":4,
                 "hidden_act":"silu","swiglu_limit":7.0})"},
        Case{"llama-4-scout",
             R"({"model_type":"llama4","text_config":{"model_type":"llama4_text",
                 "hidden_size":5120,"intermediate_size":8192,"intermediate_size_mlp":16384,
                 "num_local_experts":16,"num_experts_per_tok":1,"hidden_act":"silu"}})"},
        Case{"minimax-m2",
             R"({"model_type":"minimax_m2","hidden_size":3072,"intermediate_size":1536,
                 "num_local_experts":256,"num_experts_per_tok":8,"scoring_func":"sigmoid",
                 "use_routing_bias":true,"shared_intermediate_size":0})"},
        Case{"minimax-m3",
             R"({"model_type":"minimax_m3","hidden_size":6144,"dense_intermediate_size":12288,
                 "moe_intermediate_size":3072,"intermediate_size":3072,"num_local_experts":128,
                 "num_experts_per_tok":4,"scoring_func":"sigmoid","use_routing_bias":true,
                 "routed_scaling_factor":2.0,"hidden_act":"swigluoai","swiglu_alpha":1.702,
                 "swiglu_limit":7.0})"},
        Case{"mimo-v2-flash",  // null is absent
             R"({"model_type":"mimo_v2_flash","hidden_size":4096,"intermediate_size":16384,
                 "moe_intermediate_size":2048,"n_routed_experts":256,"n_shared_experts":null,
                 "num_experts_per_tok":8,"norm_topk_prob":true,"scoring_func":"sigmoid",
                 "n_group":1,"topk_group":1,"topk_method":"noaux_tc",
                 "routed_scaling_factor":null})"},
        Case{"step-3.7-flash",
             R"({"model_type":"step3p7","hidden_size":4096,"intermediate_size":11264,
                 "moe_intermediate_size":1280,"num_experts":288,"num_experts_per_tok":8,
                 "scoring_func":"sigmoid","use_moe_router_bias":true,
                 "moe_router_scaling_factor":3.0})"},
        Case{"hunyuan-a13b",  // lists with one entry per layer
             R"({"model_type":"hunyuan_v1_moe","hidden_size":4096,"intermediate_size":3072,
                 "moe_intermediate_size":[3072,3072,3072],"num_experts":64,
                 "moe_topk":[8,8,8],"norm_topk_prob":true})"},
        Case{"ernie-4.5-21b-a3b",
             R"({"model_type":"ernie4_5_moe","hidden_size":2560,"intermediate_size":12288,
                 "moe_intermediate_size":1536,"moe_num_experts":64,"moe_k":6,
                 "moe_num_shared_experts":2})"},
        Case{"longcat-flash",
             R"({"model_type":"longcat_flash","hidden_size":6144,"ffn_hidden_size":12288,
                 "expert_ffn_hidden_size":2048,"n_routed_experts":512,"moe_topk":12,
                 "routed_scaling_factor":6.0})"},
        Case{"granite-3.0-1b-a400m",
             R"({"model_type":"granitemoe","hidden_size":1024,"intermediate_size":512,
                 "num_local_experts":32,"num_experts_per_tok":8})"},
        Case{"nemotron-3-nano-30b-a3b",  // n_groups belongs to another kind of layer
             R"({"model_type":"nemotron_h","hidden_size":2688,"intermediate_size":1856,
                 "moe_intermediate_size":1856,"n_routed_experts":128,"num_experts_per_tok":6,
                 "n_group":1,"n_groups":8,"topk_group":1,"norm_topk_prob":true,
                 "routed_scaling_factor":2.5,"mlp_hidden_act":"relu2","mamba_hidden_act":"silu",
                 "moe_latent_size":null})"},
        Case{"nemotron-3-super-120b-a12b",  // the latent width; Infinity, as Python writes it
             R"({"model_type":"nemotron_h","hidden_size":4096,"moe_latent_size":1024,
                 "moe_intermediate_size":2688,"n_routed_experts":512,"num_experts_per_tok":22,
                 "n_group":1,"topk_group":1,"norm_topk_prob":true,"routed_scaling_factor":5.0,
                 "mlp_hidden_act":"relu2","time_step_limit":[0.0, Infinity]})"},
        Case{"gemma-4-26b-a4b",
             R"({"model_type":"gemma4","text_config":{"model_type":"gemma4_text",
                 "hidden_size":2816,"intermediate_size":2112,"moe_intermediate_size":704,
                 "num_experts":128,"top_k_experts":8,
                 "hidden_activation":"gelu_pytorch_tanh"}})"}),
    case_name);

TEST(HfConfigOther, TakesUnknownFamiliesByTheirKeys) {
  Result<MoeConfig> c = config_from_hf_json(
      R"({"model_type":"newcomer","hidden_size":64,"intermediate_size":999,
          "moe_intermediate_size":32,"n_routed_experts":8,"num_experts_per_tok":2,
          "scoring_func":"sigmoid","norm_topk_prob":true,"torch_dtype":"float16"})");
  ASSERT_TRUE(c.ok()) << c.status().to_string();
  EXPECT_EQ(c->intermediate_size, 32);
  EXPECT_EQ(c->dtype, DType::kF16);
  EXPECT_EQ(c->router.scoring, Scoring::kSigmoid);
  EXPECT_TRUE(c->router.renormalize);
  EXPECT_FALSE(c->router.correction_bias);
}

TEST(HfConfigOther, TakesTheFamilyFromTheClassWhereNothingElseSays) {
  Result<MoeConfig> c = config_from_hf_json(
      R"({"architectures":["DeepseekV4ForCausalLM"],"hidden_size":64,
          "moe_intermediate_size":32,"n_routed_experts":8,"num_experts_per_tok":2})");
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->router.scoring, Scoring::kSqrtSoftplus);
}

TEST(HfConfigOther, TheNewerNameOfTheTypeComesFirstAndQuantisedWeightsAreSaid) {
  static std::vector<std::string> said;  // each once a process
  internal::set_log_sink([](int, const char* message, void*) { said.push_back(message); }, nullptr);
  const std::string layer =
      R"("hidden_size":64,"intermediate_size":32,"num_experts":8,"num_experts_per_tok":2,)";
  Result<MoeConfig> newer = config_from_hf_json(
      "{" + layer + R"("model_type":"phimoe","torch_dtype":"torch.bfloat16","dtype":"float32",
                       "quantization_config":{"quant_method":"fp8"}})");
  Result<MoeConfig> eight = config_from_hf_json(
      "{" + layer + R"("torch_dtype":"float8_e4m3fn","quantization_config":{}})");
  internal::set_log_sink(nullptr, nullptr);
  ASSERT_TRUE(newer.ok() && eight.ok());
  EXPECT_EQ(newer->dtype, DType::kF32);
  EXPECT_EQ(eight->dtype, DType::kBF16);
  const std::vector<std::string> once = {
      "config.json: quantization_config: quantised weights are not supported; the layer has whole "
      "ones",
      "config.json: model_type = \"phimoe\": its router is none of moejit's; give ids and weights",
      "config.json: dtype = \"float8_e4m3fn\": is none of bfloat16, float16 and float32; taken as "
      "bf16"};
  EXPECT_EQ(said, once);
}

Status error_of(const char* json) {
  return config_from_hf_json(json).status();
}

TEST(HfConfigOther, NamesTheKeyThatIsMissingOrWrong) {
  EXPECT_EQ(error_of(R"({"model_type":"llama","hidden_size":4096,"intermediate_size":11008})")
                .to_string(),
            "DATA_ERROR: config.json: the number of experts: none of its keys is there "
            "(n_routed_experts, num_experts, num_local_experts, moe_num_experts)");
  EXPECT_EQ(error_of(R"({"num_experts":8})").message().substr(0, 36),
            "config.json: the experts per token: ");
  EXPECT_EQ(error_of(R"({"num_experts":"8"})").message(),
            "config.json: num_experts = \"8\": must be an integer from 0 to 2^31 - 1");
  EXPECT_EQ(error_of(R"({"num_experts":[8,16]})").message(),
            "config.json: num_experts = a list: must be the same for all layers");
  EXPECT_EQ(error_of(R"({"num_experts":8,"num_experts_per_tok":2,"hidden_size":64,
                         "intermediate_size":32,"hidden_act":"situ"})")
                .to_string(),
            "UNSUPPORTED: config.json: the activation \"situ\" is none of moejit's");
  EXPECT_EQ(error_of(R"({"num_experts":8,"num_experts_per_tok":2,"hidden_size":64,
                         "intermediate_size":32,"scoring_func":"entmax"})")
                .to_string(),
            "UNSUPPORTED: config.json: the router's score \"entmax\" is none of moejit's");
  EXPECT_EQ(error_of(R"({"num_experts":8,"num_experts_per_tok":9,"hidden_size":64,
                         "intermediate_size":32})")
                .message(),
            "config.json: top_k = 9: must be between 1 and num_experts (8)");
  const std::string layer =
      R"("num_experts":8,"num_experts_per_tok":2,"hidden_size":64,"intermediate_size":32})";
  EXPECT_EQ(error_of((R"({"topk_method":"weird",)" + layer).c_str()).to_string(),
            "UNSUPPORTED: config.json: topk_method = \"weird\": must be noaux_tc, greedy or "
            "group_limited_greedy");
  EXPECT_EQ(error_of("[]").message(), "config.json: must be an object");
  EXPECT_EQ(error_of("{").code(), StatusCode::kDataError);
  EXPECT_EQ(error_of(R"({"num_experts":"Infinity"})").message(),
            "config.json: num_experts = \"Infinity\": must be an integer from 0 to 2^31 - 1");
}

}  // namespace
}  // namespace moejit
