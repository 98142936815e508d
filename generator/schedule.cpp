#include "generator/schedule.h"

#include <cassert>
#include <nlohmann/json.hpp>

namespace moejit::internal {

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
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return bad("must be a JSON object");
  Schedule schedule;
  for (const auto& [key, value] : json.items()) {
    if (key == "family") {
      if (!value.is_string()) return bad("family: must be a string");
      schedule.family = value.get<std::string>();
      for (char c : schedule.family) {
        if (!(c == '_' || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))) {
          return bad("family: may hold a-z, 0-9 and _ only");
        }
      }
    } else if (value.is_number_integer() && value.get<int64_t>() >= INT32_MIN &&
               value.get<int64_t>() <= INT32_MAX) {
      schedule.params[key] = value.get<int32_t>();
    } else {
      return bad(key + ": must be a 32-bit integer");
    }
  }
  if (schedule.family.empty()) return bad("family: is missing");
  return schedule;
}

}  // namespace moejit::internal
