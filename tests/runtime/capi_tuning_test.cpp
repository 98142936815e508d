// The JSON functions of the C ABI: a small layer through each, and requests that are wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "moejit/moejit_c.h"

namespace {

using testing::HasSubstr;

class CapiTuning : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = testing::TempDir() + "moejit_capi_XXXXXX";
    directory_ = mkdtemp(path.data());
  }
  // A layer of milliseconds on two threads, with further fields.
  std::string request(const std::string& more) const {
    return R"({"config":{"num_experts":4,"top_k":2,"hidden_size":64,"intermediate_size":64},)"
           R"("device":"cpu","num_threads":2,"cache_path":")" +
           directory_ + "\"" + (more.empty() ? "" : "," + more) + "}";
  }
  using Call = moejit_status (*)(const char*, char**);
  // The report, or null where this machine cannot compile.
  nlohmann::json call(Call function, const std::string& more) {
    return result(function(request(more).c_str(), &report_));
  }
  nlohmann::json result(moejit_status status) {
    if (status == MOEJIT_UNAVAILABLE) return nullptr;
    EXPECT_EQ(status, MOEJIT_OK) << moejit_last_error();
    if (status != MOEJIT_OK) return nullptr;
    auto json = nlohmann::json::parse(report_);
    moejit_string_free(report_);
    return json;
  }
  std::string directory_;
  char* report_ = nullptr;
};

int32_t stop_at_third(const char* json, void* user) {
  EXPECT_TRUE(nlohmann::json::accept(json)) << json;
  return ++*static_cast<int*>(user) < 3;
}

TEST_F(CapiTuning, TuneBenchVerifyAndExplain) {
  int calls = -1000000;
  const auto tuned = result(
      moejit_tune_json(request(R"("tokens":[1,4],"max_candidates":2,"routing":"zipf:1.2")").c_str(),
                       stop_at_third, &calls, &report_));
  if (tuned.is_null()) GTEST_SKIP() << moejit_last_error();
  EXPECT_GT(calls, -1000000);
  ASSERT_EQ(tuned["rows"].size(), 2u);
  EXPECT_EQ(tuned["cancelled"], false);
  EXPECT_EQ(tuned["missing"], 0);
  EXPECT_TRUE(tuned["rows"][0]["schedule"].is_object());
  EXPECT_EQ(tuned["rows"][0]["config"]["num_experts"], 4);
  EXPECT_GT(tuned["rows"][1]["median_s"].get<double>(), 0);

  const auto timed = call(moejit_bench_json, R"("tokens":[4],"samples":3)");
  ASSERT_EQ(timed["rows"].size(), 1u);
  EXPECT_EQ(timed["rows"][0]["source"], "exact");
  EXPECT_EQ(timed["rows"][0]["schedule"], tuned["rows"][1]["schedule"]);

  const auto checked = call(moejit_verify_json, R"("tokens":[0,3],"routings":["uniform","skip"])");
  EXPECT_EQ(checked["ok"], true);
  EXPECT_EQ(checked["rows"].size(), 4u);

  const auto explained = call(moejit_explain_json, R"("tokens":[1])");
  ASSERT_EQ(explained["rows"].size(), 1u);
  EXPECT_EQ(explained["rows"][0]["level"], "exact");
  EXPECT_EQ(explained["rows"][0]["choice"]["schedule"], tuned["rows"][0]["schedule"]);
}

TEST_F(CapiTuning, ProgressThatReturnsZeroStops) {
  int calls = 0;
  const auto tuned = result(
      moejit_tune_json(request(R"("tokens":[1,4])").c_str(), stop_at_third, &calls, &report_));
  if (tuned.is_null()) GTEST_SKIP() << moejit_last_error();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(tuned["cancelled"], true);
  EXPECT_GT(tuned["missing"], 0);
}

TEST_F(CapiTuning, WrongRequestsNameTheField) {
  const std::pair<const char*, const char*> wrong[] = {
      {"{", "line 1"},
      {"[]", "object"},
      {"{}", "config"},
      {R"({"model":"no-such-model"})", "no-such-model"},
      {R"({"model":"mixtral-8x7b","budget":1})", "budget"},
      {R"({"model":"mixtral-8x7b","tokens":[-1]})", "tokens[0]"},
      {R"({"model":"mixtral-8x7b","tokens":7})", "tokens"},
      {R"({"model":"mixtral-8x7b","tp":3})", "tp"},
      {R"({"model":"mixtral-8x7b","isolation":"maybe"})", "isolation"},
      {R"({"model":"mixtral-8x7b","shard_count":2,"shard_index":2})", "shard_index"},
      {R"({"layers":[{"num_experts":4}]})", "layers[0]"},
      {R"({"config":{"num_experts":4,"top_k":9,"hidden_size":64,"intermediate_size":64}})",
       "top_k"},
  };
  for (const auto& [text, field] : wrong) {
    char* report = const_cast<char*>("untouched");
    const moejit_status status = moejit_tune_json(text, nullptr, nullptr, &report);
    EXPECT_TRUE(status == MOEJIT_INVALID_ARGUMENT || status == MOEJIT_DATA_ERROR ||
                status == MOEJIT_NOT_FOUND)
        << text << " " << status;
    EXPECT_THAT(moejit_last_error(), HasSubstr(field)) << text;
    EXPECT_EQ(report, nullptr);
  }
  EXPECT_EQ(moejit_tune_json(nullptr, nullptr, nullptr, &report_), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(moejit_bench_json("{}", nullptr), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(moejit_verify_json(R"({"model":"mixtral-8x7b","routings":"one"})", &report_),
            MOEJIT_DATA_ERROR);
  EXPECT_EQ(moejit_explain_json(R"({"model":"mixtral-8x7b","jobs":1})", &report_),
            MOEJIT_DATA_ERROR);
}

}  // namespace
