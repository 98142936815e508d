// doctor, models, env, version and the formats: what scripts read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "moejit/config.h"
#include "moejit/moejit.h"
#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(Models, EveryPresetWithItsSource) {
  const auto json = json_of(moejit({"models", "--json"}).out);
  EXPECT_EQ(json["schema"], 1);
  ASSERT_EQ(json["rows"].size(), model_presets().size());
  for (const auto& row : json["rows"]) {
    EXPECT_NE(row["source"], "") << row["name"];
    const auto config = MoeConfig::from_json(row["config"].dump());
    EXPECT_TRUE(config.ok()) << row["name"] << config.status().to_string();
  }
}

TEST(Models, OneByName) {
  const auto json = json_of(moejit({"models", "QWEN3-30B-A3B", "--json"}).out);
  ASSERT_EQ(json["rows"].size(), 1u);
  EXPECT_EQ(json["rows"][0]["num_experts"], 128);
}

TEST(Models, AnUnknownOneIsNotFound) {
  const Output output = moejit({"models", "mixtral-8x8b"});
  EXPECT_EQ(output.code, 3);
  EXPECT_EQ(output.out, "");
  EXPECT_THAT(output.err, HasSubstr("mixtral-8x7b"));
}

TEST(Formats, APipeGetsCsvAndATableOnlyWhenAsked) {
  const Output pipe = moejit({"models"});
  EXPECT_EQ(pipe.out.rfind("name,num_experts,top_k,", 0), 0u);
  const Output table = moejit({"models", "--format", "table"});
  EXPECT_EQ(table.out.rfind("name ", 0), 0u);
  EXPECT_THAT(table.out, Not(HasSubstr("\033")));
}

TEST(Formats, ColorFollowsTheOption) {
  EXPECT_THAT(moejit({"models", "--format", "table", "--color", "always"}).out,
              HasSubstr("\033[1m"));
  // An explicit option is stronger than the variable, as https://no-color.org asks.
  EXPECT_THAT(moejit_with({{"NO_COLOR", "1"}}, {"models", "--format", "table"}).out,
              Not(HasSubstr("\033")));
}

TEST(Env, SaysWhereEachValueComesFrom) {
  const auto json = json_of(
      moejit_with({{"MOEJIT_NUM_THREADS", "3"}, {"MOEJIT_SPIN_US", "x"}}, {"env", "--json"}).out);
  int seen = 0;
  for (const auto& row : json["rows"]) {
    if (row["name"] == "MOEJIT_NUM_THREADS") {
      EXPECT_EQ(row["value"], "3");
      EXPECT_EQ(row["origin"], "environment");
      ++seen;
    }
    if (row["name"] == "MOEJIT_SPIN_US") {
      EXPECT_EQ(row["origin"], "default");
      EXPECT_THAT(row["problem"].get<std::string>(), HasSubstr("MOEJIT_SPIN_US"));
      ++seen;
    }
  }
  EXPECT_EQ(seen, 2);
}

TEST(Doctor, ReportsBackendsAndTheCache) {
  const Output output = moejit({"doctor", "--json"});
  const auto json = json_of(output.out);
  EXPECT_EQ(json["version"], version());
  EXPECT_EQ(json["cache_directory"], (scratch() / "cache").string());
  EXPECT_EQ(json["cache_state"], "writable, not created yet");
  EXPECT_FALSE(std::filesystem::exists(scratch() / "cache")) << "doctor only looks";
  bool cpu = false;
  for (const auto& row : json["rows"]) cpu = cpu || row["backend"] == "cpu";
  EXPECT_TRUE(cpu);
}

TEST(Doctor, ACompilerThatIsMissingIsNamedWithItsPackage) {
  const Output output =
      moejit_with({{"MOEJIT_CPU_MODULE", "/nonexistent/module.so"}}, {"doctor", "--json"});
  const std::string ready = json_of(output.out)["ready"];
  EXPECT_THAT(ready, HasSubstr("only kernels of the cache"));
  EXPECT_THAT(ready, HasSubstr("/nonexistent/module.so"));
}

TEST(Version, EveryFormat) {
  const std::string number = version();
  EXPECT_EQ(moejit({"version", "--format", "table"}).out, "moejit " + number + "\n");
  EXPECT_EQ(moejit({"--version"}).out, "moejit " + number + "\n");
  EXPECT_EQ(moejit({"version", "--format", "csv"}).out, "version\n" + number + "\n");
  EXPECT_EQ(json_of(moejit({"version", "--json"}).out)["version"], number);
}

}  // namespace
}  // namespace moejit::cli_test
