// One line that says how far a long job is: rewritten in place on a terminal, a line now and then
// elsewhere. Writes to stderr only.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

#include "moejit/status.h"

namespace moejit::internal {

enum class ProgressMode : int32_t {
  kAuto = 0,   // kLine where stderr is a terminal that can move its cursor, else kPlain
  kLine = 1,   // one line, rewritten at most ten times a second
  kPlain = 2,  // a new line every ten seconds
  kJson = 3,   // a JSON object on a line of its own, every second and at every step
  kNone = 4,
};
Result<ProgressMode> progress_mode_from_string(std::string_view name);

// Thread-safe. Text is asked for only when it will be shown.
class Progress {
 public:
  using Clock = std::function<std::chrono::steady_clock::time_point()>;

  // `fd` is written to, 2 outside tests; `width` limits the rewritten line, 0: ask the terminal.
  explicit Progress(ProgressMode mode, int fd = 2, Clock clock = {}, int width = 0);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  ProgressMode mode() const { return mode_; }  // resolved: never kAuto
  // `always` shows it whatever the time: for steps that a reader of kJson counts on.
  void update(const std::function<std::string()>& text, bool always = false);
  // Removes the line, so that other output starts at the margin; the next update draws it again.
  void clear();
  // A message of its own, above the line.
  void message(const std::string& text);

 private:
  void write(const std::string& text);
  int columns() const;

  ProgressMode mode_;
  int fd_;
  Clock clock_;
  int width_;
  std::mutex mutex_;
  bool drawn_ = false;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_{};
};

}  // namespace moejit::internal
