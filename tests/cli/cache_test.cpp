// `moejit cache`: looking, checking and clearing, from outside.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Puts a choice and a few kernels into the test's cache.
void fill() {
  const Output output =
      moejit({"tune", "-q", "-E", "4", "-K", "2", "-H", "64", "-I", "64", "--device", "cpu",
              "--threads", "2", "-t", "1", "--max-candidates", "2"});
  ASSERT_EQ(output.code, 0) << output.err;
}

nlohmann::json rows(const std::vector<std::string>& args) {
  const Output output = moejit(args);
  EXPECT_EQ(output.code, 0) << output.err;
  return json_of(output.out)["rows"];
}

// Flips one bit of every kernel's machine code, wherever the database keeps it: in its file or its
// log. Code of the CPU carries the magic of its image at its end.
int flip_bits() {
  int flipped = 0;
  for (const auto& entry : fs::directory_iterator(scratch() / "cache")) {
    if (!entry.is_regular_file()) continue;
    std::string bytes = read_text(entry.path());
    for (size_t at = 0; (at = bytes.find("MOEJITK1", at)) != std::string::npos; at += 8) {
      if (at < 512) continue;
      bytes[at - 300] = static_cast<char>(bytes[at - 300] ^ 4);
      ++flipped;
    }
    write_text(entry.path(), bytes);
  }
  return flipped;
}

// One connection that closes last leaves everything in the database's file.
void fold_log() {
  sqlite3* db = nullptr;
  for (const auto& entry : fs::directory_iterator(scratch() / "cache")) {
    if (entry.path().extension() != ".db") continue;
    ASSERT_EQ(sqlite3_open(entry.path().c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", nullptr, nullptr, nullptr),
              SQLITE_OK);
    sqlite3_close(db);
  }
}

TEST(Cache, PathIsOneLineForPeople) {
  EXPECT_EQ(moejit({"cache", "path", "--format", "table"}).out,
            (scratch() / "cache").string() + "\n");
}

TEST(Cache, NothingThereIsCodeThreeAndCreatesNothing) {
  for (const char* verb : {"ls", "stats", "verify", "history"}) {
    const Output output = moejit({"cache", verb});
    EXPECT_EQ(output.code, 3) << verb;
    EXPECT_THAT(output.err, HasSubstr((scratch() / "cache").string())) << verb;
  }
  EXPECT_EQ(moejit({"cache", "show", "abcdef"}).code, 3);
  EXPECT_EQ(moejit({"cache", "clear", "--yes"}).code, 0);
  EXPECT_FALSE(fs::exists(scratch() / "cache"));
}

TEST(Cache, ListsShowsAndCounts) {
  fill();
  const auto kernels = rows({"cache", "ls", "--kind", "kernel", "--json"});
  const auto choices = rows({"cache", "ls", "--kind", "choice", "--json"});
  ASSERT_GE(kernels.size(), 1u);
  ASSERT_GE(choices.size(), 1u);
  EXPECT_EQ(rows({"cache", "ls", "--json"}).size(), kernels.size() + choices.size());
  EXPECT_EQ(choices[0]["layer"]["num_experts"], 4);

  const std::string key = kernels[0]["key"];
  EXPECT_EQ(key.size(), 64u);
  const auto shown = json_of(moejit({"cache", "show", key.substr(0, 16), "--json"}).out);
  EXPECT_EQ(shown["key"], key);
  EXPECT_EQ(shown["bytes"], kernels[0]["bytes"]);
  EXPECT_EQ(moejit({"cache", "show", "not-hexadecimal"}).code, 2);

  const auto stats = json_of(moejit({"cache", "stats", "--json"}).out);
  EXPECT_EQ(stats["artifacts"], kernels.size());
  EXPECT_EQ(stats["selections"], choices.size());
}

TEST(Cache, VerifyFindsAFlippedBitAndRepairs) {
  fill();
  EXPECT_EQ(moejit({"cache", "verify"}).code, 0);
  fold_log();  // pages of the log have checksums of SQLite's own
  ASSERT_GT(flip_bits(), 0);
  const Output found = moejit({"cache", "verify", "--json"});
  EXPECT_EQ(found.code, 5);
  EXPECT_EQ(json_of(found.out)["ok"], false);
  EXPECT_EQ(json_of(found.out)["rows"][0]["kind"], "damaged kernel");
  EXPECT_EQ(moejit({"cache", "verify", "--repair"}).code, 5) << "it says what it found";
  EXPECT_EQ(moejit({"cache", "verify"}).code, 0);
}

TEST(Cache, DeletingNeedsYesWithoutATerminal) {
  fill();
  for (const char* verb : {"clear", "gc"}) {
    const Output refused = moejit({"cache", verb});
    EXPECT_EQ(refused.code, 2) << verb;
    EXPECT_THAT(refused.err, HasSubstr("--yes")) << verb;
  }
  EXPECT_GE(rows({"cache", "ls", "--json"}).size(), 2u);
  EXPECT_EQ(moejit({"cache", "gc", "--dry-run", "--losers"}).code, 0);
  EXPECT_EQ(moejit({"cache", "gc", "--losers", "-y"}).code, 0);
  const auto cleared = rows({"cache", "clear", "--yes", "--json"});
  EXPECT_GT(cleared[0]["bytes"].get<int64_t>(), 0);
  const Output after = moejit({"cache", "ls", "--json"});
  EXPECT_TRUE(after.code == 3 || json_of(after.out)["rows"].empty());
}

TEST(Cache, NothingWritesOverADatabase) {
  fill();
  fold_log();
  const std::string database = (scratch() / "cache" / "moejit-v1.db").string();
  const std::string pack = (scratch() / "shipped.pack").string();
  ASSERT_EQ(moejit({"cache", "pack", pack}).code, 0);
  const std::string before = read_text(database), packed = read_text(pack);
  for (const std::string& file : {database, pack}) {
    const Output page = moejit({"report", file, "--from", pack});
    EXPECT_EQ(page.code, 2);
    EXPECT_THAT(page.err, HasSubstr(file + "\": is a database"));
  }
  EXPECT_THAT(moejit({"cache", "pack", database}).err, HasSubstr("is what is to be packed"));
  EXPECT_THAT(moejit({"cache", "pack", database, "--cache-dir", pack}).err,
              HasSubstr("is the database of a cache"));
  EXPECT_EQ(moejit({"cache", "pack", pack, "--cache-dir", pack}).code, 2);
  EXPECT_EQ(read_text(database), before);
  EXPECT_EQ(read_text(pack), packed);
  EXPECT_EQ(moejit({"cache", "pack", pack}).code, 0) << "an older pack may be replaced";
}

// The device's limits are measured once, and again where --force asks for it.
TEST(Cache, ForceRenewsTheLimits) {
  fill();
  const std::string path = (scratch() / "cache" / "moejit-v1.db").string();
  const auto measured_at = [&](const char* change) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, change, nullptr, nullptr, nullptr), SQLITE_OK) << change;
    sqlite3_stmt* query = nullptr;
    EXPECT_EQ(sqlite3_prepare_v2(db, "SELECT limits_at FROM env", -1, &query, nullptr), SQLITE_OK);
    EXPECT_EQ(sqlite3_step(query), SQLITE_ROW);
    const int64_t at = sqlite3_column_int64(query, 0);
    sqlite3_finalize(query);
    sqlite3_close(db);
    return at;
  };
  EXPECT_GT(measured_at(""), 1600000000);
  EXPECT_EQ(measured_at("UPDATE env SET limits_at = 5"), 5);
  fill();
  EXPECT_EQ(measured_at(""), 5);
  const Output forced =
      moejit({"tune", "-q", "-E", "4", "-K", "2", "-H", "64", "-I", "64", "--device", "cpu",
              "--threads", "2", "-t", "1", "--max-candidates", "2", "--force"});
  ASSERT_EQ(forced.code, 0) << forced.err;
  EXPECT_GT(measured_at(""), 1600000000);
}

