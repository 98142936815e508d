// Background tuning: better plans arrive in kernels that are in use, and never while launches come.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "moejit/moejit_c.h"
#include "moejit/tuning.h"
#include "runtime/background.h"
#include "runtime/library.h"
#include "runtime/state.h"

namespace moejit::internal {
namespace {

class BackgroundTest : public testing::Test {
 protected:
  void SetUp() override {
    forget_kernels();  // those of other tests of this process
    std::string path = testing::TempDir() + "moejit_background_XXXXXX";
    options_.cache_path = mkdtemp(path.data());
    options_.device = "cpu";
    options_.num_threads = 2;
    options_.max_tokens = 4;
    options_.tokens = {4};
    const auto device = open_device("cpu", 2);
    ASSERT_TRUE(device.ok());
    if (!(*device)->compiler().ok()) GTEST_SKIP() << "no compiler of CPU kernels here";
  }
  void TearDown() override {
    pause_background_tuning(false);
    stop_background_tuning();
  }
  static MoeConfig layer() {
    return {.num_experts = 4, .top_k = 2, .hidden_size = 64, .intermediate_size = 64};
  }
  // Waits long, and only as long as it takes.
  static bool wait_for(const std::function<bool()>& condition) {
    for (int i = 0; i < 6000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  Options options_;
};

TEST_F(BackgroundTest, AKernelInUseGetsTheTunedPlan) {
  const auto before = get_kernel(layer(), options_);
  ASSERT_TRUE(before.ok()) << before.status().to_string();
  EXPECT_EQ(before->buckets()[0].source, Source::kModel);
  const size_t workspace = before->workspace_size(4);
  ASSERT_TRUE(start_background_tuning({.idle_s = 0, .bucket_budget_s = 5}).ok());
  EXPECT_EQ(start_background_tuning().code(), StatusCode::kNotReady);
  ASSERT_TRUE(wait_for([] {
    const auto s = background_tuning_status();
    return s.queued == 0 && s.at_work == 0;
  }));
  const BackgroundStatus status = background_tuning_status();
  EXPECT_TRUE(status.running);
  EXPECT_EQ(status.tuned, 1) << status.last_error;
  // The handle of before follows the choice, unless it would need more workspace than it said.
  if (status.replaced == 1) {
    EXPECT_EQ(before->buckets()[0].source, Source::kExact);
  } else {
    EXPECT_NE(status.last_error.find("workspace"), std::string::npos) << status.last_error;
  }
  EXPECT_EQ(before->workspace_size(4), workspace);
  const auto after = get_kernel(layer(), options_);
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(after->buckets()[0].source, Source::kExact);
  stop_background_tuning();
  EXPECT_FALSE(background_tuning_status().running);
}

TEST_F(BackgroundTest, WhatAKernelThatIsGoneWantedIsTunedForTheOtherOne) {
  options_.max_tokens = 2;
  options_.tokens = {1, 2};
  auto gone = get_kernel(layer(), options_);
  ASSERT_TRUE(gone.ok()) << gone.status().to_string();
  // One kernel that is there at the start, and one that comes while the tuning waits.
  pause_background_tuning(true);
  ASSERT_TRUE(start_background_tuning({.idle_s = 0, .bucket_budget_s = 5}).ok());
  options_.tokens = {2};
  const auto kernel = get_kernel(layer(), options_);
  ASSERT_TRUE(kernel.ok());
  EXPECT_EQ(background_tuning_status().queued, 2);
  forget_kernels();  // the library's own hold on it
  gone = Status(StatusCode::kNotFound, "gone");
  pause_background_tuning(false);
  ASSERT_TRUE(wait_for([] {
    const auto s = background_tuning_status();
    return s.queued == 0 && s.at_work == 0;
  }));
  EXPECT_EQ(background_tuning_status().tuned, 1) << background_tuning_status().last_error;
  const auto after = get_kernel(layer(), options_);
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(after->buckets()[0].source, Source::kExact);
}

TEST_F(BackgroundTest, NothingHappensWhileLaunchesComeOrItIsPaused) {
  const auto kernel = get_kernel(layer(), options_);
  ASSERT_TRUE(kernel.ok());
  pause_background_tuning(true);
  ASSERT_TRUE(start_background_tuning({.idle_s = 3600}).ok());
  EXPECT_TRUE(background_tuning_status().paused);  // a start does not undo it
  note_launch(*kernel->state()->device, nullptr);  // as a launch does
  pause_background_tuning(false);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const BackgroundStatus status = background_tuning_status();
  EXPECT_EQ(status.queued, 1);
  EXPECT_EQ(status.at_work, 0);
  EXPECT_EQ(status.tuned + status.failed, 0);
}

TEST_F(BackgroundTest, LayersThatAreTooLargeAreLeftAlone) {
  const auto kernel = get_kernel(layer(), options_);
  ASSERT_TRUE(kernel.ok());
  ASSERT_TRUE(start_background_tuning({.idle_s = 0, .max_weight_bytes = 1000}).ok());
  ASSERT_TRUE(wait_for([] { return background_tuning_status().queued == 0; }));
  EXPECT_GE(background_tuning_status().failed, 1);
  EXPECT_EQ(kernel->buckets()[0].source, Source::kModel);
}

TEST_F(BackgroundTest, OptionsOutOfRangeAreNamed) {
  EXPECT_EQ(start_background_tuning({.idle_s = -1}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(start_background_tuning({.routing = "foo"}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(moejit_background_start(R"({"idle":1})"), MOEJIT_DATA_ERROR);
  EXPECT_EQ(moejit_background_pause(2), MOEJIT_INVALID_ARGUMENT);
  char* text = nullptr;
  ASSERT_EQ(moejit_background_status_json(&text), MOEJIT_OK);
  EXPECT_EQ(nlohmann::json::parse(text)["running"], false);
  moejit_string_free(text);
  EXPECT_EQ(moejit_background_stop(), MOEJIT_OK);  // also where nothing runs
}

}  // namespace
}  // namespace moejit::internal
