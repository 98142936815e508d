// What scripts read: every format says enough, progress goes to stderr, codes mean what docs/cli.md
// says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<std::string> tiny(std::vector<std::string> start,
                              const std::vector<std::string>& more) {
  for (const char* word :
       {"-E", "4", "-K", "2", "-H", "64", "-I", "64", "--device", "cpu", "--threads", "2"}) {
    start.emplace_back(word);
  }
  start.insert(start.end(), more.begin(), more.end());
  return start;
}

TEST(Rows, DoctorsCsvHasTheCacheDirectory) {
  const Output output = moejit({"doctor", "--format", "csv"});
  EXPECT_THAT(output.out,
              HasSubstr("moejit,fact,cache_directory," + (scratch() / "cache").string()));
  EXPECT_THAT(output.out, HasSubstr("moejit,fact,version,"));
}

TEST(Rows, VerifyNamesLayerAndDevice) {
  const Output output = moejit(
      tiny({"verify", "--json", "--progress", "json"}, {"-t", "1,5", "--routing", "uniform"}));
  ASSERT_EQ(output.code, 0) << output.err;
  const auto json = json_of(output.out);
  EXPECT_EQ(json["config"]["num_experts"], 4);
  EXPECT_EQ(json["device"], "cpu");
  EXPECT_EQ(json["stopped"], false);
  EXPECT_EQ(json["rows"].size(), 2u);
  EXPECT_THAT(output.err, HasSubstr("\"total\":2"));
}

TEST(Rows, BenchReportsProgress) {
  const Output output = moejit(tiny({"bench", "--json", "--progress", "json"},
                                    {"-t", "1,4", "--samples", "3", "--no-check"}));
  ASSERT_EQ(output.code, 0) << output.err;
  EXPECT_THAT(output.err, HasSubstr("\"total\":2"));
}

TEST(Rows, CacheLsFiltersChoicesToo) {
  ASSERT_EQ(moejit(tiny({"tune", "-q"}, {"-t", "1", "--max-candidates", "1"})).code, 0);
  const auto all = json_of(moejit({"cache", "ls", "--json", "--kind", "choice"}).out)["rows"];
  ASSERT_FALSE(all.empty());
  const std::string arch = all[0]["arch"];
  EXPECT_THAT(arch, testing::StartsWith("cpu:"));
  const auto rows = [](const std::vector<std::string>& more) {
    std::vector<std::string> call = {"cache", "ls", "--json", "--kind", "choice"};
    call.insert(call.end(), more.begin(), more.end());
    return json_of(moejit(call).out)["rows"].size();
  };
  EXPECT_EQ(rows({"--backend", "foo"}), 0u);
  EXPECT_EQ(rows({"--arch", "sm_90a"}), 0u);
  EXPECT_EQ(rows({"--arch", arch}), all.size());
  EXPECT_EQ(rows({"--arch", arch.substr(4)}), all.size());
  EXPECT_EQ(rows({"--limit", "1"}), 1u);
}

TEST(Rows, AWrongScheduleIsAWrongCall) {
  const std::string out = (scratch() / "out").string();
  for (const char* schedule : {"x", "{\"family\":\"cpu_mo\"}", "{\"family\":\"cpu_moe\"}"}) {
    const Output output = moejit(tiny({"generate", "-o", out, "--schedule", schedule}, {}));
    EXPECT_EQ(output.code, 2) << schedule << ": " << output.err;
  }
}

}  // namespace
}  // namespace moejit::cli_test
