#include "runtime/trial_wire.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

namespace moejit::internal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMostBytes = uint64_t{1} << 30;

bool send_all(int fd, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = ::send(fd, at, bytes, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    at += sent;
    bytes -= static_cast<size_t>(sent);
  }
  return true;
}

WireResult receive_all(int fd, void* data, size_t bytes,
                       const std::optional<Clock::time_point>& until) {
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    if (until) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(*until - Clock::now()).count();
      pollfd wait{fd, POLLIN, 0};
      const int ready =
          ::poll(&wait, 1, static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX / 2)));
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0) return WireResult::kTimeout;
      if (ready < 0) return WireResult::kClosed;
    }
    const ssize_t got = ::recv(fd, at, bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return WireResult::kClosed;
    at += got;
    bytes -= static_cast<size_t>(got);
  }
  return WireResult::kOk;
}

}  // namespace

WireResult send_frame(int fd, const Frame& frame) {
  const uint64_t sizes[2] = {frame.head.size(), frame.body.size()};
  if (!send_all(fd, sizes, sizeof sizes) || !send_all(fd, frame.head.data(), frame.head.size()) ||
      !send_all(fd, frame.body.data(), frame.body.size())) {
    return WireResult::kClosed;
  }
  return WireResult::kOk;
}

WireResult receive_frame(int fd, Frame* frame, std::optional<Clock::time_point> until) {
  uint64_t sizes[2] = {};
  WireResult result = receive_all(fd, sizes, sizeof sizes, until);
  if (result != WireResult::kOk) return result;
  if (sizes[0] > kMostBytes || sizes[1] > kMostBytes) return WireResult::kClosed;
  frame->head.resize(sizes[0]);
  frame->body.resize(sizes[1]);
  result = receive_all(fd, frame->head.data(), frame->head.size(), until);
  if (result != WireResult::kOk) return result;
  return receive_all(fd, frame->body.data(), frame->body.size(), until);
}

}  // namespace moejit::internal
