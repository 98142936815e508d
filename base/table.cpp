#include "base/table.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/json_util.h"

namespace moejit::internal {
namespace {

struct Scale {
  double factor = 1;
  const char* name = "";
};

// The unit in which `largest` has at least one digit before the point.
Scale scale_for(Unit unit, double largest) {
  switch (unit) {
    case Unit::kSeconds:
      if (largest >= 1) return {1, "s"};
      if (largest >= 1e-3) return {1e3, "ms"};
      if (largest >= 1e-6) return {1e6, "us"};
      return {1e9, "ns"};
    case Unit::kBytes:
      if (largest >= 1024.0 * 1024 * 1024) return {1 / (1024.0 * 1024 * 1024), "GiB"};
      if (largest >= 1024.0 * 1024) return {1 / (1024.0 * 1024), "MiB"};
      if (largest >= 1024) return {1 / 1024.0, "KiB"};
      return {1, "B"};
    case Unit::kBytesPerS:
      return {1e-9, "GB/s"};
    case Unit::kFlopsPerS:
      return {1e-9, "GFLOP/s"};
    case Unit::kShare:
      return {100, "%"};
    case Unit::kNone:
    case Unit::kNumber:
    case Unit::kRatio:
    case Unit::kScientific:
    case Unit::kUnixTime:
      break;
  }
  return {};
}

std::string format_number(const char* format, double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof buffer, format, value);
  return buffer;
}

// Four significant digits, without an exponent in the range of everyday numbers.
std::string significant(double value) {
  const double size = std::fabs(value);
  if (size != 0 && (size >= 1e7 || size < 1e-4)) return format_number("%.2e", value);
  if (size >= 1000) return format_number("%.0f", value);
  if (size >= 100) return format_number("%.1f", value);
  if (size >= 10) return format_number("%.2f", value);
  return format_number("%.3f", value);
}

std::string time_text(int64_t seconds) {
  const auto time = static_cast<time_t>(seconds);
  struct tm parts {};
  char buffer[32];
  if (seconds <= 0 || localtime_r(&time, &parts) == nullptr ||
      std::strftime(buffer, sizeof buffer, "%Y-%m-%d %H:%M", &parts) == 0) {
    return "-";
  }
  return buffer;
}

std::string real_text(double value, Unit unit, const Scale& scale) {
  if (!std::isfinite(value)) return "-";
  switch (unit) {
    case Unit::kScientific:
      return value == 0 ? "0" : format_number("%.1e", value);
    case Unit::kRatio:
      return format_number("%.2fx", value);
    case Unit::kShare:
      return format_number("%.1f", value * scale.factor);
    case Unit::kBytes:
      if (scale.factor == 1) return format_number("%.0f", value);
      [[fallthrough]];
    default:
      return significant(value * scale.factor);
  }
}

// Control characters would break the columns.
std::string one_line(const std::string& text) {
  std::string line = text;
  std::replace_if(
      line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return line;
}

std::string cell_text(const Cell& cell, Unit unit, const Scale& scale) {
  switch (cell.kind) {
    case Cell::Kind::kUnknown:
      break;
    case Cell::Kind::kBool:
      return cell.integer != 0 ? "yes" : "no";
    case Cell::Kind::kText:
      return one_line(cell.text);
    case Cell::Kind::kJson:
      return one_line(cell.brief.empty() ? cell.text : cell.brief);
    case Cell::Kind::kInteger:
      if (unit == Unit::kNone) return std::to_string(cell.integer);
      if (unit == Unit::kUnixTime) return time_text(cell.integer);
      [[fallthrough]];
    case Cell::Kind::kReal:
      return real_text(cell.number(), unit, scale);
  }
  return "-";
}

// What a cache or a pack holds for JSON may be anything; it must not break the line or the document
// that it stands in.
bool is_json_line(const std::string& text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20; }) &&
         nlohmann::json::accept(text);
}

