// --packed: every verb on a layer with packed weights, and the device that reads none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Neither H nor I is whole blocks.
std::vector<std::string> on_layer(std::vector<std::string> start,
                                  const std::vector<std::string>& more = {}) {
  for (const char* word :
       {"-E", "4", "-K", "2", "-H", "72", "-I", "40", "--device", "cpu", "--threads", "2"}) {
    start.emplace_back(word);
  }
  start.insert(start.end(), more.begin(), more.end());
  return start;
}

Output tune_quickly(const std::vector<std::string>& more) {
  std::vector<std::string> args = {"-t", "1,4", "--max-candidates", "2"};
  args.insert(args.end(), more.begin(), more.end());
  return moejit(on_layer({"tune", "--json"}, args));
}

nlohmann::json explained(const std::vector<std::string>& more) {
  std::vector<std::string> args = {"-t", "1"};
  args.insert(args.end(), more.begin(), more.end());
  const Output output = moejit(on_layer({"explain", "--json"}, args));
  EXPECT_EQ(output.code, 0) << output.err;
  return json_of(output.out);
}

TEST(PackedLayer, IsTunedOnceAndApartFromTheUnpackedOne) {
  const Output first = tune_quickly({"--packed"});
  ASSERT_EQ(first.code, 0) << first.err;
  const auto json = json_of(first.out);
  EXPECT_EQ(json["config"]["packed"], true);
  ASSERT_EQ(json["rows"].size(), 2u);
  for (const auto& row : json["rows"]) {
    EXPECT_GT(row["median_s"].get<double>(), 0);
    EXPECT_LT(row["error"].get<double>(), 0.01);
    EXPECT_EQ(row["from_cache"], false);
  }
  const auto second = json_of(tune_quickly({"--packed"}).out);
  ASSERT_EQ(second["rows"].size(), 2u);
  for (const auto& row : second["rows"]) EXPECT_EQ(row["from_cache"], true);

  // Nothing is known about the layer without it.
  EXPECT_EQ(moejit(on_layer({"explain", "--require"}, {"-t", "1"})).code, 3);
  const Output plain = tune_quickly({});
  ASSERT_EQ(plain.code, 0) << plain.err;
  const auto unpacked = json_of(plain.out);
  EXPECT_FALSE(unpacked["config"].value("packed", false));
  ASSERT_EQ(unpacked["rows"].size(), 2u);
  for (const auto& row : unpacked["rows"]) EXPECT_EQ(row["from_cache"], false);
  const auto third = json_of(tune_quickly({"--packed"}).out);
  for (const auto& row : third["rows"]) EXPECT_EQ(row["from_cache"], true);
}

TEST(PackedLayer, IsExplainedUnderItsOwnKey) {
  ASSERT_EQ(tune_quickly({"--packed"}).code, 0);
  const auto packed = explained({"--packed", "--require"});
  EXPECT_EQ(packed["config"]["packed"], true);
  ASSERT_EQ(packed["rows"].size(), 1u);
  EXPECT_EQ(packed["rows"][0]["source"], "exact");
  const auto plain = explained({});
  EXPECT_EQ(plain["rows"][0]["source"], "model");
  EXPECT_NE(plain["rows"][0]["key"], packed["rows"][0]["key"]);
}

TEST(PackedLayer, Verifies) {
  const Output output = moejit(
      on_layer({"verify", "--json", "--packed"}, {"-t", "0,1,5", "--routing", "uniform,skip"}));
  ASSERT_EQ(output.code, 0) << output.err;
  const auto json = json_of(output.out);
  EXPECT_EQ(json["rows"].size(), 6u);
  for (const auto& row : json["rows"]) {
    EXPECT_EQ(row["ok"], true);
    EXPECT_LE(row["error"].get<double>(), row["tolerance"].get<double>());
  }
}

TEST(PackedLayer, IsMeasured) {
  const Output output =
      moejit(on_layer({"bench", "--json", "--packed"}, {"-t", "1,3", "--samples", "3"}));
  ASSERT_EQ(output.code, 0) << output.err;
  const auto json = json_of(output.out);
  ASSERT_EQ(json["rows"].size(), 2u);
  for (const auto& row : json["rows"]) {
    EXPECT_GT(row["median_s"].get<double>(), 0);
    EXPECT_LT(row["error"].get<double>(), 0.01);
  }
}

// The text of the one source that is generated.
std::string source_of(const std::vector<std::string>& more, const fs::path& directory) {
  std::vector<std::string> args = {"-t", "1", "-o", directory.string()};
  args.insert(args.end(), more.begin(), more.end());
  const Output output = moejit(on_layer({"generate", "--json"}, args));
  EXPECT_EQ(output.code, 0) << output.err;
  std::string text;
  int sources = 0;
  const auto json = json_of(output.out);
  for (const auto& row : json["rows"]) {
    const fs::path file = row["file"].get<std::string>();
    if (file.extension() != ".cc") continue;
    text = read_text(file);
    ++sources;
  }
  EXPECT_EQ(sources, 1);
  return text;
}

TEST(PackedLayer, HasASourceOfItsOwn) {
  const std::string packed = source_of({"--packed"}, scratch() / "packed");
  const std::string plain = source_of({}, scratch() / "plain");
  EXPECT_NE(packed, plain);
  EXPECT_THAT(packed, HasSubstr("multiply_block"));
  EXPECT_THAT(plain, Not(HasSubstr("multiply_block")));
}

TEST(PackedLayer, MayBeWrittenInAConfig) {
  const std::string file = (scratch() / "layer.json").string();
  write_text(file, R"({"num_experts":4,"top_k":2,"hidden_size":72,"intermediate_size":40,
                       "packed":true})");
  const Output tuned = moejit({"tune", "--json", "--config", file, "--device", "cpu", "--threads",
                               "2", "-t", "1", "--max-candidates", "2"});
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_EQ(json_of(tuned.out)["config"]["packed"], true);
  // It is the layer that the option names.
  const auto named = explained({"--packed", "--require"});
  EXPECT_EQ(named["config"], json_of(tuned.out)["config"]);
  const Output verified = moejit({"verify", "--json", "--config", file, "--device", "cpu",
                                  "--threads", "2", "-t", "3", "--routing", "uniform"});
  EXPECT_EQ(verified.code, 0) << verified.err;
  // And says false where it says false.
  write_text(file, R"({"num_experts":4,"top_k":2,"hidden_size":72,"intermediate_size":40,
                       "packed":false})");
  EXPECT_EQ(moejit({"explain", "--require", "--config", file, "--device", "cpu", "--threads", "2",
                    "-t", "1"})
                .code,
            3);
}

TEST(PackedLayer, IsRefusedByOtherDevicesWithTheRule) {
  const std::vector<std::string> layer = {"-E", "4",  "-K", "2",          "-H", "72",
                                          "-I", "40", "-d", "sim:sm_90a", "-t", "1"};
  const std::string directory = (scratch() / "out").string();
  for (const char* verb : {"tune", "explain", "bench", "verify", "generate"}) {
    std::vector<std::string> args = {verb, "--packed"};
    args.insert(args.end(), layer.begin(), layer.end());
    if (verb == std::string("generate")) args.insert(args.end(), {"-o", directory});
    const Output output = moejit(args);
    EXPECT_EQ(output.code, 4) << verb << output.err;
    EXPECT_EQ(output.out, "") << verb;
    EXPECT_THAT(output.err, HasSubstr("packed = true: must be false")) << verb;
  }
  EXPECT_FALSE(fs::exists(directory));
}

}  // namespace
}  // namespace moejit::cli_test
