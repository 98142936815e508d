#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "moejit/config.h"

namespace moejit {
namespace {

TEST(Presets, AreSortedValidAndSourced) {
  const std::vector<ModelPreset>& presets = model_presets();
  ASSERT_GE(presets.size(), 40u);
  for (size_t i = 0; i < presets.size(); ++i) {
    const ModelPreset& p = presets[i];
    EXPECT_TRUE(p.config.check().ok()) << p.name;
    EXPECT_GT(p.source.size(), 10u) << p.name;
    EXPECT_GE(p.moe_layers, 0) << p.name;
    EXPECT_EQ(p.config.num_shared_experts, 0) << p.name;
    EXPECT_EQ(p.config.dtype, DType::kBF16) << p.name;
    if (i > 0) {
      EXPECT_LT(presets[i - 1].name, p.name);
    }
    for (char c : p.name) {
      EXPECT_TRUE((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.');
    }
  }
  EXPECT_EQ(&presets, &model_presets());
}

TEST(Presets, AreFoundWithoutCase) {
  Result<ModelPreset> preset = find_model_preset("Qwen3-30B-A3B");
  ASSERT_TRUE(preset.ok()) << preset.status().to_string();
  const MoeConfig want{.num_experts = 128,
                       .top_k = 8,
                       .hidden_size = 2048,
                       .intermediate_size = 768,
                       .router = {.renormalize = true}};
  EXPECT_EQ(preset->config, want);
  EXPECT_EQ(preset->moe_layers, 48);
}

TEST(Presets, UnknownNamesGiveTheNearest) {
  Status status = find_model_preset("mixtral-8x7").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message().find(
                "model = \"mixtral-8x7\": no preset of that name; nearest: mixtral-8x7b"),
            0u);
  status = find_model_preset("deepseekv3").status();
  EXPECT_NE(status.message().find("nearest: deepseek-v3"), std::string::npos);
  status = find_model_preset("").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(find_model_preset(std::string(100000, 'q')).status().code(), StatusCode::kNotFound);
}

TEST(Presets, TheBenchmarkVariantIsMarked) {
  Result<ModelPreset> model = find_model_preset("qwen2-57b-a14b");
  Result<ModelPreset> variant = find_model_preset("qwen2-57b-a14b-top4");
  ASSERT_TRUE(model.ok() && variant.ok());
  EXPECT_EQ(model->config.top_k, 8);
  EXPECT_EQ(variant->config.top_k, 4);
  EXPECT_EQ(variant->note.find("not a published model"), 0u);
  MoeConfig same = variant->config;
  same.top_k = 8;
  EXPECT_EQ(same, model->config);
}

TEST(TensorParallel, DividesTheWidth) {
  const MoeConfig c = find_model_preset("qwen2-57b-a14b")->config;
  Result<MoeConfig> shard = shard_tensor_parallel(c, 4);
  ASSERT_TRUE(shard.ok());
  EXPECT_EQ(shard->intermediate_size, 640);
  MoeConfig back = *shard;
  back.intermediate_size = c.intermediate_size;
  EXPECT_EQ(back, c);
  EXPECT_EQ(*shard_tensor_parallel(c, 1), c);
}

TEST(TensorParallel, NamesTheRuleThatASplitBreaks) {
  const MoeConfig c = find_model_preset("mixtral-8x7b")->config;  // 14336 = 2^11 * 7
  EXPECT_EQ(shard_tensor_parallel(c, 3).status().message(),
            "tp = 3: must divide intermediate_size (14336)");
  EXPECT_EQ(shard_tensor_parallel(c, 0).status().message(),
            "tp = 0: must divide intermediate_size (14336)");
  EXPECT_EQ(shard_tensor_parallel(c, 512 * 7).status().message(),
            "tp = 3584: the shard's intermediate_size = 4: must be between 8 and 16777216");
  MoeConfig odd = c;
  odd.intermediate_size = 24;
  EXPECT_EQ(
      shard_tensor_parallel(odd, 2).status().message(),
      "tp = 2: the shard's intermediate_size = 12: must be a multiple of 8 (16 bytes of bf16)");
  odd.top_k = 0;
  EXPECT_EQ(shard_tensor_parallel(odd, 1).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moejit
