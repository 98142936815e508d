// What every function of the C ABI does alike: nothing is thrown past it, and a failed Status
// becomes a number and the thread's last message.
#pragma once

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

// A copy for moejit_string_free; throws std::bad_alloc.
char* give_string(const std::string& text);

}  // namespace moejit::internal
