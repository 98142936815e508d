// What the README says about the code is what the code says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;

const fs::path kRoot = MOEJIT_SOURCE_DIR;

TEST(Readme, MatrixIsCurrent) {
  const std::string page = read_text(kRoot / "README.md");
  const std::string open = "<!-- matrix: moejit doctor --markdown -->\n";
  const size_t begin = page.find(open), end = page.find("<!-- end of matrix -->");
  ASSERT_NE(begin, std::string::npos);
  ASSERT_NE(end, std::string::npos);
  const size_t first = begin + open.size();
  const Output matrix = moejit({"doctor", "--markdown"});
  EXPECT_EQ(matrix.code, 0) << matrix.err;
  EXPECT_EQ(page.substr(first, end - first), matrix.out) << "scripts/update-readme renews it";
}

// Links of a page to other files of the project.
TEST(Readme, LinksLeadSomewhere) {
  std::vector<fs::path> pages = {kRoot / "README.md", kRoot / "CONTRIBUTING.md"};
  for (const auto& entry : fs::directory_iterator(kRoot / "docs")) pages.push_back(entry.path());
  for (const fs::path& page : pages) {
    const std::string text = read_text(page);
    for (size_t at = 0; (at = text.find("](", at)) != std::string::npos; ++at) {
      std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
      target = target.substr(0, target.find('#'));
      if (target.empty() || target.find("://") != std::string::npos) continue;
      EXPECT_TRUE(fs::exists(page.parent_path() / target)) << page << ": " << target;
    }
  }
}

// A command line that the README shows must at least be understood.
TEST(Readme, CommandsExist) {
  const std::string page = read_text(kRoot / "README.md");
  int shown = 0;
  for (size_t at = 0; (at = page.find("\n    moejit ", at)) != std::string::npos; ++at) {
    const size_t begin = at + 12;
    std::vector<std::string> words;
    std::string line = page.substr(begin, page.find('\n', begin) - begin);
    line = line.substr(0, line.find('#'));
    std::string word;
    for (const char c : line + " ") {
      if (c != ' ') {
        word += c;
      } else if (!word.empty()) {
        words.push_back(std::exchange(word, ""));
      }
    }
    words.push_back("--help");  // parses the options, runs nothing
    EXPECT_EQ(moejit(words).code, 0) << line;
    ++shown;
  }
  EXPECT_GE(shown, 5);
}

}  // namespace
}  // namespace moejit::cli_test
