// Wrong calls: code 2, one sentence that names the value and the rule, nothing on stdout.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

using testing::HasSubstr;

struct WrongCall {
  std::vector<std::string> args;
  std::string says;
};

void expect_usage_error(const WrongCall& call) {
  const Output output = moejit(call.args);
  const std::string line = testing::PrintToString(call.args);
  EXPECT_EQ(output.code, 2) << line << output.err;
  EXPECT_EQ(output.out, "") << line;
  EXPECT_THAT(output.err, HasSubstr(call.says)) << line;
  EXPECT_THAT(output.err, HasSubstr("error: ")) << line;
}

TEST(Usage, WrongWords) {
  const std::vector<WrongCall> calls = {
      {{}, "no verb: there are doctor, models"},
      {{"-q"}, "no verb: there are doctor, models"},
      {{"tunee"}, "did you mean tune"},
      {{"cache", "lss"}, "did you mean ls"},
      {{"cache"}, "moejit cache: error: no verb: there are path, ls"},
      {{"--format", "json", "tunee"}, "unknown verb \"tunee\": did you mean tune"},
      {{"models", "--nonsense"}, "moejit models: error: unknown option \"--nonsense\"\n"},
      {{"explain", "--mode", "mixtral-8x7b"}, "unknown option \"--mode\": did you mean --model?"},
      {{"cache", "ls", "--limt=3"}, "unknown option \"--limt\": did you mean --limit?"},
      {{"models", "--progres", "none"}, "did you mean --progress?"},
      {{"tune", "-model", "mixtral-8x7b"}, "\"-model\" is not an option: did you mean --model?"},
      {{"tune", "--model"}, "--model: needs a value, NAME|PATH"},
      {{"tune", "--model", "a", "--model", "b"}, "--model: given more than once"},
      {{"doctor", "now"}, "unexpected argument \"now\": moejit doctor takes options alone"},
      {{"report", "a.html", "b.html"}, "\"b.html\": moejit report takes FILE.html"},
      {{"cache", "show"}, "key is missing: moejit cache show takes key"},
      {{"models", "--format", "yaml"}, "format = \"yaml\": must be table, json, jsonl or csv"},
      {{"models", "--json", "--format", "csv"}, "--json was given too"},
      {{"models", "--progress", "loud"}, "progress = \"loud\""},
      {{"models", "--color", "red"}, "color = \"red\""},
      {{"tune", "--jobs", "many"}, "jobs = \"many\": must be a whole number"},
      {{"tune", "-K", "2.5"}, "top-k = \"2.5\": must be a whole number"},
      {{"tune", "--jobs", "4000000000"}, "must be a whole number from -2147483648 to 2147483647"},
      {{"cache", "merge", "x", "--margin", "nan"}, "margin = \"nan\": must be a number"},
  };
  for (const WrongCall& call : calls) expect_usage_error(call);
}

TEST(Usage, WrongLayers) {
  const std::filesystem::path broken = scratch() / "broken.json", small = scratch() / "small.json";
  write_text(broken, "{\"num_experts\": 8,\n \"top_k\" 2}");
  write_text(small, R"({"num_experts":8,"top_k":9,"hidden_size":64,"intermediate_size":64})");
  const std::vector<WrongCall> calls = {
      {{"tune"}, "no layer"},
      {{"bench", "--experts", "8"}, "no layer"},
      {{"tune", "--model", "qwen3-30b-a3c"}, "qwen3-30b-a3b"},
      {{"tune", "--model", "no/such/directory"}, "no/such/directory"},
      {{"tune", "--model", "mixtral-8x7b", "--config", small.string()}, "--config was given too"},
      {{"tune", "--config", "nowhere.json"}, "nowhere.json"},
      {{"tune", "--config", broken.string()}, "line 2"},
      {{"tune", "--config", small.string()}, "top_k = 9"},
      {{"tune", "-E", "8", "-K", "2", "-H", "63", "-I", "64"}, "hidden_size = 63"},
      {{"tune", "-E", "8", "-K", "2", "-H", "64", "-I", "64", "--dtype", "fp5"}, "fp5"},
      {{"tune", "-E", "8", "-K", "2", "-H", "64", "-I", "64", "--activation", "sulu"}, "sulu"},
      {{"tune", "--model", "mixtral-8x7b", "--tp", "3"}, "tp = 3"},
      {{"tune", "--model", "mixtral-8x7b", "--tp", "0"}, "tp = 0"},
  };
  for (const WrongCall& call : calls) expect_usage_error(call);
}

TEST(Usage, WrongValues) {
  const std::vector<std::string> layer = {"-E", "4", "-K", "2", "-H", "64", "-I", "64"};
  const std::vector<std::pair<std::vector<std::string>, std::string>> options = {
      {{"tune", "--tokens", "1,x"}, "tokens = \"1,x\""},
      {{"tune", "--tokens", "0"}, "from 1 to"},
      {{"tune", "--tokens", "5:7"}, "no power of two"},
      {{"tune", "--budget", "soon"}, "budget = \"soon\""},
      {{"tune", "--routing", "zipf"}, "routing = \"zipf\""},
      {{"tune", "--routing", "one"}, "routing = \"one\""},
      {{"tune", "--jobs", "-2"}, "jobs = -2"},
      {{"tune", "--threads", "-1"}, "threads = -1"},
      {{"bench", "--samples", "0"}, "samples = 0"},
      {{"verify", "--routing", "uniform,zipf:x"}, "zipf:x"},
      {{"generate"}, "give -o DIR"},
      {{"run"}, "--inputs"},
  };
  for (const auto& [start, says] : options) {
    std::vector<std::string> args = start;
    args.insert(args.end(), layer.begin(), layer.end());
    expect_usage_error({args, says});
  }
}

TEST(Devices, OneThatDoesNotExistIsCode4) {
  for (const char* verb : {"tune", "bench", "verify", "explain"}) {
    for (const char* device : {"cuda:63", "abacus", "hip:0"}) {
      const Output output =
          moejit({verb, "-E", "4", "-K", "2", "-H", "64", "-I", "64", "--device", device});
      EXPECT_EQ(output.code, 4) << verb << " " << device << output.err;
      EXPECT_EQ(output.out, "");
      EXPECT_THAT(output.err, HasSubstr("error: ")) << verb;
    }
  }
}

TEST(Output, AFullDiskIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const std::string command =
      std::string(MOEJIT_COMMAND) + " models >/dev/full 2>" + (scratch() / "err").string();
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(read_text(scratch() / "err"), HasSubstr("standard output"));
}

}  // namespace
}  // namespace moejit::cli_test
