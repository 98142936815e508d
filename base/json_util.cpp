#include "base/json_util.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/nearest.h"

namespace moejit::internal {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;

std::string position_text(std::string_view text, size_t position) {
  position = std::min(position, text.size());
  size_t line = 1, column = 1;
  for (char c : text.substr(0, position)) {
    if (c == '\n') {
      ++line;
      column = 1;
    } else {
      ++column;
    }
  }
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

// Builds the tree from parser events, because only they show a duplicate name and the depth.
class Builder : public nlohmann::json_sax<json> {
 public:
  explicit Builder(std::string_view text) : text_(text) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    key_ = name;
    if (stack_.back()->contains(name)) {
      error_ = path() + ": given twice";
      return false;
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // what() is "[json.exception....] parse error at line 1, column 2: sentence".
    std::string_view what = error.what();
    if (const size_t end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
    if (what.rfind("parse error", 0) == 0) {
      if (const size_t colon = what.find(": "); colon != what.npos) what.remove_prefix(colon + 2);
    }
    error_ = position_text(text_, position > 0 ? position - 1 : 0) + ": " + std::string(what);
    return false;
  }

  json root;
  const std::string& error() const { return error_; }

 private:
  std::string path() const {
    std::string result;
    for (const std::string& name : names_) {
      if (!name.empty()) result += name + ".";
    }
    return result + key_;
  }

  json* place(json&& value) {
    if (stack_.empty()) {
      root = std::move(value);
      return &root;
    }
    json& top = *stack_.back();
    if (top.is_array()) {
      top.push_back(std::move(value));
      return &top.back();
    }
    return &(top[key_] = std::move(value));
  }

  template <typename T>
  bool add(T&& value) {
    place(json(std::forward<T>(value)));
    return true;
  }

  bool open(json&& value) {
    if (stack_.size() >= kMaxDepth) {
      error_ = "nested deeper than " + std::to_string(kMaxDepth);
      return false;
    }
    // Pointers into a container stay valid while its last element is being filled.
    json* placed = place(std::move(value));
    stack_.push_back(placed);
    names_.push_back(key_);
    key_.clear();
    return true;
  }

  bool close() {
    stack_.pop_back();
    key_ = names_.back();
    names_.pop_back();
    return true;
  }

  std::string_view text_;
  std::vector<json*> stack_;
  std::vector<std::string> names_;
  std::string key_;
  std::string error_;
};

// Length of the UTF-8 sequence at the front of `text`, or 0 where it is not valid.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) > 0x9F)) return 0;
  if ((lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) > 0x8F)) return 0;
  return length;
}

}  // namespace

Result<json> parse_json(std::string_view text) {
  Builder builder(text);
  try {
    if (!json::sax_parse(text.begin(), text.end(), &builder)) {
      return Status(StatusCode::kDataError, builder.error());
    }
  } catch (const std::exception& error) {  // out of memory, mostly
    return Status(StatusCode::kDataError, error.what());
  }
  return std::move(builder.root);
}

JsonFields::JsonFields(const json& value, std::string path)
    : value_(value), path_(std::move(path)) {
  if (!value_.is_object()) {
    const std::string subject = path_.empty() ? "the JSON text" : path_ + " = " + describe(value_);
    status_ = Status(StatusCode::kDataError, subject + ": must be an object");
  }
}

std::string JsonFields::path_of(const char* name) const {
  return path_.empty() ? name : path_ + "." + name;
}

const json* JsonFields::find(const char* name) {
  if (!status_.ok()) return nullptr;
  known_.push_back(name);
  const auto it = value_.find(name);
  return it == value_.end() ? nullptr : &*it;
}

const json* JsonFields::child(const char* name) {
  return find(name);
}

bool JsonFields::has(const char* name) {
  return find(name) != nullptr;
}

void JsonFields::require(const char* name) {
  if (status_.ok() && find(name) == nullptr) fail(name, "is missing");
}

void JsonFields::fail(const char* name, const std::string& message) {
  if (status_.ok()) status_ = Status(StatusCode::kDataError, path_of(name) + ": " + message);
}

void JsonFields::fail_type(const char* name, const json& value, const char* wanted) {
  if (status_.ok()) {
    status_ = Status(StatusCode::kDataError,
                     path_of(name) + " = " + describe(value) + ": must be " + wanted);
  }
}

void JsonFields::read(const char* name, int64_t* out) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number_integer()) return fail_type(name, *value, "an integer");
  if (value->is_number_unsigned() &&
      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return fail_type(name, *value, "at most 2^63 - 1");
  }
  *out = value->get<int64_t>();
}

void JsonFields::read(const char* name, int32_t* out) {
  int64_t wide = *out;
  read(name, &wide);
  if (!status_.ok()) return;
  if (wide < std::numeric_limits<int32_t>::min() || wide > std::numeric_limits<int32_t>::max()) {
    return fail_type(name, json(wide), "a 32-bit integer");
  }
  *out = static_cast<int32_t>(wide);
}

void JsonFields::read(const char* name, bool* out) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) return fail_type(name, *value, "true or false");
  *out = value->get<bool>();
}

void JsonFields::read(const char* name, double* out) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_number()) return fail_type(name, *value, "a number");
  *out = value->get<double>();
}

void JsonFields::read(const char* name, std::string* out) {
  const json* value = find(name);
  if (value == nullptr) return;
  if (!value->is_string()) return fail_type(name, *value, "a string");
  *out = value->get<std::string>();
}

Status JsonFields::finish() {
  if (!status_.ok()) return status_;
  for (const auto& [name, unused] : value_.items()) {
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    std::string message = path_of(in_quotes(name).c_str()) + ": unknown field";
    const std::vector<std::string> near = nearest_names(name, known_, 1);
    if (!near.empty()) message += "; nearest known: " + near[0];
    return Status(StatusCode::kDataError, std::move(message));
  }
  return Status();
}

void append_json_string(std::string* out, std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  *out += '"';
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    const char c = text[0];
    if (length == 0) {
      *out += "\xEF\xBF\xBD";
      text.remove_prefix(1);
      continue;
    }
    if (c == '"' || c == '\\') {
      *out += '\\';
      *out += c;
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (length == 1 && static_cast<unsigned char>(c) < 0x20) {
      *out += "\\u00";
      *out += kHex[c >> 4];
      *out += kHex[c & 15];
    } else {
      out->append(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
  *out += '"';
}

void append_json_number(std::string* out, double value) {
  if (!std::isfinite(value)) {
    *out += "null";
    return;
  }
  if (value == 0) value = 0;  // -0.0 == 0.0, and equal values must read the same
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  out->append(buffer, end);
}

std::string json_string(std::string_view text) {
  std::string result;
  append_json_string(&result, text);
  return result;
}

std::string json_number(double value) {
  std::string result;
  append_json_number(&result, value);
  return result;
}

std::string describe(const json& value) {
  constexpr size_t kMax = 40;
  std::string text;
  if (value.is_object()) {
    text = "an object";
  } else if (value.is_array()) {
    text = "a list";
  } else {
    text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  }
  if (text.size() > kMax) text = text.substr(0, kMax) + "...";
  return text;
}

}  // namespace moejit::internal
