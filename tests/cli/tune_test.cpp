// tune, bench, verify, explain, generate and the cache they fill, on a layer of milliseconds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::vector<std::string> on_layer(std::vector<std::string> start,
                                  const std::vector<std::string>& more = {}) {
  for (const char* word :
       {"-E", "4", "-K", "2", "-H", "64", "-I", "64", "--device", "cpu", "--threads", "2"}) {
    start.emplace_back(word);
  }
  start.insert(start.end(), more.begin(), more.end());
  return start;
}

Output tune_quickly() {
  return moejit(
      on_layer({"tune", "--json"}, {"-t", "1,4", "--max-candidates", "2", "--budget", "20s"}));
}

TEST(Tune, ReportsEveryTokenCountAndAnswersFromTheCacheNext) {
  const Output first = tune_quickly();
  ASSERT_EQ(first.code, 0) << first.err;
  const auto json = json_of(first.out);
  EXPECT_EQ(json["command"], "tune");
  EXPECT_EQ(json["device"], "cpu");
  EXPECT_EQ(json["config"]["num_experts"], 4);
  ASSERT_EQ(json["rows"].size(), 2u);
  for (const auto& row : json["rows"]) {
    EXPECT_GT(row["median_s"].get<double>(), 0);
    EXPECT_GT(row["bytes_per_s"].get<double>(), 0);
    EXPECT_LT(row["error"].get<double>(), 0.01);
    EXPECT_TRUE(row["schedule"].is_object());
    EXPECT_EQ(row["from_cache"], false);
  }
  EXPECT_THAT(first.err, HasSubstr("2 token counts"));

  const auto second = json_of(tune_quickly().out);
  ASSERT_EQ(second["rows"].size(), 2u);
  for (const auto& row : second["rows"]) EXPECT_EQ(row["from_cache"], true);
}

TEST(Tune, ABudgetThatEndsBeforeAnyResultIsCodeSix) {
  const Output output = moejit({"tune", "-E", "64", "-K", "2", "-H", "2048", "-I", "1024",
                                "--device", "cpu", "-t", "4096", "--budget", "0.05s"});
  EXPECT_EQ(output.code, 6) << output.err;
  EXPECT_THAT(output.err, testing::HasSubstr("no result: out of budget"));
}

TEST(Tune, QuietIsSilentOnStderr) {
  const Output output =
      moejit(on_layer({"tune", "--json", "-q"}, {"-t", "1", "--max-candidates", "1"}));
  EXPECT_EQ(output.code, 0);
  EXPECT_EQ(output.err, "");
}

TEST(Tune, ProgressAsJsonLines) {
  const Output output = moejit(
      on_layer({"tune", "--json", "--progress", "json"}, {"-t", "1", "--max-candidates", "2"}));
  ASSERT_EQ(output.code, 0) << output.err;
  const size_t end = output.err.find('\n');
  ASSERT_NE(end, std::string::npos);
  const auto first = json_of(output.err.substr(0, end));
  EXPECT_TRUE(first.contains("stage"));
  EXPECT_TRUE(first.contains("remaining_s"));
}

// Many token counts of few candidates each; interrupted during the second.
Invocation long_tune(int interrupts) {
  Invocation invocation;
  invocation.args =
      on_layer({"tune", "--json", "--progress", "json"}, {"-t", "1:4096", "--max-candidates", "2"});
  invocation.environment = private_environment();
  invocation.interrupts = interrupts;
  invocation.interrupt_after = "\"bucket\":1,";
  return invocation;
}

TEST(Interrupt, OnceKeepsWhatIsFinished) {
  const Output output = invoke(long_tune(1));
  EXPECT_EQ(output.code, 130) << output.err;
  EXPECT_THAT(output.err, HasSubstr("stopping after the current measurement"));
  const auto json = json_of(output.out);
  EXPECT_EQ(json["cancelled"], true);
  EXPECT_GE(json["rows"].size(), 1u);
  EXPECT_LT(json["rows"].size(), 13u);
  // The database is whole and can be used at once.
  EXPECT_EQ(moejit({"cache", "verify", "--json"}).code, 0);
  EXPECT_GT(json_of(moejit({"cache", "stats", "--json"}).out)["measurements"].get<int>(), 0);
}

TEST(Interrupt, TwiceEndsAtOnce) {
  const Output output = invoke(long_tune(2));
  EXPECT_EQ(output.code, 130) << output.err;
  EXPECT_EQ(moejit({"cache", "verify", "--json"}).code, 0);
}

TEST(Verify, RightKernelsAreCodeZero) {
  const Output output =
      moejit(on_layer({"verify", "--json"}, {"-t", "0,1,5", "--routing", "uniform,skip"}));
  ASSERT_EQ(output.code, 0) << output.err;
  const auto json = json_of(output.out);
  EXPECT_EQ(json["rows"].size(), 6u);
  for (const auto& row : json["rows"]) {
    EXPECT_EQ(row["ok"], true);
    EXPECT_LE(row["error"].get<double>(), row["tolerance"].get<double>());
  }
}

