// Which layer the selectors name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;

// The layer that a verb understood.
nlohmann::json layer_of(std::vector<std::string> selectors, const std::string& input = "") {
  Invocation invocation;
  invocation.args = {"explain", "--json", "--device", "cpu", "-t", "1"};
  invocation.args.insert(invocation.args.end(), selectors.begin(), selectors.end());
  invocation.environment = private_environment();
  invocation.input = input;
  const Output output = invoke(invocation);
  EXPECT_EQ(output.code, 0) << output.err;
  return json_of(output.out)["config"];
}

TEST(Select, APresetAndItsShard) {
  const auto whole = layer_of({"--model", "mixtral-8x7b"});
  EXPECT_EQ(whole["num_experts"], 8);
  EXPECT_EQ(whole["intermediate_size"], 14336);
  const auto shard = layer_of({"--model", "mixtral-8x7b", "--tp", "4"});
  EXPECT_EQ(shard["intermediate_size"], 14336 / 4);
}

TEST(Select, SingleFieldsReplaceThoseOfAPreset) {
  const auto layer = layer_of({"--model", "deepseek-v3", "--experts", "64", "--dtype", "f16"});
  EXPECT_EQ(layer["num_experts"], 64);
  EXPECT_EQ(layer["hidden_size"], 7168);
  EXPECT_EQ(layer["dtype"], "f16");
}

TEST(Select, ACheckoutOfAModel) {
  write_text(scratch() / "config.json",
             R"({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
    "hidden_size": 128, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2,
    "num_hidden_layers": 2, "hidden_act": "silu", "torch_dtype": "bfloat16"})");
  for (const fs::path& path : {scratch(), scratch() / "config.json"}) {
    const auto layer = layer_of({"--model", path.string()});
    EXPECT_EQ(layer["num_experts"], 4) << path;
    EXPECT_EQ(layer["intermediate_size"], 256) << path;
  }
}

TEST(Select, AConfigFromAFileAndFromStdin) {
  const std::string text =
      R"({"num_experts":5,"top_k":3,"hidden_size":64,"intermediate_size":32,"activation":"gelu"})";
  write_text(scratch() / "layer.json", text);
  const auto file = layer_of({"--config", (scratch() / "layer.json").string()});
  EXPECT_EQ(file["activation"], "gelu");
  EXPECT_EQ(layer_of({"--config", "-"}, text), file);
}

}  // namespace
}  // namespace moejit::cli_test
