// JSON in: a strict parser that says where a text is wrong, and typed field access that says which
// field is wrong. JSON out: quoting and numbers for code that writes its own canonical text.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

// kDataError "line 3, column 7: ..." for anything that RFC 8259 forbids, for duplicate names
// ("router.scoring: given twice"), numbers beyond double, invalid UTF-8 and nesting below 64.
Result<nlohmann::json> parse_json(std::string_view text);

// Typed access to one object. The first error is kept and returned by finish(); reads after it do
// nothing. A field that is absent leaves the destination as it is. Wrong types and values out of
// range are kDataError: "router.n_group = \"x\": must be an integer".
class JsonFields {
 public:
  // `path` names the object in messages; "" for the outermost. The json must outlive this.
  JsonFields(const nlohmann::json& value, std::string path);

  void read(const char* name, int32_t* out);
  void read(const char* name, int64_t* out);
  void read(const char* name, bool* out);
  void read(const char* name, double* out);
  void read(const char* name, std::string* out);
  // A string turned into an enum by `parse` (a Result<T>(string_view)).
  template <typename T>
  void read_enum(const char* name, T* out, Result<T> (*parse)(std::string_view)) {
    std::string text;
    if (!has(name)) return;
    read(name, &text);
    if (!status_.ok()) return;
    Result<T> value = parse(text);
    if (value.ok()) {
      *out = *value;
    } else {
      fail(name, value.status().message());
    }
  }
  // The field as it is, or null where absent.
  const nlohmann::json* child(const char* name);

  bool has(const char* name);  // marks the field as known
  void require(const char* name);
  // The message becomes "path.name: message".
  void fail(const char* name, const std::string& message);
  const Status& status() const { return status_; }
  // The first error; else a field that nobody asked for (with the nearest known name); else ok.
  Status finish();
  std::string path_of(const char* name) const;

 private:
  const nlohmann::json* find(const char* name);
  void fail_type(const char* name, const nlohmann::json& value, const char* wanted);

  const nlohmann::json& value_;
  std::string path_;
  std::vector<std::string> known_;
  Status status_;
};

// Appends "text" with JSON escapes; bytes that are not UTF-8 become U+FFFD.
void append_json_string(std::string* out, std::string_view text);
// Shortest text that reads back as the same double; -0 is written 0, NaN and infinities null.
void append_json_number(std::string* out, double value);
std::string json_string(std::string_view text);
std::string json_number(double value);

// A value as it reads in a message: its JSON text, cut after 40 characters.
std::string describe(const nlohmann::json& value);

}  // namespace moejit::internal
