// A kernel that hangs on a GPU, and one that faults there: the child process goes, the tune goes
// on, and the device is whole for this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "moejit/tuning.h"
#include "runtime/library.h"

namespace moejit::internal {
namespace {

using testing::HasSubstr;

class GpuIsolationTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto device = open_device("cuda:0");
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    if (!(*device)->compiler().ok()) GTEST_SKIP() << "no NVRTC here";
    device_ = *device;
    std::string path = testing::TempDir() + "moejit_gpu_isolation_XXXXXX";
    directory_ = mkdtemp(path.data());
  }
  void TearDown() override {
    unsetenv("MOEJIT_TEST_HANG_GPU");
    unsetenv("MOEJIT_TEST_CRASH_GPU");
  }
  TuneRequest request() const {
    TuneRequest r;
    r.config = {.num_experts = 8, .top_k = 2, .hidden_size = 256, .intermediate_size = 128};
    r.device = "cuda:0";
    r.tokens = {4};
    r.cache_path = directory_;
    r.isolation = Isolation::kOn;
    // The tests may run elsewhere than where they were built.
    const char* helper = std::getenv("MOEJIT_TEST_TRIAL_HELPER");
    r.helper = helper != nullptr ? helper : MOEJIT_TRIAL_HELPER;
    r.trial_timeout_s = 3;
    r.max_candidates = 4;
    return r;
  }
  // Tunes again, as if nothing were known, while the last winner misbehaves. Returns what is
  // recorded of it.
  Measurement tune_with_bad(const char* variable, std::string* winner) {
    const std::string bad = *winner;
    setenv(variable, bad.c_str(), 1);
    TuneRequest again = request();
    again.force = true;
    const auto report = tune(again);
    unsetenv(variable);
    Measurement last;
    EXPECT_TRUE(report.ok()) << report.status().to_string();
    if (!report.ok() || report->rows.empty()) return last;
    EXPECT_EQ(report->rows[0].failed, 1);
    EXPECT_GE(report->rows[0].candidates, 2);
    EXPECT_NE(report->rows[0].schedule, bad);
    *winner = report->rows[0].schedule;
    const auto key = measurement_key(request().config, *device_, 4, "uniform");
    for (const Measurement& m : open_store(directory_)->measurements(key)) {
      if (m.schedule == bad && m.status != "ok") last = m;
    }
    return last;
  }

  const Device* device_ = nullptr;
  std::string directory_;
};

TEST_F(GpuIsolationTest, HangsAndFaultsEndTheChildAndNotTheTune) {
  const auto clean = tune(request());
  ASSERT_TRUE(clean.ok()) << clean.status().to_string();
  std::string winner = clean->rows.at(0).schedule;

  const Measurement hung = tune_with_bad("MOEJIT_TEST_HANG_GPU", &winner);
  EXPECT_EQ(hung.status, "timeout") << hung.note;
  EXPECT_THAT(hung.note, HasSubstr("hung"));
  const Measurement fault = tune_with_bad("MOEJIT_TEST_CRASH_GPU", &winner);
  EXPECT_EQ(fault.status, "fault");
  EXPECT_NE(fault.note, "");

  TuneRequest here = request();
  here.isolation = Isolation::kOff;
  here.force = true;
  const auto after = tune(here);
  ASSERT_TRUE(after.ok()) << after.status().to_string();
  EXPECT_EQ(after->rows.at(0).failed, 0);
}

}  // namespace
}  // namespace moejit::internal
