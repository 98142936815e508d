#include "base/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace moejit::internal {
namespace {

Table sample() {
  Table table({{"name", "name"},
               {"median_s", "time", Unit::kSeconds},
               {"share", "of limit", Unit::kShare},
               {"ok", "ok"},
               {"detail", "detail", Unit::kNone, /*wide=*/true}});
  table.add({std::string("a,\"b\""), 41.25e-6, 0.873, true, std::string("x")});
  table.add({std::string("second"), 1.5e-3, Cell(), false, JsonText{"{\"k\":1}", "k=1"}});
  return table;
}

TEST(Table, PeopleReadOneUnitPerColumn) {
  EXPECT_EQ(sample().render({}, "x"),
            "name    time ms  of limit %  ok\n"
            "a,\"b\"     0.041        87.3  yes\n"
            "second    1.500           -  no\n");
}

TEST(Table, WideShowsEveryColumn) {
  const std::string text = sample().render({.wide = true}, "x");
  EXPECT_NE(text.find("detail"), std::string::npos);
  EXPECT_NE(text.find("k=1"), std::string::npos);
  EXPECT_EQ(text.find("{\"k\":1}"), std::string::npos);
}

TEST(Table, WhatIsNoJsonIsAString) {
  Table table(std::vector<Column>{{"value", "value"}});
  const std::string texts[] = {"garbage", "{\"a\":", "{\"a\":\n1}", "{}{}", "\xff\x1b[2J"};
  for (const std::string& text : texts) table.add({JsonText{text, "brief"}});
  const auto json =
      nlohmann::json::parse(table.render({.format = TableFormat::kJson}, "x"), nullptr, false);
  ASSERT_TRUE(json.is_object());
  for (size_t i = 0; i < std::size(texts); ++i) EXPECT_TRUE(json["rows"][i]["value"].is_string());
  const std::string lines = table.render({.format = TableFormat::kJsonLines}, "x");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 5);
}

Table wordy() {
  Table table({{"name", "name"}, {"schedule", "schedule"}, {"median_s", "time", Unit::kSeconds}});
  table.add({std::string("a"), std::string("cpu_moe row_block=64 column_block=512"), 1.5e-3});
  table.add({std::string("second"), std::string("cpu_moe row_block=16"), Cell()});
  return table;
}

TEST(Table, TextWrapsAtSpacesWhereTheScreenIsNarrow) {
  EXPECT_EQ(wordy().render({.width = 60}, "x"),
            "name    schedule                               time ms\n"
            "a       cpu_moe row_block=64 column_block=512    1.500\n"
            "second  cpu_moe row_block=16                         -\n");
  EXPECT_EQ(wordy().render({.width = 40}, "x"),
            "name    schedule                 time ms\n"
            "a       cpu_moe row_block=64       1.500\n"
            "        column_block=512\n"
            "second  cpu_moe row_block=16           -\n");
}

TEST(Table, TextWithoutRoomStandsBelowItsRow) {
  EXPECT_EQ(wordy().render({.width = 32}, "x"),
            "name    time ms\n"
            "a         1.500\n"
            "    schedule: cpu_moe\n"
            "              row_block=64\n"
            "              column_block=512\n"
            "second        -\n"
            "    schedule: cpu_moe\n"
            "              row_block=16\n");
}

TEST(Table, LongWordsStayWholeAndFactsWrapUnderThemselves) {
  Table table({{"key", "key"}, {"n", "n"}});
  const std::string key(64, 'f');
  table.fact("reason", "reason", std::string("of all that was measured this was the fastest"));
  table.add({key, int64_t{1}});
  EXPECT_EQ(table.render({.width = 30}, "x"),
            "reason: of all that was\n"
            "        measured this was the\n"
            "        fastest\n"
            "\n"
            "key                          n\n" +
                key + "  1\n");
}

TEST(Table, AColumnWithoutNumbersHasNoUnit) {
  Table table({{"name", "name"}, {"median_s", "time", Unit::kSeconds}});
  table.add({std::string("a"), Cell()});
  EXPECT_EQ(table.render({}, "x"),
            "name  time\n"
            "a        -\n");
}

TEST(Table, BoldOnlyWhenAsked) {
  EXPECT_EQ(sample().render({}, "x").find('\033'), std::string::npos);
  EXPECT_EQ(sample().render({.bold_headings = true}, "x").rfind("\033[1m", 0), 0u);
}

