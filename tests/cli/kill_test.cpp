// A tune that is killed at random points: what was measured is there, and is not measured again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

// Every row of the first column; empty where there is no database yet.
std::multiset<std::string> column(const std::string& sql) {
  std::multiset<std::string> rows;
  sqlite3* db = nullptr;
  const std::string path = (scratch() / "cache" / "moejit-v1.db").string();
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE, nullptr) == SQLITE_OK &&
      sqlite3_prepare_v2(db, sql.c_str(), -1, &statement, nullptr) == SQLITE_OK) {
    while (sqlite3_step(statement) == SQLITE_ROW)
      rows.insert(reinterpret_cast<const char*>(sqlite3_column_text(statement, 0)));
  }
  sqlite3_finalize(statement);
  sqlite3_close(db);
  return rows;
}

constexpr const char* kScreened =
    "SELECT p.tokens || ' ' || m.schedule FROM measurement m JOIN problem p USING (prob_id)"
    " WHERE m.stage = 'screen' AND m.status = 'ok'";
constexpr const char* kChosen =
    "SELECT p.tokens || ' ' || s.schedule || ' ' || s.policy_id FROM selection s"
    " JOIN problem p USING (prob_id) WHERE s.note = ''";

TEST(Kill, ATuneThatIsKilledAtAnyPointLosesNothingThatItFinished) {
  const char* level = std::getenv("MOEJIT_TEST_LEVEL");
  const int kills = level != nullptr && std::atoi(level) >= 2 ? 100 : 8;
  std::mt19937 random(5);
  std::multiset<std::string> screened, chosen;
  int killed = 0;
  // Where everything is slow, as under a sanitizer, more kills, and later ones.
  const auto enough = [&] { return screened.size() > 3 && !chosen.empty(); };
  for (int run = 0; run < kills || (run < 4 * kills && !enough()); ++run) {
    // The work has to last for all the kills, on a quiet machine too; no token count repeats.
    Invocation invocation;
    invocation.args = {"tune", "-E",     "4",        "-K",  "2",         "-H", "64",
                       "-I",   "64",     "--device", "cpu", "--threads", "2",  "--max-candidates",
                       "3",    "--json", "-t"};
    std::string tokens;
    for (int t = 1; t <= 10 * kills; ++t) tokens += (t > 1 ? "," : "") + std::to_string(t);
    invocation.args.push_back(tokens);
    invocation.environment = private_environment();
    // Enough for the limits of the device in some of the first runs, on a loaded machine too.
    const auto most = static_cast<unsigned>(4000 * (1 + run / kills));
    invocation.kill_after = std::chrono::milliseconds(50 + random() % most);
    const Output output = invoke(invocation);
    if (output.code == 0) break;
    ASSERT_EQ(output.code, -SIGKILL) << output.err;
    ++killed;
    const Output verified = moejit({"cache", "verify", "--json"});
    EXPECT_TRUE(verified.code == 0 || verified.code == 3) << verified.out << verified.err;
    const auto screened_now = column(kScreened), chosen_now = column(kChosen);
    EXPECT_TRUE(
        std::includes(screened_now.begin(), screened_now.end(), screened.begin(), screened.end()));
    EXPECT_TRUE(std::includes(chosen_now.begin(), chosen_now.end(), chosen.begin(), chosen.end()));
    screened = screened_now;
    chosen = chosen_now;
  }
  EXPECT_GT(killed, 2);
  EXPECT_GT(screened.size(), 3u);
  EXPECT_GT(chosen.size(), 0u);
  // Twice in the list: measured in one run and again in another.
  for (auto it = screened.begin(); it != screened.end(); it = screened.upper_bound(*it))
    EXPECT_EQ(screened.count(*it), 1u) << *it;
}

}  // namespace
}  // namespace moejit::cli_test
