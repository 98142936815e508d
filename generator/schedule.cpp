#include "generator/schedule.h"

#include <cassert>
#include <nlohmann/json.hpp>

#include "base/json_util.h"
#include "base/nearest.h"

namespace moejit::internal {
namespace {

// Names go into JSON and into generated text as they are.
bool is_name(std::string_view text) {
  for (char c : text) {
    if (c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9')) return false;
  }
  return !text.empty();
}

bool fits_int32(const nlohmann::json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>() <= INT32_MAX;
  return value.get<int64_t>() >= INT32_MIN && value.get<int64_t>() <= INT32_MAX;
}

}  // namespace

int32_t Schedule::at(std::string_view name) const {
  const auto it = params.find(name);
  assert(it != params.end());
  return it->second;
}

std::string Schedule::to_json() const {
  std::string text = "{\"family\":\"" + family + "\"";
  for (const auto& [name, value] : params) {
    text += ",\"" + name + "\":" + std::to_string(value);
  }
  return text + "}";
}

Result<Schedule> Schedule::from_json(std::string_view text) {
  const auto bad = [](const std::string& what) {
    return Status(StatusCode::kDataError, "schedule: " + what);
  };
  const auto json = parse_json(text);
  if (!json.ok()) return bad(json.status().message());
  if (!json->is_object()) return bad("must be a JSON object");
  Schedule schedule;
  for (const auto& [key, value] : json->items()) {
    if (!is_name(key)) return bad(in_quotes(key) + ": a name may hold a-z, 0-9 and _ only");
    if (key == "family") {
      if (!value.is_string()) return bad("family: must be a string");
      schedule.family = value.get<std::string>();
      if (!is_name(schedule.family)) return bad("family: may hold a-z, 0-9 and _ only");
    } else if (value.is_number_integer() && fits_int32(value)) {
      schedule.params[key] = value.get<int32_t>();
    } else {
      return bad(key + ": must be a 32-bit integer");
    }
  }
  if (schedule.family.empty()) return bad("family: is missing");
  return schedule;
}

}  // namespace moejit::internal
