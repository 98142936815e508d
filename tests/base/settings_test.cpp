#include "base/settings.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

namespace moejit::internal {
namespace {

using Environment = std::map<std::string, std::string>;

struct Read {
  Settings settings;
  std::vector<SettingRow> rows;

  const SettingRow& row(std::string_view name) const {
    for (const SettingRow& r : rows) {
      if (r.name == name) return r;
    }
    ADD_FAILURE() << name << " is not in the table";
    return rows[0];
  }
};

Read read(const Environment& environment) {
  Read result;
  result.settings = read_settings(
      [&](const char* name) -> const char* {
        const auto it = environment.find(name);
        return it == environment.end() ? nullptr : it->second.c_str();
      },
      &result.rows);
  return result;
}

TEST(Settings, DefaultsSayThatTheyAreDefaults) {
  const Read r = read({{"HOME", "/h"}, {"MOEJIT_LOG", ""}});
  EXPECT_EQ(r.settings.cache, CacheMode::kReadWrite);
  EXPECT_EQ(r.settings.cache_size, int64_t{2} << 30);
  EXPECT_EQ(r.settings.log, LogLevel::kWarning);
  EXPECT_EQ(r.settings.device, "auto");
  EXPECT_EQ(r.settings.num_threads, 0);
  for (const SettingRow& row : r.rows) {
    EXPECT_EQ(row.origin, "default") << row.name;
    EXPECT_EQ(row.problem, "") << row.name;
    EXPECT_NE(std::string(row.help), "") << row.name;
  }
}

TEST(Settings, DefaultTextMeansWhatTheStructHolds) {
  Environment environment{{"HOME", "/h"}};
  for (const SettingRow& row : read(environment).rows) {
    if (std::string_view(row.name) == "MOEJIT_CACHE_DIR") continue;
    environment[row.name] = row.default_text;
  }
  const Settings spelt = read(environment).settings, silent = read({{"HOME", "/h"}}).settings;
  EXPECT_EQ(spelt.cache, silent.cache);
  EXPECT_EQ(spelt.cache_path, silent.cache_path);
  EXPECT_EQ(spelt.cache_size, silent.cache_size);
  EXPECT_EQ(spelt.cache_allow_shared, silent.cache_allow_shared);
  EXPECT_EQ(spelt.cache_allow_network, silent.cache_allow_network);
  EXPECT_EQ(spelt.log, silent.log);
  EXPECT_EQ(spelt.device, silent.device);
  EXPECT_EQ(spelt.num_threads, silent.num_threads);
  EXPECT_EQ(spelt.spin_us, silent.spin_us);
  EXPECT_EQ(spelt.pin_threads, silent.pin_threads);
  EXPECT_EQ(spelt.num_compile_jobs, silent.num_compile_jobs);
  EXPECT_EQ(spelt.cpu_module, silent.cpu_module);
  EXPECT_EQ(spelt.nvrtc_path, silent.nvrtc_path);
  EXPECT_EQ(spelt.sim_checks, silent.sim_checks);
  EXPECT_EQ(spelt.dump_dir, silent.dump_dir);
}

TEST(Settings, EnvironmentIsTakenAndNamed) {
  const Read r = read({{"MOEJIT_CACHE_DIR", "/c"},
                       {"MOEJIT_CACHE", "ro"},
                       {"MOEJIT_CACHE_PATH", "/a::/b:"},
                       {"MOEJIT_CACHE_SIZE", "64M"},
                       {"MOEJIT_LOG", "debug"},
                       {"MOEJIT_NUM_THREADS", "3"},
                       {"MOEJIT_PIN_THREADS", "1"}});
  EXPECT_EQ(r.settings.cache_dir, "/c");
  EXPECT_EQ(r.settings.cache, CacheMode::kReadOnly);
  EXPECT_EQ(r.settings.cache_path, (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(r.settings.cache_size, int64_t{64} << 20);
  EXPECT_EQ(r.settings.log, LogLevel::kDebug);
  EXPECT_EQ(r.settings.num_threads, 3);
  EXPECT_TRUE(r.settings.pin_threads);
  EXPECT_EQ(r.row("MOEJIT_LOG").origin, "environment");
  EXPECT_EQ(r.row("MOEJIT_LOG").value, "debug");
  EXPECT_EQ(r.row("MOEJIT_DEVICE").origin, "default");
}

TEST(Settings, BadValuesKeepTheDefaultAndSayWhy) {
  const Read r = read({{"MOEJIT_CACHE", "yes"},
                       {"MOEJIT_CACHE_SIZE", "9999999999T"},
                       {"MOEJIT_NUM_THREADS", "-1"},
                       {"MOEJIT_SPIN_US", "10us"},
                       {"MOEJIT_LOG", "WARN"}});
  EXPECT_EQ(r.settings.cache, CacheMode::kReadWrite);
  EXPECT_EQ(r.settings.cache_size, int64_t{2} << 30);
  EXPECT_EQ(r.settings.num_threads, 0);
  EXPECT_EQ(r.settings.spin_us, 50);
  EXPECT_EQ(r.row("MOEJIT_CACHE").problem,
            "MOEJIT_CACHE = \"yes\": must be off, ro or rw; taking rw");
  EXPECT_EQ(r.row("MOEJIT_NUM_THREADS").problem,
            "MOEJIT_NUM_THREADS = \"-1\": must be an integer between 0 and 1024; taking 0");
  EXPECT_NE(r.row("MOEJIT_CACHE_SIZE").problem, "");
  EXPECT_NE(r.row("MOEJIT_SPIN_US").problem, "");
  EXPECT_EQ(r.row("MOEJIT_LOG").origin, "default");
  for (const char* bad : {"G", "", "1.5G", "-1", "2 G", "9223372036854775808"}) {
    const Read size = read({{"MOEJIT_CACHE_SIZE", bad}});
    EXPECT_EQ(size.settings.cache_size, int64_t{2} << 30) << bad;
  }
}

TEST(Settings, CacheDirectoryFallsBackInOrder) {
  Environment all{{"MOEJIT_CACHE_DIR", "/m"}, {"XDG_CACHE_HOME", "/x"}, {"HOME", "/h"}};
  EXPECT_EQ(read(all).settings.cache_dir, "/m");
  all.erase("MOEJIT_CACHE_DIR");
  EXPECT_EQ(read(all).settings.cache_dir, "/x/moejit");
  all["XDG_CACHE_HOME"] = "relative";
  EXPECT_EQ(read(all).settings.cache_dir, "/h/.cache/moejit");
  EXPECT_EQ(read(all).row("MOEJIT_CACHE_DIR").value, "/h/.cache/moejit");
  all.erase("HOME");
  EXPECT_EQ(read(all).settings.cache_dir, "");
  EXPECT_EQ(read(all).settings.cache_dir_reason,
            "no directory: MOEJIT_CACHE_DIR and XDG_CACHE_HOME are unset and HOME is unset");
  EXPECT_EQ(read(all).row("MOEJIT_CACHE_DIR").value, "(none)");
}

// A variable that some file reads by itself would be missing from `moejit env`.
TEST(Settings, TheTableHoldsEveryVariableOfTheSources) {
  std::set<std::string> known;
  for (const SettingRow& row : read({}).rows) known.insert(row.name);
  int files = 0;
  for (const char* layer :
       {"base", "generator", "backends", "cache", "tuner", "runtime", "tools"}) {
    const std::filesystem::path root = std::filesystem::path(MOEJIT_SOURCE_DIR) / layer;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      const std::string extension = entry.path().extension();
      if (extension != ".cpp" && extension != ".h") continue;
      ++files;
      std::stringstream text;
      text << std::ifstream(entry.path()).rdbuf();
      const std::string content = text.str();
      // Every whole string literal that looks like a variable's name.
      for (size_t at = content.find("\"MOEJIT_"); at != content.npos;
           at = content.find("\"MOEJIT_", at + 1)) {
        const size_t end =
            content.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_", at + 1);
        if (end == content.npos || content[end] != '"') continue;
        const std::string name = content.substr(at + 1, end - at - 1);
        EXPECT_TRUE(known.count(name)) << entry.path() << " reads " << name;
      }
    }
  }
  EXPECT_GT(files, 20);
}

TEST(Settings, TheDocumentHoldsTheTable) {
  std::stringstream text;
  text << std::ifstream(std::filesystem::path(MOEJIT_SOURCE_DIR) / "docs/env.md").rdbuf();
  std::string want = "|---|---|---|\n";
  for (const SettingRow& row : read({}).rows) {
    const std::string default_text = *row.default_text == '\0' ? "(none)" : row.default_text;
    want += std::string("| `") + row.name + "` | " + default_text + " | " + row.help + " |\n";
  }
  EXPECT_NE(text.str().find(want + "\n"), std::string::npos) << "docs/env.md should hold\n" << want;
}

}  // namespace
}  // namespace moejit::internal
