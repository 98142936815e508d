#include "runtime/capi_guard.h"

#include <cstdlib>
#include <cstring>

namespace moejit::internal {

LastError& last_error() {
  thread_local LastError error;
  return error;
}

moejit_status record_error(StatusCode code, const char* message, const char* log) noexcept {
  try {
    last_error().message = message;
    last_error().log = log;
  } catch (...) {  // no memory even for the sentence: the number must do
    last_error().message.clear();
    last_error().log.clear();
  }
  return static_cast<moejit_status>(code);
}

Status null(const char* name) {
  return invalid_argument(std::string(name) + " = NULL: must not be");
}

char* give_string(const std::string& text) {
  char* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) throw std::bad_alloc();
  std::memcpy(copy, text.c_str(), text.size() + 1);
  return copy;
}

}  // namespace moejit::internal
