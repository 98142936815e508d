// The recipes that are shipped as scripts: a fleet's shards as processes of this machine, and
// scripts/pretune. Both on a layer of milliseconds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTiny = "-E 8 -K 2 -H 64 -I 64 --device cpu --threads 2";

// Exit code of a shell command with the command of this build and settings in front.
int shell(const std::string& settings, const std::string& command) {
  const std::string line = "MOEJIT='" MOEJIT_COMMAND "' " + settings +
                           " sh '" MOEJIT_SOURCE_DIR "'/" + command + " >'" +
                           (scratch() / "log").string() + "' 2>&1";
  const int status = std::system(line.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::vector<std::string> words(std::vector<std::string> start,
                               const std::vector<std::string>& more) {
  for (const char* word : {"--model", "mixtral-8x7b", "-E", "8", "-K", "2", "-H", "64", "-I", "64",
                           "--device", "cpu", "--threads", "2"}) {
    start.emplace_back(word);
  }
  start.insert(start.end(), more.begin(), more.end());
  return start;
}

TEST(Fleet, ThreeShardsSideBySideMergeIntoOneCache) {
  const std::string out = (scratch() / "fleet").string();
  const std::string settings = "FLEET_DIR='" + out + "' FLEET_SCRATCH='" +
                               (scratch() / "disk").string() +
                               "' FLEET_MODEL=mixtral-8x7b FLEET_PARALLEL=1 FLEET_ARGS='" + kTiny +
                               " --tokens 1:8 --max-candidates 2 --jobs 1'";
  ASSERT_EQ(shell(settings, "examples/fleet/local.sh 3"), 0) << read_text(scratch() / "log");
  // Every token count has its choice, each from one shard.
  const Output explained = moejit(
      words({"explain", "--json", "--require"}, {"-t", "1,2,4,8", "--cache-dir", out + "/cache"}));
  ASSERT_EQ(explained.code, 0) << explained.err;
  const auto choices = json_of(explained.out);
  for (const auto& row : choices["rows"]) EXPECT_EQ(row["level"], "exact");
  EXPECT_TRUE(fs::exists(out + "/moejit.pack"));
  // A share that is started again measures nothing twice.
  ASSERT_EQ(shell(settings, "examples/fleet/shard.sh 0 3"), 0) << read_text(scratch() / "log");
  const auto again = json_of(read_text(out + "/shard-0.json"));
  for (const auto& row : again["rows"]) EXPECT_EQ(row["from_cache"], true);
}

TEST(Fleet, AShareThatIsToldToEndPacksWhatItHas) {
  const std::string out = (scratch() / "told").string();
  fs::create_directory(out);
  write_text(scratch() / "told.sh",
             "export FLEET_DIR='" + out + "' FLEET_SCRATCH='" + (scratch() / "disk").string() +
                 "' FLEET_MODEL=mixtral-8x7b MOEJIT='" MOEJIT_COMMAND
                 "'\n"
                 "export FLEET_ARGS='" +
                 std::string(kTiny) +
                 " --tokens 1:8192 --max-candidates 3 --progress json'\n"
                 "sh '" MOEJIT_SOURCE_DIR "/examples/fleet/shard.sh' 0 1 2>'" +
                 out +
                 "/err' &\n"
                 "share=$!\n"
                 "until grep -q '\"bucket\":2,' '" +
                 out +
                 "/err'; do sleep 0.1; done\n"
                 "kill -TERM $share\nwait $share\n");
  const std::string line = "sh '" + (scratch() / "told.sh").string() + "'";
  const int status = std::system(line.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130) << read_text(out + "/err");
  EXPECT_EQ(json_of(read_text(out + "/shard-0.json"))["cancelled"], true);
  const Output packed =
      moejit({"cache", "ls", "--kind", "choice", "--json", "--cache-dir", out + "/shard-0.pack"});
  ASSERT_EQ(packed.code, 0) << packed.err;
  EXPECT_GE(json_of(packed.out)["rows"].size(), 4u);
}

TEST(Fleet, PretuneTunesVerifiesPacksAndReports) {
  const std::string out = (scratch() / "pretune").string();
  const std::string settings = "PRETUNE_OUT='" + out +
                               "' PRETUNE_TOKENS=1,4 PRETUNE_VERIFY=0,3 PRETUNE_ARGS='" + kTiny +
                               " --max-candidates 2'";
  ASSERT_EQ(shell(settings, "scripts/pretune mixtral-8x7b"), 0) << read_text(scratch() / "log");
  EXPECT_EQ(json_of(read_text(out + "/tune.json"))["rows"].size(), 2u);
  EXPECT_THAT(read_text(out + "/verify-mixtral-8x7b.csv"), testing::HasSubstr("uniform"));
  // The pack answers in place, without a compiler.
  const Output run = moejit_with({{"MOEJIT_CACHE_PATH", out + "/moejit.pack"}},
                                 words({"explain", "--json", "--require"}, {"-t", "1,4"}));
  EXPECT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(shell("", "scripts/pretune"), 2);
  EXPECT_EQ(shell("", "scripts/pretune --tp 2"), 2);
  EXPECT_EQ(shell("", "scripts/pretune --help"), 0);
}

// What PRETUNE_ARGS make of the layer is what is checked, in whatever form they are written.
TEST(Fleet, PretuneVerifiesWhatItTunes) {
  const std::string out = (scratch() / "pretune").string();
  const std::string settings =
      "PRETUNE_OUT='" + out +
      "' PRETUNE_TOKENS=1 PRETUNE_VERIFY=3 PRETUNE_ARGS='-E8 --top-k=2 -H64 --intermediate 64"
      " -dcpu --threads=2 --packed --shared 0,1 --max-candidates 1'";
  ASSERT_EQ(shell(settings, "scripts/pretune mixtral-8x7b"), 0) << read_text(scratch() / "log");
  const std::string log = read_text(scratch() / "log");
  for (const char* count : {"0", "1"}) {
    const std::string checks = read_text(out + "/verify-mixtral-8x7b-shared" + count + ".csv");
    EXPECT_THAT(checks, testing::HasSubstr("uniform"));
  }
  // No kernel of another layer had to be made for the checks.
  const auto kernels =
      json_of(moejit({"cache", "ls", "--kind", "kernel", "--json", "--cache-dir", out + "/cache"})
                  .out)["rows"];
  ASSERT_FALSE(kernels.empty());
  std::set<int> shared;
  for (const auto& row : kernels) {
    EXPECT_EQ(row["layer"]["packed"], true);
    EXPECT_EQ(row["layer"]["num_experts"], 8);
    EXPECT_EQ(row["layer"]["hidden_size"], 64);
    shared.insert(row["layer"].value("num_shared_experts", 0));
  }
  EXPECT_EQ(shared, (std::set<int>{0, 1}));
}

TEST(Fleet, AShareWithoutWorkIsDone) {
  for (const char* share : {"0/2", "1/2"}) {
    const Output output =
        moejit({"tune", "--json", "-E", "4", "-K", "2", "-H", "64", "-I", "64", "--device", "cpu",
                "-t", "1", "--max-candidates", "1", "--shard", share});
    ASSERT_EQ(output.code, 0) << share << output.err;
    EXPECT_EQ(json_of(output.out)["cancelled"], false);
  }
}

TEST(Tune, SeveralLayersAreOneTune) {
  write_text(scratch() / "layers.json",
             R"([{"num_experts":4,"top_k":2,"hidden_size":64,"intermediate_size":64},
                 {"num_experts":8,"top_k":2,"hidden_size":64,"intermediate_size":64}])");
  const Output output =
      moejit({"tune", "--json", "--config", (scratch() / "layers.json").string(), "--device", "cpu",
              "--threads", "2", "-t", "1", "--shared", "0,1", "--max-candidates", "1"});
  ASSERT_EQ(output.code, 0) << output.err;
  const auto json = json_of(output.out);
  ASSERT_EQ(json["rows"].size(), 4u);
  EXPECT_EQ(json["missing"], 0);
  EXPECT_EQ(json["rows"][1]["config"]["num_shared_experts"], 1);
  EXPECT_EQ(json["rows"][2]["config"]["num_experts"], 8);
}

TEST(Tune, WrongCallsNameTheOption) {
  const std::pair<std::vector<std::string>, const char*> wrong[] = {
      {{"--shard", "3/3"}, "shard"},
      {{"--shard", "1"}, "shard"},
      {{"--isolate", "maybe"}, "isolate"},
      {{"--trial-timeout", "soon"}, "trial-timeout"},
      {{"--compile-only", "--budget", "1m"}, "budget"},
      {{"--compile-only", "--shard", "0/2"}, "shard"},
      {{"--shared", "40"}, "shared"},
      {{"--routing", "trace:/no/such/file"}, "/no/such/file"}};
  for (const auto& [options, name] : wrong) {
    const Output output = moejit(words({"tune"}, options));
    EXPECT_EQ(output.code, 2);
    EXPECT_THAT(output.err, testing::HasSubstr(name));
  }
}

TEST(Tune, RecordedRoutingIsReplayed) {
  write_text(scratch() / "ids.txt", "0 1\n2 3\n0 3\n");
  const std::string trace = "trace:" + (scratch() / "ids.txt").string();
  const Output output = moejit(words({"tune", "--json"}, {"-t", "2", "--max-candidates", "1",
                                                          "--routing", trace, "--isolate", "on"}));
  ASSERT_EQ(output.code, 0) << output.err;
  const auto row = json_of(output.out)["rows"][0];
  EXPECT_THAT(row["routing"].get<std::string>(), testing::StartsWith("trace:"));
  write_text(scratch() / "ids.txt", "0 9\n");
  EXPECT_EQ(moejit(words({"tune"}, {"-t", "2", "--routing", trace})).code, 2);
}

}  // namespace
}  // namespace moejit::cli_test
