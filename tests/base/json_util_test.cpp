#include "base/json_util.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "base/nearest.h"
#include "moejit/status.h"

namespace moejit::internal {
namespace {

TEST(ParseJson, BuildsTheTree) {
  Result<nlohmann::json> value = parse_json(R"({"a":[1,-2,3.5,{"b":null}],"c":{"d":"\u00e9"}})");
  ASSERT_TRUE(value.ok()) << value.status().to_string();
  EXPECT_EQ(value->dump(), "{\"a\":[1,-2,3.5,{\"b\":null}],\"c\":{\"d\":\"\xC3\xA9\"}}");
}

TEST(ParseJson, SiblingsMayShareAName) {
  EXPECT_TRUE(parse_json(R"([{"a":1},{"a":2}])").ok());
  EXPECT_TRUE(parse_json(R"({"a":{"a":1},"b":{"a":2}})").ok());
  EXPECT_EQ(parse_json(R"({"a":{"b":{},"c":1},"a":2})").status().message(), "a: given twice");
}

TEST(ParseJson, RefusesInvalidUtf8) {
  EXPECT_FALSE(parse_json("\"\xC0\x80\"").ok());
  EXPECT_FALSE(parse_json("\"\xED\xA0\x80\"").ok());
}

TEST(JsonText, EscapesWhatJsonForbids) {
  EXPECT_EQ(json_string("a\"b\\c\n\t\x01"), "\"a\\\"b\\\\c\\n\\t\\u0001\"");
  EXPECT_EQ(json_string("\xC3\xA9\xF0\x9F\x98\x80"), "\"\xC3\xA9\xF0\x9F\x98\x80\"");
  EXPECT_EQ(json_string("x\xFFy\xC3"), "\"x\xEF\xBF\xBDy\xEF\xBF\xBD\"");
}

TEST(JsonText, EveryByteSequenceGivesValidJson) {
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    std::string text(random() % 6, '\0');
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_TRUE(parse_json(json_string(text)).ok());
  }
}

TEST(JsonText, NumbersRoundTrip) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t bits = random();
    double value;
    static_assert(sizeof(value) == sizeof(bits));
    memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    Result<nlohmann::json> back = parse_json(json_number(value));
    ASSERT_TRUE(back.ok()) << json_number(value);
    EXPECT_EQ(back->get<double>(), value);
  }
  EXPECT_EQ(json_number(0.1), "0.1");
  EXPECT_EQ(json_number(-0.0), "0");
  EXPECT_EQ(json_number(std::numeric_limits<double>::infinity()), "null");
}

TEST(NearestNames, PrefersTheFewestEdits) {
  const std::vector<std::string> names = {"mixtral-8x7b", "mixtral-8x22b", "qwen3-30b-a3b",
                                          "deepseek-v3"};
  EXPECT_EQ(nearest_names("mixtral8x7b", names, 1), std::vector<std::string>{"mixtral-8x7b"});
  EXPECT_EQ(nearest_names("QWEN3", names, 1), std::vector<std::string>{"qwen3-30b-a3b"});
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_TRUE(nearest_names("zzzz", {"ab"}).empty());
}

TEST(StatusText, NamesTheCode) {
  EXPECT_EQ(Status().to_string(), "OK");
  EXPECT_EQ(invalid_argument("a = 1: must be 2").to_string(), "INVALID_ARGUMENT: a = 1: must be 2");
  EXPECT_STREQ(to_string(static_cast<StatusCode>(99)), "UNKNOWN");
  for (int i = 0; i <= 13; ++i) {
    EXPECT_STRNE(to_string(static_cast<StatusCode>(i)), "UNKNOWN") << i;
  }
}

}  // namespace
}  // namespace moejit::internal
