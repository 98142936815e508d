#include "base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace moejit::internal {
namespace {

ProgressMode resolve(ProgressMode mode, int fd) {
  if (mode != ProgressMode::kAuto) return mode;
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal == nullptr || *terminal == '\0' || std::strcmp(terminal, "dumb") == 0;
  return isatty(fd) && !dumb ? ProgressMode::kLine : ProgressMode::kPlain;
}

// The first `columns` characters of UTF-8 text, never cutting one in two.
std::string cut(const std::string& text, int columns) {
  int count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) == 0x80) continue;
    if (count++ == columns) return text.substr(0, i);
  }
  return text;
}

}  // namespace

Result<ProgressMode> progress_mode_from_string(std::string_view name) {
  if (name == "auto") return ProgressMode::kAuto;
  if (name == "line") return ProgressMode::kLine;
  if (name == "plain") return ProgressMode::kPlain;
  if (name == "json") return ProgressMode::kJson;
  if (name == "none") return ProgressMode::kNone;
  return invalid_argument("progress = \"" + std::string(name) +
                          "\": must be auto, line, plain, json or none");
}

Progress::Progress(ProgressMode mode, int fd, Clock clock, int width)
    : mode_(resolve(mode, fd)), fd_(fd), clock_(std::move(clock)), width_(width) {
  if (!clock_) clock_ = [] { return std::chrono::steady_clock::now(); };
  last_ = clock_();  // a plain line comes after the first period: short jobs stay silent
}

Progress::~Progress() {
  clear();
}

void Progress::write(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::write(fd_, text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;  // progress that nobody can read is not worth an error
    done += static_cast<size_t>(count);
  }
}

int Progress::columns() const {
  if (width_ > 0) return width_;
  winsize size{};
  if (ioctl(fd_, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void Progress::update(const std::function<std::string()>& text, bool always) {
  if (mode_ == ProgressMode::kNone) return;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto period = mode_ == ProgressMode::kLine    ? std::chrono::milliseconds(100)
                      : mode_ == ProgressMode::kPlain ? std::chrono::milliseconds(10000)
                                                      : std::chrono::milliseconds(1000);
  const auto now = clock_();
  const bool first = !shown_ && mode_ != ProgressMode::kPlain;
  if (!first && !always && now - last_ < period) return;
  last_ = now;
  shown_ = true;
  if (mode_ == ProgressMode::kLine) {
    // The last column stays free: writing there makes some terminals wrap.
    write("\r" + cut(text(), std::max(1, columns() - 1)) + "\033[K");
    drawn_ = true;
  } else {
    write(text() + "\n");
  }
}

void Progress::clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!drawn_) return;
  write("\r\033[K");
  drawn_ = false;
  shown_ = false;
}

void Progress::message(const std::string& text) {
  clear();
  std::lock_guard<std::mutex> lock(mutex_);
  write(text + "\n");
}

}  // namespace moejit::internal