void append_json_cell(std::string* out, const Cell& cell) {
  switch (cell.kind) {
    case Cell::Kind::kUnknown:
      *out += "null";
      break;
    case Cell::Kind::kBool:
      *out += cell.integer != 0 ? "true" : "false";
      break;
    case Cell::Kind::kInteger:
      *out += std::to_string(cell.integer);
      break;
    case Cell::Kind::kReal:
      append_json_number(out, cell.real);
      break;
    case Cell::Kind::kText:
      append_json_string(out, cell.text);
      break;
    case Cell::Kind::kJson:
      if (cell.text.empty()) {
        *out += "null";
      } else if (is_json_line(cell.text)) {
        *out += cell.text;
      } else {
        append_json_string(out, cell.text);
      }
      break;
  }
}

// RFC 4180: quotes only where they are needed.
std::string csv_cell(const Cell& cell) {
  std::string text = cell.text;
  if (cell.kind == Cell::Kind::kBool || cell.is_number()) append_json_cell(&text, cell);
  if (cell.is_number() && text == "null") text.clear();
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + '"';
}

// Columns on a screen: code points, not bytes.
size_t display_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

// Columns of the screen: what text is worth wrapping into, and the longest word that counts then.
constexpr size_t kLeastText = 16, kMostWord = 24;

// Cut at spaces into lines of at most `width`; a longer word keeps a line of its own, whole.
std::vector<std::string> wrap(const std::string& text, size_t width) {
  if (display_width(text) <= width) return {text};
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!lines.empty() && display_width(lines.back()) + 1 + display_width(word) <= width) {
      lines.back() += " " + word;
    } else if (!word.empty()) {
      lines.push_back(word);
    }
    at = end + 1;
  }
  return lines.empty() ? std::vector<std::string>{""} : lines;
}

struct Layout {
  std::vector<size_t> widths;
  std::vector<bool> below;  // not in the line, but under it
};

// Fits the columns into `limit` (0: any width): text gives way first by wrapping, then by going
// below.
Layout lay_out(const std::vector<std::vector<std::string>>& lines, const std::vector<bool>& numeric,
               size_t limit) {
  const size_t count = numeric.size();
  Layout layout{std::vector<size_t>(count), std::vector<bool>(count)};
  std::vector<size_t> least(count);
  for (const auto& line : lines) {
    for (size_t i = 0; i < count; ++i) {
      layout.widths[i] = std::max(layout.widths[i], display_width(line[i]));
      for (const std::string& word : wrap(line[i], 1))
        least[i] = std::max(least[i], display_width(word));
    }
  }
  for (size_t i = 0; i < count; ++i) {
    least[i] = numeric[i] ? layout.widths[i]
                          : std::min(layout.widths[i], std::clamp(least[i], kLeastText, kMostWord));
  }
  if (limit == 0) return layout;
  const auto total = [&](const std::vector<size_t>& widths) {
    size_t sum = 0, columns = 0;
    for (size_t i = 0; i < count; ++i) {
      if (layout.below[i]) continue;
      sum += widths[i];
      ++columns;
    }
    return columns == 0 ? 0 : sum + 2 * (columns - 1);
  };
  while (total(least) > limit) {
    size_t widest = count;
    for (size_t i = 0; i < count; ++i) {
      // The first one names the row.
      if (i == 0 || numeric[i] || layout.below[i] || least[i] < kLeastText) continue;
      if (widest == count || least[i] > least[widest]) widest = i;
    }
    if (widest == count) break;  // numbers and short words alone: the terminal has to wrap them
    layout.below[widest] = true;
  }
  while (total(layout.widths) > limit) {
    size_t widest = count;
    for (size_t i = 0; i < count; ++i) {
      if (layout.below[i] || layout.widths[i] <= least[i]) continue;
      if (widest == count || layout.widths[i] > layout.widths[widest]) widest = i;
    }
    if (widest == count) break;
    --layout.widths[widest];
  }
  return layout;
}

}  // namespace

Result<TableFormat> table_format_from_string(std::string_view name) {
  if (name == "table") return TableFormat::kTable;
  if (name == "json") return TableFormat::kJson;
  if (name == "jsonl") return TableFormat::kJsonLines;
  if (name == "csv") return TableFormat::kCsv;
  return invalid_argument("format = \"" + std::string(name) +
                          "\": must be table, json, jsonl or csv");
}

