// Errors as values. Nothing in moejit throws across its public API.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

// The shared library exports what is declared from here to the pop.
#pragma GCC visibility push(default)
namespace moejit {
inline namespace v1 {

// Values are part of the C ABI: append only, never renumber.
enum class StatusCode : int32_t {
  kOk = 0,
  kInvalidArgument = 1,  // the caller's value breaks a documented rule
  kNotFound = 2,         // a name, file, key or device that does not exist
  kUnsupported = 3,      // valid, but this build or this device cannot do it
  kUnavailable = 4,      // a compiler, driver or device that is missing on this machine
  kNotReady = 5,         // would have to compile or load where that is forbidden
  kCompileError = 6,     // the compiler refused generated source; log() has its words
  kDeviceError = 7,      // the driver or device reported a failure
  kOutOfMemory = 8,
  kIoError = 9,     // a file could not be read or written
  kDataError = 10,  // malformed JSON, safetensors or cache content
  kVerificationFailed = 11,
  kCancelled = 12,
  kInternal = 13,
};

// The stable upper-case name of a code, e.g. "INVALID_ARGUMENT".
const char* to_string(StatusCode code);

// A code, one sentence naming field, value and rule, and where a compiler failed its log and the
// path of the dumped source. Copyable; thread-compatible. The ok status allocates nothing.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message, std::string log = {})
      : code_(code), message_(std::move(message)), log_(std::move(log)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  explicit operator bool() const { return ok(); }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  const std::string& log() const { return log_; }

  // "INVALID_ARGUMENT: top_k = 9: must be at most num_experts (8)", or "OK".
  std::string to_string() const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
  std::string log_;
};

inline Status invalid_argument(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}

// Either a value or a failed Status. Accessing the value of a failed result asserts.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                                  // NOLINT: implicit
  Result(Status status) : status_(std::move(status)) { assert(!status_.ok()); }  // NOLINT

  bool ok() const { return status_.ok(); }
  explicit operator bool() const { return ok(); }
  const Status& status() const { return status_; }

  T& value() & {
    assert(ok());
    return *value_;
  }
  const T& value() const& {
    assert(ok());
    return *value_;
  }
  T&& value() && {
    assert(ok());
    return *std::move(value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace v1
}  // namespace moejit
#pragma GCC visibility pop

// Internal spelling of early return; not part of the API.
#define MOEJIT_RETURN_IF_ERROR(expr)                                                           \
  do {                                                                                         \
    if (::moejit::Status moejit_status_ = (expr); !moejit_status_.ok()) return moejit_status_; \
  } while (0)
