#include "moejit/status.h"

namespace moejit {
inline namespace v1 {

const char* to_string(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case StatusCode::kNotFound:
      return "NOT_FOUND";
    case StatusCode::kUnsupported:
      return "UNSUPPORTED";
    case StatusCode::kUnavailable:
      return "UNAVAILABLE";
    case StatusCode::kNotReady:
      return "NOT_READY";
    case StatusCode::kCompileError:
      return "COMPILE_ERROR";
    case StatusCode::kDeviceError:
      return "DEVICE_ERROR";
    case StatusCode::kOutOfMemory:
      return "OUT_OF_MEMORY";
    case StatusCode::kIoError:
      return "IO_ERROR";
    case StatusCode::kDataError:
      return "DATA_ERROR";
    case StatusCode::kVerificationFailed:
      return "VERIFICATION_FAILED";
    case StatusCode::kCancelled:
      return "CANCELLED";
    case StatusCode::kInternal:
      return "INTERNAL";
  }
  return "UNKNOWN";
}

std::string Status::to_string() const {
  if (ok()) return "OK";
  return std::string(moejit::to_string(code_)) + ": " + message_;
}

}  // namespace v1
}  // namespace moejit
