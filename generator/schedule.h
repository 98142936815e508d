// Schedule: how one layer is computed, as plain data: the name of a kernel family and a value for
// each parameter that the family declares. What the values mean, and which are legal, is the
// family's business (family.h), so adding a family or a parameter changes nothing here.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "moejit/status.h"

namespace moejit::internal {

struct Schedule {
  std::string family;
  std::map<std::string, int32_t, std::less<>> params;

  bool operator==(const Schedule&) const = default;
  // The parameter's value; asserts that the family declares it.
  int32_t at(std::string_view name) const;

  // Canonical: {"family":"cpu_moe","dot_rows":4,...}, parameters sorted by name.
  std::string to_json() const;
  static Result<Schedule> from_json(std::string_view text);
};

}  // namespace moejit::internal