TEST(Cache, AStreamThatIsClosedIsNoFileOfTheCache) {
  fill();
  const std::string line = "MOEJIT_CACHE_DIR='" + (scratch() / "cache").string() +
                           "' '" MOEJIT_COMMAND
                           "' explain -E 4 -K 2 -H 64 -I 64 -d cpu -t 1 >&- 2>/dev/null";
  EXPECT_NE(std::system(line.c_str()), 0) << "what was not written is no success";
  for (const auto& entry : fs::directory_iterator(scratch() / "cache")) {
    if (entry.path().extension() != ".lock") continue;
    EXPECT_EQ(fs::file_size(entry.path()), 0u) << entry.path();
  }
}

TEST(Cache, ADryMergeNeedsNoCache) {
  fill();
  const std::string pack = (scratch() / "shipped.pack").string();
  const auto packed = rows({"cache", "pack", pack, "--json"});
  const std::string other = (scratch() / "other").string();
  const auto would =
      rows({"cache", "merge", pack, "--dry-run", "--cpu-code", "--cache-dir", other, "--json"});
  EXPECT_EQ(would[0]["taken"], packed[0]["binaries"]);
  EXPECT_EQ(would[1]["taken"], packed[0]["selections"]);
  EXPECT_FALSE(fs::exists(other));
}

