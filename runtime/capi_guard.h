// What every function of the C ABI does alike: nothing is thrown past it, and a failed Status
// becomes a number and the thread's last message.
#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "moejit/moejit_c.h"
#include "moejit/status.h"

namespace moejit::internal {

struct LastError {
  std::string message, log;
};
LastError& last_error();  // of the calling thread

moejit_status record_error(StatusCode code, const char* message, const char* log) noexcept;

// Runs `body`, which returns a Status, and keeps its message for moejit_last_error.
template <typename Body>
moejit_status guarded(Body&& body) noexcept {
  try {
    const Status status = body();
    if (status.ok()) return MOEJIT_OK;
    return record_error(status.code(), status.message().c_str(), status.log().c_str());
  } catch (const std::bad_alloc&) {
    return record_error(StatusCode::kOutOfMemory, "out of host memory", "");
  } catch (const std::exception& error) {
    return record_error(StatusCode::kInternal, error.what(), "");
  } catch (...) {
    return record_error(StatusCode::kInternal, "an unknown exception", "");
  }
}

Status null(const char* name);
#define MOEJIT_REQUIRE(pointer) \
  if ((pointer) == nullptr) return ::moejit::internal::null(#pointer)

// Copies the caller's struct, whatever the version of his header: fields behind his struct_size are
// 0. `least` is the size that the struct had at first.
template <typename T>
Status read_struct(const char* name, const T* given, T* out, size_t least = sizeof(T)) {
  if (given == nullptr) return null(name);
  const uint32_t size = given->struct_size;
  const auto field = [&] { return std::string(name) + "->struct_size = " + std::to_string(size); };
  if (size < least) {
    return invalid_argument(field() + ": must be at least " + std::to_string(least) +
                            "; its init function sets it, or where there is none the caller");
  }
  constexpr uint32_t kAbsurd = 1 << 16;  // not a size: an uninitialised struct
  if (size > kAbsurd) return invalid_argument(field() + ": must be the size of the struct");
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (uint32_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) {
      return Status(StatusCode::kUnsupported,
                    field() + ": byte " + std::to_string(i) +
                        " is set, a field that this version of the library does not know");
    }
  }
  std::memset(static_cast<void*>(out), 0, sizeof(T));
  std::memcpy(static_cast<void*>(out), given, std::min<size_t>(size, sizeof(T)));
  return Status();
}

// A copy for moejit_string_free; throws std::bad_alloc.
char* give_string(const std::string& text);

}  // namespace moejit::internal
