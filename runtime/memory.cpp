#include "runtime/memory.h"

#include <cstdio>
#include <string>

namespace moejit::internal {
namespace {

std::string hex_address(const void* pointer) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", pointer);
  return text;
}

bool overlap(const Memory& a, const Memory& b) {
  const auto first = reinterpret_cast<uintptr_t>(a.start);
  const auto second = reinterpret_cast<uintptr_t>(b.start);
  return first < second ? second - first < static_cast<uintptr_t>(a.bytes)
                        : first - second < static_cast<uintptr_t>(b.bytes);
}

}  // namespace

Status check_pointer(const char* field, const void* pointer, uintptr_t alignment) {
  if (pointer == nullptr)
    return invalid_argument(std::string(field) + " = null: must point to the tensor");
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
    return invalid_argument(std::string(field) + " = " + hex_address(pointer) +
                            ": must be aligned to " + std::to_string(alignment) + " bytes");
  }
  return {};
}

Status check_apart(const Memory& written, const Memory& other) {
  if (written.start == nullptr || other.start == nullptr || !overlap(written, other)) return {};
  return invalid_argument(std::string(written.field) + " = " + hex_address(written.start) +
                          ": must not overlap " + other.field + ", " + std::to_string(other.bytes) +
                          " bytes at " + hex_address(other.start));
}

}  // namespace moejit::internal
