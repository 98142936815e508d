#include "tools/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moejit::tools {
namespace {

using testing::ElementsAre;

TEST(ParseTokens, ListsAndRanges) {
  EXPECT_THAT(*parse_tokens("1,8,32"), ElementsAre(1, 8, 32));
  EXPECT_THAT(*parse_tokens("1:16"), ElementsAre(1, 2, 4, 8, 16));
  EXPECT_THAT(*parse_tokens("3:20,7,8"), ElementsAre(4, 7, 8, 16));
  EXPECT_THAT(*parse_tokens("32,1,32"), ElementsAre(1, 32));
  EXPECT_THAT(*parse_tokens("0,1", 0), ElementsAre(0, 1));
  EXPECT_EQ(parse_tokens("1:8192")->size(), 14u);
}

TEST(ParseTokens, RefusesEverythingElse) {
  for (const char* text : {"", ",", "1,", "x", "1.5", "-1", "0", " 1", "1:2:3", "8:", ":8", "5:7",
                           "8:4", "99999999999", "99999999999999999999", "1 2"}) {
    EXPECT_FALSE(parse_tokens(text).ok()) << text;
  }
}

TEST(ParseSeconds, Units) {
  EXPECT_DOUBLE_EQ(*parse_seconds("60s"), 60);
  EXPECT_DOUBLE_EQ(*parse_seconds("5m"), 300);
  EXPECT_DOUBLE_EQ(*parse_seconds("1.5h"), 5400);
  EXPECT_DOUBLE_EQ(*parse_seconds("250ms"), 0.25);
  EXPECT_DOUBLE_EQ(*parse_seconds("90"), 90);
}

TEST(ParseSeconds, RefusesEverythingElse) {
  for (const char* text :
       {"", "s", "0", "0s", "-5s", "5 s", "5d", "1e3s", "1.2.3s", "inf", "nan"}) {
    EXPECT_FALSE(parse_seconds(text).ok()) << text;
  }
}

TEST(CheckRouting, Names) {
  EXPECT_TRUE(check_routing("uniform", false).ok());
  EXPECT_TRUE(check_routing("zipf:1.2", false).ok());
  EXPECT_TRUE(check_routing("trace:file.json", false).ok());
  EXPECT_TRUE(check_routing("skip", true).ok());
  for (const char* text : {"", "Uniform", "zipf", "zipf:", "zipf:a", "zipf:-1", "zipf:1.2x",
                           "zipf:nan", "trace:", "skip"}) {
    EXPECT_FALSE(check_routing(text, false).ok()) << text;
  }
}

}  // namespace
}  // namespace moejit::tools
