// Tuning with candidates in a child process: good ones, ones that hang, ones that crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "generator/family.h"
#include "moejit/tuning.h"
#include "runtime/library.h"

namespace moejit::internal {
namespace {

using testing::HasSubstr;

class IsolationTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = testing::TempDir() + "moejit_isolation_XXXXXX";
    directory_ = mkdtemp(path.data());
    const auto device = open_device("cpu", 2);
    ASSERT_TRUE(device.ok());
    if (!(*device)->compiler().ok()) GTEST_SKIP() << "no compiler of CPU kernels here";
    device_ = *device;
    space_ = legal_schedules(request().config, device_->info().target);
  }
  void TearDown() override {
    unsetenv("MOEJIT_TEST_HANG");
    unsetenv("MOEJIT_TEST_CRASH");
  }
  TuneRequest request() const {
    TuneRequest r;
    r.config = {.num_experts = 4, .top_k = 2, .hidden_size = 64, .intermediate_size = 64};
    r.device = "cpu";
    r.num_threads = 2;
    r.tokens = {4};
    r.cache_path = directory_;
    r.isolation = Isolation::kOn;
    r.helper = MOEJIT_TRIAL_HELPER;
    r.trial_timeout_s = 1;
    r.max_candidates = 4;
    return r;
  }
  // What the store says about a schedule, newest last.
  std::vector<Measurement> trials(const std::string& schedule) const {
    std::vector<Measurement> found;
    for (const Measurement& m :
         open_store(directory_)
             ->measurements(measurement_key(request().config, *device_, 4, "uniform"))) {
      if (m.schedule == schedule) found.push_back(m);
    }
    return found;
  }
  // The schedule that is measured first in every tune.
  std::string default_schedule() const {
    return find_family(space_[0].family)
        ->default_schedule(request().config, device_->info().target, 4)
        .to_json();
  }

  std::string directory_;
  const Device* device_ = nullptr;
  std::vector<Schedule> space_;
};

TEST_F(IsolationTest, GivesWhatATuneInThisProcessGives) {
  TuneRequest isolated = request();
  isolated.tokens = {1, 4};
  const auto report = tune(isolated);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  ASSERT_EQ(report->rows.size(), 2u);
  for (const TuneRow& row : report->rows) {
    EXPECT_EQ(row.failed, 0);
    EXPECT_GT(row.median_s, 0);
    EXPECT_LT(row.error, 5e-3);
  }
  // Binaries were compiled here and are in the cache: serving compiles nothing.
  Options options{.device = "cpu", .max_tokens = 4, .tokens = {1, 4}, .policy = Policy::kFrozen};
  options.cache_path = directory_;
  options.num_threads = 2;
  EXPECT_TRUE(get_kernel(isolated.config, options).ok());
}

TEST_F(IsolationTest, ACandidateThatHangsIsKilledAndNeverTriedAgain) {
  const std::string bad = default_schedule();
  setenv("MOEJIT_TEST_HANG", bad.c_str(), 1);
  const auto report = tune(request());
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  ASSERT_EQ(report->rows.size(), 1u);
  EXPECT_EQ(report->rows[0].failed, 1);
  EXPECT_NE(report->rows[0].schedule, bad);
  const auto first = trials(bad);
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].status, "timeout");
  EXPECT_THAT(first[0].note, HasSubstr("hung"));

  // Harmless by now, which nobody finds out unless told to.
  unsetenv("MOEJIT_TEST_HANG");
  open_store(directory_);
  TuneRequest again = request();
  again.exhaustive = true;
  ASSERT_TRUE(tune(again).ok());
  EXPECT_EQ(trials(bad).size(), 1u);
  again.force = true;
  ASSERT_TRUE(tune(again).ok());
  EXPECT_GT(trials(bad).size(), 1u);
}

TEST_F(IsolationTest, ACandidateThatCrashesIsRecordedWithItsSignal) {
  const std::string bad = default_schedule();
  setenv("MOEJIT_TEST_CRASH", bad.c_str(), 1);
  const auto report = tune(request());
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->rows[0].failed, 1);
  EXPECT_GE(report->rows[0].candidates, 2);
  const auto list = trials(bad);
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].status, "fault");
  EXPECT_THAT(list[0].note, HasSubstr("crashed: signal 11"));
}

TEST_F(IsolationTest, WhereEveryCandidateIsBadTheTunerSaysSo) {
  std::string all;
  for (const Schedule& s : space_) all += s.to_json();
  setenv("MOEJIT_TEST_CRASH", all.c_str(), 1);
  const auto report = tune(request());
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), StatusCode::kVerificationFailed);
}

TEST_F(IsolationTest, MissingHelperIsAnErrorOnlyWhereIsolationIsAskedFor) {
  TuneRequest r = request();
  r.helper = "/no/such/moejit";
  EXPECT_EQ(tune(r).status().code(), StatusCode::kUnavailable);
  r.helper = "/bin/true";  // executable, but no helper
  EXPECT_FALSE(tune(r).ok());
  r.helper.clear();
  r.isolation = Isolation::kAuto;  // on the CPU: in this process
  EXPECT_TRUE(tune(r).ok());
}

}  // namespace
}  // namespace moejit::internal
