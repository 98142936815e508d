// A tune whose results could not be kept says so, and with its exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::vector<std::string> tune_words(const std::string& tokens,
                                    const std::vector<std::string>& more = {}) {
  std::vector<std::string> all = {
      "tune", "--json", "-t", tokens, "--device", "cpu", "--threads", "2", "--max-candidates", "2"};
  for (const char* word : {"-E", "4", "-K", "2", "-H", "64", "-I", "64"}) all.emplace_back(word);
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

TEST(Keep, ATuneThatCouldKeepNothingDoesNotBegin) {
  const fs::path open_to_all = scratch() / "shared";
  fs::create_directory(open_to_all);
  ASSERT_EQ(::chmod(open_to_all.c_str(), 0777), 0);
  const Output refused = moejit(tune_words("1", {"--cache-dir", open_to_all.string()}));
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("could not be kept"));
  EXPECT_THAT(refused.err, HasSubstr("--cache-dir"));
  EXPECT_EQ(refused.out, "");
  // Where nothing is to be kept it is no error.
  const Output off = moejit_with({{"MOEJIT_CACHE", "off"}}, tune_words("1"));
  EXPECT_EQ(off.code, 0) << off.err;
}

TEST(Keep, ADiskThatFillsUpEndsATuneWithAnError) {
  const fs::path disk = scratch() / "disk";
  fs::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=400k,mode=0700") != 0) {
    GTEST_SKIP() << "mounting is not permitted here";
  }
  const Output full = moejit(tune_words("1,2,4,8,16,32", {"--cache-dir", disk.string()}));
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_THAT(full.err, HasSubstr("not in the cache"));
  EXPECT_THAT(full.err, HasSubstr("full"));
  const auto report = json_of(full.out);
  EXPECT_GT(report["missing"], 0);  // it did not go on for long
  EXPECT_EQ(::mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT, "size=8m,mode=0700"), 0);
  const Output again = moejit(tune_words("1,2,4,8,16,32", {"--cache-dir", disk.string()}));
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(::umount2(disk.c_str(), MNT_DETACH), 0);
}

TEST(Keep, AChoiceThatCannotBeFollowedIsTunedAnew) {
  ASSERT_EQ(moejit(tune_words("1,4")).code, 0);
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((scratch() / "cache" / "moejit-v1.db").c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db,
                         "UPDATE selection SET schedule = 'no {schedule' WHERE prob_id ="
                         " (SELECT prob_id FROM problem WHERE tokens = 4)",
                         nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  // Listed as the text that it is.
  const auto listed = json_of(moejit({"cache", "ls", "--kind", "choice", "--json"}).out);
  EXPECT_EQ(listed["rows"].size(), 4u);
  const Output again = moejit(tune_words("1,4"));
  ASSERT_EQ(again.code, 0) << again.err;
  const auto report = json_of(again.out);
  EXPECT_EQ(report["rows"][0]["from_cache"], true);
  EXPECT_EQ(report["rows"][1]["from_cache"], false);
  EXPECT_TRUE(report["rows"][1]["schedule"].is_object());
}

}  // namespace
}  // namespace moejit::cli_test