Cell known_if_positive(double value) {
  return value > 0 ? Cell(value) : Cell();
}

void Table::add(std::vector<Cell> row) {
  assert(row.size() == columns_.size());
  rows_.push_back(std::move(row));
}

void Table::fact(std::string key, std::string title, Cell value, Unit unit) {
  facts_.push_back({Column{std::move(key), std::move(title), unit}, std::move(value)});
}

Table Table::facts_as_row() const {
  std::vector<Column> columns;
  std::vector<Cell> row;
  for (const Fact& fact : facts_) {
    columns.push_back(fact.column);
    row.push_back(fact.value);
  }
  Table table(std::move(columns));
  table.add(std::move(row));
  return table;
}

void Table::append_object(std::string* out, const std::vector<Cell>& row) const {
  *out += '{';
  for (size_t i = 0; i < columns_.size(); ++i) {
    if (i > 0) *out += ',';
    append_json_string(out, columns_[i].key);
    *out += ':';
    append_json_cell(out, row[i]);
  }
  *out += '}';
}

std::vector<std::vector<std::string>> Table::text_cells(bool wide,
                                                        std::vector<bool>* numeric) const {
  std::vector<std::vector<std::string>> lines(rows_.size() + 1);
  for (size_t i = 0; i < columns_.size(); ++i) {
    const Column& column = columns_[i];
    if (column.wide && !wide) continue;
    double largest = 0;
    bool any_number = false;
    for (const auto& row : rows_) {
      if (!row[i].is_number()) continue;
      any_number = true;
      if (std::isfinite(row[i].number())) largest = std::max(largest, std::fabs(row[i].number()));
    }
    const bool any_unit = any_number || column.title.empty();
    const Scale scale = any_unit ? scale_for(column.unit, largest) : Scale{};
    const std::string gap = column.title.empty() || *scale.name == '\0' ? "" : " ";
    lines[0].push_back(column.title + gap + scale.name);
    for (size_t r = 0; r < rows_.size(); ++r) {
      lines[r + 1].push_back(cell_text(rows_[r][i], column.unit, scale));
    }
    numeric->push_back(any_number || column.unit != Unit::kNone);
  }
  return lines;
}

std::string Table::render_facts(size_t width) const {
  size_t title_width = 0;
  for (const Fact& fact : facts_) {
    title_width = std::max(title_width, display_width(fact.column.title));
  }
  const size_t indent = title_width + 2;
  std::string out;
  for (const Fact& fact : facts_) {
    const std::string text = one_line(format_value(fact.value, fact.column.unit));
    out += fact.column.title + ":";
    out.append(title_width - display_width(fact.column.title) + 1, ' ');
    const bool wraps = width >= indent + kLeastText && display_width(text) > width - indent;
    const auto lines = wraps ? wrap(text, width - indent) : std::vector<std::string>{text};
    for (size_t i = 0; i < lines.size(); ++i) {
      if (i > 0) out.append(indent, ' ');
      out += lines[i] + "\n";
    }
  }
  return out;
}

