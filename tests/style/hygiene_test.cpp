// Rules of CONTRIBUTING.md that a program can check.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>

#include "tests/style/source_tree.h"

namespace moejit::style {
namespace {

bool is_this_test(const SourceFile& file) {
  return file.path.starts_with("tests/style/");
}

TEST(Hygiene, FilesHaveOneReasonEach) {
  for (const SourceFile& file : source_files()) {
    if (!is_cpp(file)) continue;
    EXPECT_LE(lines(file.text).size(), 500u) << file.path;
  }
}

TEST(Hygiene, TextIsClean) {
  for (const SourceFile& file : source_files()) {
    if (file.text.empty() || file.folder == "data") continue;
    EXPECT_EQ(file.text.back(), '\n') << file.path << " does not end with a line feed";
    if (file.path.starts_with("tests/") && !is_cpp(file)) continue;  // golden files
    int number = 0;
    for (const std::string& line : lines(file.text)) {
      ++number;
      EXPECT_EQ(line.find('\r'), std::string::npos) << file.path << ":" << number;
      EXPECT_FALSE(!line.empty() && line.back() == ' ') << file.path << ":" << number;
      if (is_cpp(file)) {
        EXPECT_EQ(line.find('\t'), std::string::npos) << file.path << ":" << number;
      }
    }
  }
}

TEST(Hygiene, NothingIsLeftForLater) {
  for (const SourceFile& file : source_files()) {
    if (is_this_test(file) || file.path == "CONTRIBUTING.md") continue;
    int number = 0;
    for (const std::string& line : lines(file.text)) {
      ++number;
      for (const char* word : {"TODO", "FIXME", "XXX", "HACK"}) {
        const size_t at = line.find(word);
        if (at == std::string::npos) continue;
        const size_t end = at + std::string(word).size();
        const auto letter = [&](size_t i) {
          return i < line.size() &&
                 (std::isalnum(static_cast<unsigned char>(line[i])) || line[i] == '_');
        };
        EXPECT_TRUE((at > 0 && letter(at - 1)) || letter(end))
            << file.path << ":" << number << ": " << line;
      }
    }
  }
}

// A path of somebody's machine works on that machine only.
TEST(Hygiene, NamesNoMachine) {
  for (const SourceFile& file : source_files()) {
    if (is_this_test(file)) continue;
    int number = 0;
    for (const std::string& line : lines(file.text)) {
      ++number;
      for (const char* path : {"/home/", "/work/", "/Users/", "/mnt/"}) {
        const size_t at = line.find(path);
        if (at == std::string::npos) continue;
        // "bench/work/x" is a path of the project; "\"/work/x" is one of a machine.
        const char before = at == 0 ? ' ' : line[at - 1];
        EXPECT_TRUE(std::isalnum(static_cast<unsigned char>(before)) || before == '.' ||
                    before == '_')
            << file.path << ":" << number << ": " << line;
      }
    }
  }
}

TEST(Hygiene, HeadersAreGuardedByPragmaOnce) {
  for (const SourceFile& file : source_files()) {
    if (!is_header(file) || file.path.ends_with("_c.h")) continue;
    EXPECT_NE(file.text.find("#pragma once"), std::string::npos) << file.path;
  }
}

TEST(Hygiene, FilesSayWhatTheyAre) {
  for (const SourceFile& file : source_files()) {
    const bool checked = is_header(file) && file.folder != "tests";
    if (!checked) continue;
    EXPECT_TRUE(file.text.starts_with("//") || file.text.starts_with("/*"))
        << file.path << ": a header begins with a comment that says what it is for";
  }
}

// The style is that of clang-format 14, which Debian 12 has; other versions differ in details.
TEST(Hygiene, SourcesAreFormatted) {
  std::string tool = "clang-format-14";
  if (std::system("clang-format-14 --version >/dev/null 2>&1") != 0) {
    if (std::system("clang-format --version 2>/dev/null | grep -q 'version 14\\.'") != 0) {
      GTEST_SKIP() << "clang-format 14 is not installed";
    }
    tool = "clang-format";
  }
  std::string command = "cd '" MOEJIT_SOURCE_DIR "' && " + tool + " --dry-run -Werror --style=file";
  for (const SourceFile& file : source_files()) {
    if (is_cpp(file) && !file.path.ends_with(".inc")) command += " '" + file.path + "'";
  }
  command += " 2>&1 | grep 'error:' | cut -d: -f1 | sort | uniq -c | sed 's/^ *//'";
  std::string wrong;
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  char buffer[512];
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) wrong += buffer;
  ASSERT_NE(pclose(pipe), -1);
  EXPECT_EQ(wrong, "") << "places per file that `clang-format -i FILE` would change";
}

}  // namespace
}  // namespace moejit::style
