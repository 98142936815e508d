#include "base/progress.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

namespace moejit::internal {
namespace {

using std::chrono::milliseconds;

// A pipe instead of stderr, and a clock that the test moves.
class ProgressTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(pipe(ends_), 0); }
  void TearDown() override {
    close(ends_[0]);
    if (ends_[1] >= 0) close(ends_[1]);
  }
  Progress::Clock clock() {
    return [this] { return now_; };
  }
  std::string written() {
    close(ends_[1]);
    ends_[1] = -1;
    std::string text;
    char buffer[1024];
    for (ssize_t n; (n = read(ends_[0], buffer, sizeof buffer)) > 0;) text.append(buffer, n);
    return text;
  }
  static std::function<std::string()> say(std::string text) {
    return [text = std::move(text)] { return text; };
  }

  int ends_[2] = {-1, -1};
  std::chrono::steady_clock::time_point now_{std::chrono::seconds(1000)};
};

TEST_F(ProgressTest, ALineIsRewrittenAtMostTenTimesASecond) {
  {
    Progress progress(ProgressMode::kLine, ends_[1], clock(), 80);
    progress.update(say("one"));
    now_ += milliseconds(50);
    progress.update(say("two"));
    now_ += milliseconds(60);
    progress.update(say("three"));
  }
  EXPECT_EQ(written(), "\rone\033[K\rthree\033[K\r\033[K");
}

TEST_F(ProgressTest, ALineIsCutToTheWidthOfTheTerminal) {
  {
    Progress progress(ProgressMode::kLine, ends_[1], clock(), 6);
    progress.update(say("\u00e4\u00f6\u00fcabcdef"));
  }
  EXPECT_EQ(written(), "\r\u00e4\u00f6\u00fcab\033[K\r\033[K");
}

TEST_F(ProgressTest, PlainIsALineEveryTenSecondsAndNothingForShortJobs) {
  {
    Progress progress(ProgressMode::kPlain, ends_[1], clock());
    for (int i = 0; i <= 25; ++i) {
      progress.update(say("at " + std::to_string(i)));
      now_ += milliseconds(1000);
    }
  }
  EXPECT_EQ(written(), "at 10\nat 20\n");
}

TEST_F(ProgressTest, MessagesStandAboveTheLine) {
  {
    Progress progress(ProgressMode::kLine, ends_[1], clock(), 80);
    progress.update(say("working"));
    progress.message("a warning");
    progress.update(say("working"));
  }
  EXPECT_EQ(written(), "\rworking\033[K\r\033[Ka warning\n\rworking\033[K\r\033[K");
}

TEST_F(ProgressTest, NoneIsSilentAndAsksForNoText) {
  {
    Progress progress(ProgressMode::kNone, ends_[1], clock());
    progress.update([]() -> std::string {
      ADD_FAILURE() << "text was asked for";
      return "";
    });
  }
  EXPECT_EQ(written(), "");
}

TEST_F(ProgressTest, AutoIsPlainWhereThereIsNoTerminal) {
  Progress progress(ProgressMode::kAuto, ends_[1], clock());
  EXPECT_EQ(progress.mode(), ProgressMode::kPlain);
}

TEST(ProgressMode, NamesAreChecked) {
  EXPECT_EQ(*progress_mode_from_string("json"), ProgressMode::kJson);
  EXPECT_FALSE(progress_mode_from_string("loud").ok());
}

}  // namespace
}  // namespace moejit::internal