std::string Table::render_table(const Style& style) const {
  const auto limit = static_cast<size_t>(std::max(style.width, 0));
  std::string out = render_facts(limit);
  if (columns_.empty() || rows_.empty()) return out;
  if (!facts_.empty()) out += "\n";

  std::vector<bool> numeric;
  const auto lines = text_cells(style.wide, &numeric);
  const Layout layout = lay_out(lines, numeric, limit);
  for (size_t r = 0; r < lines.size(); ++r) {
    std::vector<std::vector<std::string>> cells;
    size_t height = 1;
    for (size_t i = 0; i < lines[r].size(); ++i) {
      cells.push_back(numeric[i] ? std::vector<std::string>{lines[r][i]}
                                 : wrap(lines[r][i], layout.widths[i]));
      if (!layout.below[i]) height = std::max(height, cells[i].size());
    }
    if (r == 0 && style.bold_headings) out += "\033[1m";
    for (size_t h = 0; h < height; ++h) {
      std::string line;
      size_t gap = 0;  // blanks that are owed, so that no line ends in them
      for (size_t i = 0; i < cells.size(); ++i) {
        if (layout.below[i]) continue;
        const std::string text = h < cells[i].size() ? cells[i][h] : "";
        const size_t width = display_width(text);
        const size_t padding = layout.widths[i] > width ? layout.widths[i] - width : 0;
        if (numeric[i]) gap += padding;
        if (!text.empty()) {
          line.append(gap, ' ');
          line += text;
          gap = 0;
        } else if (numeric[i]) {
          gap -= padding;
          gap += layout.widths[i];
        }
        gap += (numeric[i] ? 0 : padding) + 2;
      }
      if (r == 0 && h + 1 == height && style.bold_headings) line += "\033[0m";
      out += line + "\n";
    }
    for (size_t i = 0; r > 0 && i < cells.size(); ++i) {
      if (!layout.below[i]) continue;
      const std::string title = "    " + lines[0][i] + ": ";
      const size_t room = limit > title.size() + kLeastText ? limit - title.size() : kLeastText;
      const auto text = wrap(lines[r][i], room);
      for (size_t h = 0; h < text.size(); ++h) {
        out += (h == 0 ? title : std::string(title.size(), ' ')) + text[h] + "\n";
      }
    }
  }
  return out;
}

std::string Table::render_csv() const {
  std::string out;
  for (size_t i = 0; i < columns_.size(); ++i) {
    out += (i > 0 ? "," : "") + csv_cell(columns_[i].key);
  }
  out += "\n";
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) out += (i > 0 ? "," : "") + csv_cell(row[i]);
    out += "\n";
  }
  return out;
}

std::string Table::render(const Style& style, std::string_view command) const {
  std::string out;
  switch (style.format) {
    case TableFormat::kTable:
      return render_table(style);
    case TableFormat::kCsv:
      return render_csv();
    case TableFormat::kJsonLines:
      for (const auto& row : rows_) {
        append_object(&out, row);
        out += '\n';
      }
      return out;
    case TableFormat::kJson:
      break;
  }
  out = "{\"schema\":1,\"command\":";
  append_json_string(&out, command);
  for (const Fact& fact : facts_) {
    out += ',';
    append_json_string(&out, fact.column.key);
    out += ':';
    append_json_cell(&out, fact.value);
  }
  if (!columns_.empty()) {
    out += ",\"rows\":[";
    for (size_t r = 0; r < rows_.size(); ++r) {
      if (r > 0) out += ',';
      append_object(&out, rows_[r]);
    }
    out += ']';
  }
  return out + "}\n";
}

std::string Table::markdown() const {
  std::vector<bool> numeric;
  const auto lines = text_cells(/*wide=*/true, &numeric);
  std::string out;
  for (size_t r = 0; r < lines.size(); ++r) {
    out += '|';
    for (const std::string& cell : lines[r]) out += " " + cell + " |";
    out += '\n';
    if (r > 0) continue;
    out += '|';
    for (const bool right : numeric) out += right ? "--:|" : "---|";
    out += '\n';
  }
  return out;
}

std::string format_value(const Cell& value, Unit unit) {
  const Scale scale = scale_for(
      unit, value.is_number() && std::isfinite(value.number()) ? std::fabs(value.number()) : 0);
  const std::string text = cell_text(value, unit, scale);
  return *scale.name && value.is_number() && text != "-" ? text + " " + scale.name : text;
}

std::string format_clock(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(std::clamp(seconds, 0.0, 1e9)));
  char buffer[48];
  const auto hours = static_cast<long long>(total / 3600);
  const int minutes = static_cast<int>(total / 60 % 60), rest = static_cast<int>(total % 60);
  if (hours > 0) {
    std::snprintf(buffer, sizeof buffer, "%lld:%02d:%02d", hours, minutes, rest);
  } else {
    std::snprintf(buffer, sizeof buffer, "%d:%02d", minutes, rest);
  }
  return buffer;
}

}  // namespace moejit::internal
