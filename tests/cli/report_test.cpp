// `moejit report`: one page from the database, and the same numbers as JSON and CSV.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/cli/process.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

void fill(const std::string& routing = "uniform") {
  const Output output = moejit({"tune",
                                "-q",
                                "-E",
                                "4",
                                "-K",
                                "2",
                                "-H",
                                "64",
                                "-I",
                                "64",
                                "--device",
                                "cpu",
                                "--threads",
                                "2",
                                "-t",
                                "1,4",
                                "--max-candidates",
                                "2",
                                "--routing",
                                routing});
  ASSERT_EQ(output.code, 0) << output.err;
}

// What stands between the page's <script type="application/json"> and its end.
nlohmann::json data_of(const std::string& page) {
  const std::string begin = "id=\"data\">";
  const size_t from = page.find(begin);
  EXPECT_NE(from, std::string::npos);
  const size_t start = from + begin.size(), end = page.find("</script>", start);
  return json_of(page.substr(start, end - start));
}

TEST(Report, JsonHasEveryChoiceWithItsTrials) {
  fill();
  fill("zipf:1.2");
  const auto json = json_of(moejit({"report", "--json"}).out);
  ASSERT_EQ(json["choices"].size(), 4u);  // two token counts, two routings; none twice
  ASSERT_EQ(json["devices"].size(), 1u);
  EXPECT_GT(json["devices"][0]["read_bytes_per_s"].get<double>(), 0);
  int served = 0;
  for (const auto& choice : json["choices"]) {
    EXPECT_EQ(choice["layer"], "E4 K2 H64 I64 bf16");
    EXPECT_THAT((std::vector<std::string>{"uniform", "zipf:1.2"}),
                testing::Contains(choice["routing"].get<std::string>()));
    EXPECT_GT(choice["median_s"].get<double>(), 0);
    EXPECT_NEAR(choice["share"].get<double>(),
                choice["floor_s"].get<double>() / choice["median_s"].get<double>(), 1e-9);
    // 3 * H * I multiply-adds for each of T * K rows.
    EXPECT_EQ(choice["flops"].get<double>(), 6.0 * 64 * 64 * 2 * choice["tokens"].get<double>());
    ASSERT_FALSE(choice["trials"].empty());
    EXPECT_EQ(choice["trials"].size(), choice["candidates"].get<size_t>());
    served += choice["served"].get<bool>();
  }
  EXPECT_GE(served, 2);
  EXPECT_EQ(json["inventory"]["choices"].get<int>() > 0, true);
}

TEST(Report, CsvHasARowPerChoice) {
  fill();
  const std::string csv = moejit({"report", "--format", "csv"}).out;
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);
  EXPECT_THAT(csv, HasSubstr("median_s"));
}

TEST(Report, PageHoldsTheSameDataAndAsksForNothing) {
  fill();
  const std::string file = (scratch() / "report.html").string();
  const Output output = moejit({"report", file});
  ASSERT_EQ(output.code, 0) << output.err;
  EXPECT_EQ(output.out, "");
  const std::string page = read_text(file);
  EXPECT_EQ(data_of(page)["choices"], json_of(moejit({"report", "--json"}).out)["choices"]);
  for (const char* mark : {"/*STYLE*/", "/*SCRIPT*/", "/*DATA*/"})
    EXPECT_THAT(page, Not(HasSubstr(mark)));
  // The name space of SVG is the one address, and is never fetched.
  std::string rest = page;
  const std::string name_space = "http://www.w3.org/2000/svg";
  rest.replace(rest.find(name_space), name_space.size(), "");
  for (const char* reference : {"http:", "https:", "src=", "@import", "url(\"", "fetch("})
    EXPECT_THAT(rest, Not(HasSubstr(reference)));
}

TEST(Report, TextOfTheDatabaseCannotEndTheScript) {
  fill();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((scratch() / "cache" / "moejit-v1.db").c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db, "UPDATE measurement SET note = '</script><script>alert(1)</script>'",
                         nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  const std::string file = (scratch() / "report.html").string();
  ASSERT_EQ(moejit({"report", file}).code, 0);
  const std::string page = read_text(file);
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_EQ(data_of(page)["choices"][0]["trials"][0]["note"], "</script><script>alert(1)</script>");
}

TEST(Report, AnEmptyCacheAndAMissingOne) {
  const Output missing = moejit({"report", "--from", (scratch() / "nowhere").string()});
  EXPECT_EQ(missing.code, 3) << missing.err;
  const Output unwritable = [] {
    fill();
    return moejit({"report", (scratch() / "no" / "such" / "dir.html").string()});
  }();
  EXPECT_EQ(unwritable.code, 1);
  EXPECT_THAT(unwritable.err, HasSubstr("dir.html"));
}

// Opens the page as a reader would: everything is drawn, and nothing is wider than a phone.
TEST(Report, DrawsInABrowser) {
  std::string browser;
  for (const char* name :
       {"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"}) {
    if (fs::exists(name)) browser = name;
  }
  if (browser.empty()) GTEST_SKIP() << "no Chromium on this machine";
  fill();
  const fs::path file = scratch() / "report.html", dom = scratch() / "dom.html",
                 picture = scratch() / "page.png";
  ASSERT_EQ(moejit({"report", file.string()}).code, 0);
  const std::string common = "timeout 60 " + browser +
                             " --headless=new --no-sandbox --disable-gpu --user-data-dir=" +
                             (scratch() / "profile").string();
  const std::string address = " file://" + file.string();
  ASSERT_EQ(std::system((common + " --window-size=400,900 --dump-dom" + address + " >" +
                         dom.string() + " 2>/dev/null")
                            .c_str()),
            0);
  const std::string drawn = read_text(dom);
  EXPECT_THAT(drawn, HasSubstr("data-drawn=\"yes\"")) << "the script failed";
  for (const char* figure : {"roofline", "time", "share", "model", "search"}) {
    const size_t at = drawn.find("<figure id=\"" + std::string(figure) + "\"");
    ASSERT_NE(at, std::string::npos) << figure;
    EXPECT_LT(drawn.find("<svg", at), drawn.find("</figure>", at)) << figure << " is empty";
  }
  EXPECT_THAT(drawn, Not(HasSubstr("NaN")));
  ASSERT_EQ(std::system((common + " --window-size=1200,900 --screenshot=" + picture.string() +
                         address + " >/dev/null 2>&1")
                            .c_str()),
            0);
  EXPECT_GT(fs::file_size(picture), 20000u);
}

}  // namespace
}  // namespace moejit::cli_test
