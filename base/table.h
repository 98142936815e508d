// Tables of results: for people in aligned columns, for programs as JSON, JSON lines or CSV.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

enum class TableFormat : int32_t { kTable = 0, kJson = 1, kJsonLines = 2, kCsv = 3 };
Result<TableFormat> table_format_from_string(std::string_view name);

// What a column's numbers mean. Programs get the plain SI number under the column's key; people get
// one unit for the whole column, chosen by its largest value and shown in the heading.
enum class Unit : int32_t {
  kNone = 0,    // text, integers, booleans
  kNumber = 1,  // a plain real number, 4 significant digits
  kSeconds = 2,
  kBytes = 3,       // B, KiB, MiB, GiB
  kBytesPerS = 4,   // GB/s
  kFlopsPerS = 5,   // GFLOP/s
  kShare = 6,       // a ratio shown as percent
  kRatio = 7,       // "1.31x"
  kScientific = 8,  // "1.2e-03"
  kUnixTime = 9,    // integer seconds, shown as local date and time; 0 is not known
};

// JSON text: a member as it is in JSON (a string where it is not valid), its text in CSV, `brief`
// for people where given.
struct JsonText {
  std::string text;
  std::string brief;
};

// One value. Without one it is not known: JSON null, CSV empty, "-" for people.
struct Cell {
  enum class Kind : int32_t { kUnknown, kBool, kInteger, kReal, kText, kJson };

  Cell() = default;
  Cell(bool value) : kind(Kind::kBool), integer(value) {}                 // NOLINT: implicit
  Cell(int64_t value) : kind(Kind::kInteger), integer(value) {}           // NOLINT
  Cell(double value) : kind(Kind::kReal), real(value) {}                  // NOLINT
  Cell(std::string value) : kind(Kind::kText), text(std::move(value)) {}  // NOLINT
  Cell(JsonText value)                                                    // NOLINT
      : kind(Kind::kJson), text(std::move(value.text)), brief(std::move(value.brief)) {}
  Cell(const char*) = delete;  // would become a bool

  bool is_number() const { return kind == Kind::kInteger || kind == Kind::kReal; }
  double number() const { return kind == Kind::kReal ? real : static_cast<double>(integer); }

  Kind kind = Kind::kUnknown;
  int64_t integer = 0;
  double real = 0;
  std::string text;
  std::string brief;
};

// A double that counts as not known where it is not above 0 (the API's "0 while unknown").
Cell known_if_positive(double value);

struct Column {
  std::string key;    // "median_s": the name in JSON and CSV
  std::string title;  // "time": the heading for people; the unit is added, or is all of it
  Unit unit = Unit::kNone;
  bool wide = false;  // left out for people, unless asked for
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // REQUIRES: one cell per column.
  void add(std::vector<Cell> row);
  // A named value above the rows: a member beside "rows" in JSON, a line above the table for
  // people, left out of CSV and JSON lines.
  void fact(std::string key, std::string title, Cell value, Unit unit = Unit::kNone);

  // The facts as the only row of a table, for formats that leave facts out.
  Table facts_as_row() const;

  const std::vector<Column>& columns() const { return columns_; }
  const std::vector<std::vector<Cell>>& rows() const { return rows_; }

  struct Style {
    TableFormat format = TableFormat::kTable;
    bool bold_headings = false;
    bool wide = false;  // all columns for people
    // Columns of the screen, 0: no limit. Text is wrapped at spaces; a column of text that has no
    // room even then stands below its row.
    int width = 0;
  };
  // JSON: {"schema":1,"command":...,facts...,"rows":[{...}]} and a line feed.
  std::string render(const Style& style, std::string_view command) const;
  // The rows as a Markdown table, for documentation.
  std::string markdown() const;

 private:
  struct Fact {
    Column column;
    Cell value;
  };
  std::string render_table(const Style& style) const;
  std::string render_facts(size_t width) const;
  std::string render_csv() const;
  void append_object(std::string* out, const std::vector<Cell>& row) const;
  // Cells as people read them; row 0 is the headings. `numeric` says which columns align right.
  std::vector<std::vector<std::string>> text_cells(bool wide, std::vector<bool>* numeric) const;

  std::vector<Column> columns_;
  std::vector<Fact> facts_;
  std::vector<std::vector<Cell>> rows_;
};

// One value with a unit of its own: "41.2 us", "3.1 GiB", "87.3 %".
std::string format_value(const Cell& value, Unit unit);
// "1:05", "2:03:10": a duration as a clock shows it.
std::string format_clock(double seconds);

}  // namespace moejit::internal
