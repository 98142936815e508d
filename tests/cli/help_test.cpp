// `--help` of every verb answers at once: it opens no device, no module and no database.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

using testing::HasSubstr;

struct VerbName {
  std::string name;  // "cache ls"
  std::vector<std::string> words() const {
    const size_t space = name.find(' ');
    if (space == std::string::npos) return {name};
    return {name.substr(0, space), name.substr(space + 1)};
  }
};

// From the same list as the command's own table.
const std::vector<VerbName>& verb_names() {
  static const std::vector<VerbName> names = {
#define MOEJIT_VERB(function, name, summary) VerbName{name},
#include "tools/verbs.inc"
#undef MOEJIT_VERB
  };
  return names;
}

TEST(Help, ListsEveryVerb) {
  const Output top = moejit({"--help"});
  EXPECT_EQ(top.code, 0);
  EXPECT_EQ(top.err, "");
  for (const VerbName& verb : verb_names()) EXPECT_THAT(top.out, HasSubstr(verb.words().front()));
  EXPECT_THAT(top.out, HasSubstr("Exit codes"));
}

TEST(Help, EveryVerbAnswersOnStdoutAndTouchesNothing) {
  for (const VerbName& verb : verb_names()) {
    std::vector<std::string> args = verb.words();
    args.push_back("--help");
    // A module that cannot be opened and a cache that cannot be made would be noticed.
    const Output help = moejit_with({{"MOEJIT_CPU_MODULE", "/nonexistent/module.so"},
                                     {"MOEJIT_CACHE_DIR", (scratch() / "cache").string()},
                                     {"MOEJIT_LOG", "debug"}},
                                    args);
    EXPECT_EQ(help.code, 0) << verb.name;
    EXPECT_EQ(help.err, "") << verb.name;
    EXPECT_THAT(help.out, HasSubstr(verb.words().back())) << verb.name;
    EXPECT_FALSE(std::filesystem::exists(scratch() / "cache")) << verb.name;
  }
}

TEST(Help, NamesTheSelectors) {
  for (const char* verb : {"tune", "bench", "verify", "explain", "generate", "run"}) {
    const Output help = moejit({verb, "--help"});
    for (const char* option : {"--model", "--config", "--experts", "--top-k", "--hidden",
                               "--intermediate", "--dtype", "--tp", "--device"}) {
      EXPECT_THAT(help.out, HasSubstr(option)) << verb;
    }
  }
  const Output tune = moejit({"tune", "--help"});
  for (const char* option : {"--tokens", "--routing", "--budget", "--jobs"}) {
    EXPECT_THAT(tune.out, HasSubstr(option));
  }
}

TEST(Help, DocumentedVerbsAreTheVerbs) {
  const std::string page = read_text(std::filesystem::path(MOEJIT_SOURCE_DIR) / "docs/cli.md");
  for (const VerbName& verb : verb_names()) {
    EXPECT_THAT(page, HasSubstr("moejit " + verb.name)) << "docs/cli.md says nothing about it";
  }
}

}  // namespace
}  // namespace moejit::cli_test
