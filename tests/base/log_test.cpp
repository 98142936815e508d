#include "base/log.h"

#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace moejit::internal {
namespace {

struct Line {
  int level;
  std::string text;
};

class LogTest : public ::testing::Test {
 protected:
  void SetUp() override { set_log_sink(collect, this); }
  void TearDown() override { set_log_sink(nullptr, nullptr); }
  static void collect(int level, const char* message, void* user) {
    auto* test = static_cast<LogTest*>(user);
    std::lock_guard<std::mutex> lock(test->mutex_);
    test->lines_.push_back({level, message});
  }
  std::mutex mutex_;
  std::vector<Line> lines_;
};

TEST_F(LogTest, SinkReceivesEveryLevel) {
  EXPECT_TRUE(log_enabled(LogLevel::kDebug));
  log(LogLevel::kError, "cache", "a");
  log(LogLevel::kDebug, "tuner", "b");
  ASSERT_EQ(lines_.size(), 2u);
  EXPECT_EQ(lines_[0].level, 0);
  EXPECT_EQ(lines_[0].text, "cache: a");
  EXPECT_EQ(lines_[1].level, 3);
  EXPECT_EQ(lines_[1].text, "tuner: b");
}

TEST_F(LogTest, OnceIsPerKeyAndArea) {
  for (int i = 0; i < 3; ++i) {
    log_once(LogLevel::kInfo, "cache", "LogTest.key", "first");
    log_once(LogLevel::kInfo, "cache", "LogTest.other", "second");
    log_once(LogLevel::kInfo, "tuner", "LogTest.key", "third");
  }
  ASSERT_EQ(lines_.size(), 3u);
  EXPECT_EQ(lines_[0].text, "cache: first");
  EXPECT_EQ(lines_[1].text, "cache: second");
  EXPECT_EQ(lines_[2].text, "tuner: third");
}

TEST_F(LogTest, SinkMayLog) {
  set_log_sink(
      [](int, const char* message, void* user) {
        auto* lines = static_cast<std::vector<Line>*>(user);
        lines->push_back({0, message});
        if (lines->size() < 3) log(LogLevel::kWarning, "again", message);
      },
      &lines_);
  log(LogLevel::kWarning, "cache", "a");
  ASSERT_EQ(lines_.size(), 3u);
  EXPECT_EQ(lines_[2].text, "again: again: cache: a");
}

TEST_F(LogTest, ThreadsLoseNoLine) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 100; ++i) {
        log(LogLevel::kInfo, "x", "line");
        log_once(LogLevel::kInfo, "x", "LogTest.threads", "once");
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(lines_.size(), 401u);
}

TEST_F(LogTest, WithoutASinkWarningsGoToStandardError) {
  set_log_sink(nullptr, nullptr);
  ::testing::internal::CaptureStderr();
  log(LogLevel::kWarning, "cache", "cannot write");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "moejit W cache: cannot write\n");
  EXPECT_TRUE(lines_.empty());
}

}  // namespace
}  // namespace moejit::internal