TEST(Table, CsvQuotesWhatNeedsItAndKeepsPlainNumbers) {
  EXPECT_EQ(sample().render({.format = TableFormat::kCsv}, "x"),
            "name,median_s,share,ok,detail\n"
            "\"a,\"\"b\"\"\",4.125e-05,0.873,true,x\n"
            "second,0.0015,,false,\"{\"\"k\"\":1}\"\n");
}

TEST(Table, JsonHasSchemaCommandFactsAndTypedRows) {
  Table table = sample();
  table.fact("device", "device", std::string("cpu"));
  table.fact("rate", "rate", std::numeric_limits<double>::quiet_NaN());
  const auto json = nlohmann::json::parse(table.render({.format = TableFormat::kJson}, "bench"));
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["command"], "bench");
  EXPECT_EQ(json["device"], "cpu");
  EXPECT_TRUE(json["rate"].is_null());
  ASSERT_EQ(json["rows"].size(), 2u);
  EXPECT_EQ(json["rows"][0]["name"], "a,\"b\"");
  EXPECT_DOUBLE_EQ(json["rows"][0]["median_s"], 41.25e-6);
  EXPECT_EQ(json["rows"][0]["ok"], true);
  EXPECT_TRUE(json["rows"][1]["share"].is_null());
  EXPECT_EQ(json["rows"][1]["detail"]["k"], 1);
}

TEST(Table, JsonLinesAreOneObjectPerRow) {
  const std::string text = sample().render({.format = TableFormat::kJsonLines}, "x");
  const size_t end = text.find('\n');
  EXPECT_EQ(nlohmann::json::parse(text.substr(0, end))["name"], "a,\"b\"");
  EXPECT_EQ(nlohmann::json::parse(text.substr(end + 1))["name"], "second");
}

TEST(Table, ControlCharactersDoNotBreakLines) {
  Table table(std::vector<Column>{{"text", "text"}});
  table.add({std::string("two\nlines")});
  EXPECT_EQ(table.render({}, "x"), "text\ntwo lines\n");
}

TEST(Table, WithoutRowsOnlyFactsAreShown) {
  Table table(std::vector<Column>{{"text", "text"}});
  table.fact("a", "first", int64_t{1});
  EXPECT_EQ(table.render({}, "x"), "first: 1\n");
  EXPECT_EQ(table.render({.format = TableFormat::kJson}, "x"),
            "{\"schema\":1,\"command\":\"x\",\"a\":1,\"rows\":[]}\n");
}

TEST(Table, MarkdownAlignsNumbersRight) {
  Table table({{"name", "name"}, {"n", "n"}});
  table.add({std::string("a"), int64_t{3}});
  EXPECT_EQ(table.markdown(), "| name | n |\n|---|--:|\n| a | 3 |\n");
}

TEST(FormatValue, TakesAUnitThatFits) {
  EXPECT_EQ(format_value(41.23e-6, Unit::kSeconds), "41.23 us");
  EXPECT_EQ(format_value(2.5, Unit::kSeconds), "2.500 s");
  EXPECT_EQ(format_value(int64_t{3} << 30, Unit::kBytes), "3.000 GiB");
  EXPECT_EQ(format_value(int64_t{512}, Unit::kBytes), "512 B");
  EXPECT_EQ(format_value(18.4e9, Unit::kBytesPerS), "18.40 GB/s");
  EXPECT_EQ(format_value(0.873, Unit::kShare), "87.3 %");
  EXPECT_EQ(format_value(1.306, Unit::kRatio), "1.31x");
  EXPECT_EQ(format_value(0.00123, Unit::kScientific), "1.2e-03");
  EXPECT_EQ(format_value(Cell(), Unit::kSeconds), "-");
  EXPECT_EQ(format_value(std::numeric_limits<double>::infinity(), Unit::kSeconds), "-");
}

TEST(FormatClock, ReadsAsAClock) {
  EXPECT_EQ(format_clock(0), "0:00");
  EXPECT_EQ(format_clock(65.4), "1:05");
  EXPECT_EQ(format_clock(7390), "2:03:10");
  EXPECT_EQ(format_clock(-5), "0:00");
  EXPECT_EQ(format_clock(std::numeric_limits<double>::infinity()), "277777:46:40");
}

TEST(KnownIfPositive, ZeroMeansUnknown) {
  EXPECT_EQ(known_if_positive(0).kind, Cell::Kind::kUnknown);
  EXPECT_EQ(known_if_positive(std::nan("")).kind, Cell::Kind::kUnknown);
  EXPECT_EQ(known_if_positive(2).real, 2);
}

}  // namespace
}  // namespace moejit::internal