TEST(Cache, ReadOnlyIsNotChanged) {
  fill();
  const std::string key = rows({"cache", "ls", "--kind", "choice", "--json"})[0]["key"];
  const std::string pack = (scratch() / "shipped.pack").string();
  ASSERT_EQ(moejit({"cache", "pack", pack}).code, 0);
  const std::map<std::string, std::string> read_only = {{"MOEJIT_CACHE", "ro"}};
  const auto before = rows({"cache", "ls", "--json"});
  const std::vector<std::vector<std::string>> changes = {
      {"clear", "-y"}, {"gc", "-y", "--losers"},     {"pin", key},
      {"merge", pack}, {"merge", pack, "--dry-run"}, {"verify", "--repair"}};
  for (std::vector<std::string> verb : changes) {
    verb.insert(verb.begin(), "cache");
    const Output refused = moejit_with(read_only, verb);
    EXPECT_EQ(refused.code, 2) << verb[1];
    EXPECT_THAT(refused.err, HasSubstr("MOEJIT_CACHE = \"ro\"")) << verb[1];
  }
  const Output tune = moejit_with(read_only, {"tune", "-E", "4", "-K", "2", "-H", "64", "-I", "64",
                                              "--device", "cpu", "-t", "2"});
  EXPECT_EQ(tune.code, 2);
  EXPECT_THAT(tune.err, HasSubstr("MOEJIT_CACHE = \"ro\": results could not be kept"));
  for (const std::vector<std::string>& looks :
       std::vector<std::vector<std::string>>{{"cache", "gc", "--dry-run"}, {"cache", "verify"}})
    EXPECT_EQ(moejit_with(read_only, looks).code, 0) << looks[1];
  EXPECT_EQ(rows({"cache", "ls", "--json"}), before);
}

TEST(Cache, APinnedChoiceSaysSo) {
  fill();
  const std::string key = rows({"cache", "ls", "--kind", "choice", "--json"})[0]["key"];
  EXPECT_EQ(rows({"cache", "pin", key, "--json"})[0]["how"], "pinned");
  EXPECT_NE(rows({"cache", "pin", key, "--off", "--json"})[0]["how"], "pinned");
  EXPECT_GE(rows({"cache", "history", key, "--json"}).size(), 1u);
}

TEST(Cache, APackTravels) {
  fill();
  const std::string pack = (scratch() / "shipped.pack").string();
  const auto packed = rows({"cache", "pack", pack, "--json"});
  EXPECT_GE(packed[0]["selections"].get<int>(), 1);
  EXPECT_EQ(packed[0]["bytes"].get<uintmax_t>(), fs::file_size(pack));
  const std::string other = (scratch() / "other").string();
  const auto merged = rows({"cache", "merge", pack, "--cache-dir", other, "--cpu-code", "--json"});
  EXPECT_EQ(merged[0]["what"], "kernels");
  EXPECT_EQ(merged[0]["taken"], packed[0]["binaries"]);
  EXPECT_GE(rows({"cache", "ls", "--cache-dir", other, "--json"}).size(), 2u);
  const std::string wrong(64, '0');
  EXPECT_NE(moejit({"cache", "merge", pack, "--cache-dir", other, "--sha256", wrong}).code, 0);
  EXPECT_EQ(moejit({"cache", "diff", pack, other, "--json"}).code, 0);
}

TEST(Cache, ASignedPackBringsCodeForTheCpuToWhomTrustsTheKey) {
  fill();
  const std::string pack = (scratch() / "signed.pack").string();
  const std::string key = (scratch() / "site.key").string();
  const Output made = moejit({"cache", "keygen", key, "--json"});
  if (made.code == 4) GTEST_SKIP() << made.err;
  ASSERT_EQ(made.code, 0) << made.err;
  EXPECT_EQ(moejit({"cache", "keygen", key}).code, 2);
  const auto packed = rows({"cache", "pack", pack, "--sign", key, "--json"});
  EXPECT_EQ(packed[0]["signature"], pack + ".sig");
  const std::string other = (scratch() / "trusting").string();
  const auto merged =
      rows({"cache", "merge", pack, "--cache-dir", other, "--trust", key + ".pub", "--json"});
  EXPECT_EQ(merged[0]["taken"], packed[0]["binaries"]);
  fs::remove(pack + ".sig");
  const Output refused =
      moejit({"cache", "merge", pack, "--cache-dir", other, "--trust", key + ".pub"});
  EXPECT_EQ(refused.code, 5);
  EXPECT_THAT(refused.err, HasSubstr("is not signed"));
}

TEST(Cache, WrongValuesAreUsageErrors) {
  EXPECT_EQ(moejit({"cache", "gc", "--max-size", "much"}).code, 2);
  EXPECT_EQ(moejit({"cache", "gc", "--older-than", "0d"}).code, 2);
  EXPECT_EQ(moejit({"cache", "ls", "--kind", "shoes"}).code, 2);
  EXPECT_EQ(moejit({"cache", "ls", "--limit", "-1"}).code, 2);
  EXPECT_EQ(moejit({"cache", "merge", "x", "--margin", "1.5"}).code, 2);
}

}  // namespace
}  // namespace moejit::cli_test