TEST(Bench, MeasuresAndRequiresWhenAsked) {
  const Output model = moejit(on_layer({"bench", "--json"}, {"-t", "1,3", "--samples", "3"}));
  ASSERT_EQ(model.code, 0) << model.err;
  const auto json = json_of(model.out);
  ASSERT_EQ(json["rows"].size(), 2u);
  EXPECT_GT(json["rows"][1]["median_s"].get<double>(), 0);
  EXPECT_LT(json["rows"][1]["error"].get<double>(), 0.01);
  const Output required =
      moejit(on_layer({"bench", "--json", "--require"}, {"-t", "1", "--samples", "3"}));
  EXPECT_EQ(required.code, 3);
  EXPECT_THAT(required.err, HasSubstr("moejit tune"));
}

TEST(Explain, NamesKeyReasonAndRunnersUp) {
  ASSERT_EQ(tune_quickly().code, 0);
  const auto json = json_of(moejit(on_layer({"explain", "--json", "--require"}, {"-t", "1"})).out);
  ASSERT_EQ(json["rows"].size(), 1u);
  const auto& row = json["rows"][0];
  EXPECT_EQ(row["source"], "exact");
  EXPECT_NE(row["reason"], "");
  EXPECT_TRUE(row["runners_up"].is_array());
  // The key is one that the cache knows.
  const Output shown = moejit({"cache", "show", row["key"].get<std::string>(), "--json"});
  EXPECT_EQ(shown.code, 0) << shown.err;
  EXPECT_EQ(json_of(shown.out)["schedule"], row["schedule"]);
}

TEST(Explain, PeopleReadOneBlockPerTokenCount) {
  const Output output = moejit(on_layer({"explain", "--format", "table"}, {"-t", "1,64"}));
  EXPECT_EQ(output.code, 0) << output.err;
  for (const char* text : {"tokens:    1\n", "tokens:    64\n", "reason:", "schedule:"}) {
    EXPECT_THAT(output.out, HasSubstr(text));
  }
}

TEST(Generate, WritesSourceAssemblyAndReport) {
  const fs::path directory = scratch() / "new" / "folder";
  const Output output =
      moejit(on_layer({"generate", "--json"}, {"-t", "1", "-o", directory.string()}));
  ASSERT_EQ(output.code, 0) << output.err;
  int sources = 0;
  const auto json = json_of(output.out);
  for (const auto& row : json["rows"]) {
    const fs::path file = row["file"].get<std::string>();
    EXPECT_EQ(fs::file_size(file), row["bytes"].get<uintmax_t>());
    sources += file.extension() == ".cc" ? 1 : 0;
  }
  EXPECT_EQ(sources, 1);
}

TEST(Tune, CompileOnlySaysWhatIsNotKept) {
  const auto call = [](const std::string& place) {
    return on_layer({"tune", "--compile-only", "--cache-dir", place},
                    {"-t", "1", "--max-candidates", "1"});
  };
  const std::string here = (scratch() / "here").string();
  EXPECT_EQ(moejit_with({{"MOEJIT_CACHE", "ro"}}, call(here)).code, 2);
  const Output nowhere = moejit(call("/dev/null"));
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_THAT(nowhere.err, HasSubstr("could not be kept"));
  const Output off = moejit_with({{"MOEJIT_CACHE", "off"}}, call(here));
  EXPECT_EQ(off.code, 0) << off.err;
  EXPECT_THAT(off.err, HasSubstr("and not kept"));
  EXPECT_THAT(moejit(call(here)).err, HasSubstr("and kept"));
}

TEST(Generate, SeveralTokenCountsDoNotOverwriteEachOther) {
  const fs::path directory = scratch() / "out";
  ASSERT_EQ(moejit(on_layer({"generate"}, {"-t", "1,512", "-o", directory.string()})).code, 0);
  EXPECT_TRUE(fs::is_directory(directory / "t1"));
  EXPECT_TRUE(fs::is_directory(directory / "t512"));
}

TEST(Tune, CompileOnlyKeepsBinariesAndMeasuresNothing) {
  const std::vector<std::string> call =
      on_layer({"tune", "--json", "--compile-only"}, {"-t", "1,64", "--max-candidates", "2"});
  const Output output = moejit(call);
  ASSERT_EQ(output.code, 0) << output.err;
  const auto rows = json_of(output.out)["rows"];
  ASSERT_FALSE(rows.empty());
  size_t planned = 0;
  for (const auto& row : rows) {
    EXPECT_EQ(row["ok"], true);
    EXPECT_GT(row["binary_bytes"].get<int64_t>(), 0);
    EXPECT_FALSE(row["tokens"].empty());
    planned += row["planned"].get<bool>();
  }
  EXPECT_GE(planned, 1u);
  EXPECT_EQ(json_of(moejit({"cache", "ls", "--json", "--kind", "choice"}).out)["rows"].size(), 0u);
  EXPECT_EQ(json_of(moejit({"cache", "ls", "--json", "--kind", "kernel"}).out)["rows"].size(),
            rows.size());
}

}  // namespace
}  // namespace moejit::cli_test
