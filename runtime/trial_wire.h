// Messages between the tuner and the child process that runs candidates: a JSON head and raw bytes,
// over one socket.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

struct Frame {
  std::string head;  // one JSON object
  std::vector<uint8_t> body;
};

enum class WireResult { kOk, kClosed, kTimeout };

// Whole frames only; never raises SIGPIPE. kClosed also where the peer sends nonsense.
WireResult send_frame(int fd, const Frame& frame);
WireResult receive_frame(int fd, Frame* frame,
                         std::optional<std::chrono::steady_clock::time_point> until = {});

}  // namespace moejit::internal
