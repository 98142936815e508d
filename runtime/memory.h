// What callers hand over: is it where it must be, and does what is written lie over what is read?
#pragma once

#include <cstdint>

#include "moejit/status.h"

namespace moejit::internal {

struct Memory {
  const char* field;
  const void* start;  // null: not given
  int64_t bytes;
};

// Ok, or kInvalidArgument with field, address and rule.
Status check_pointer(const char* field, const void* pointer, uintptr_t alignment);
// Likewise where both are given and `written` lies over `other`.
Status check_apart(const Memory& written, const Memory& other);

}  // namespace moejit::internal
