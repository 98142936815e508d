#include "base/log.h"

#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <set>
#include <utility>

#include "base/settings.h"

namespace moejit::internal {
namespace {

struct LogState {
  std::mutex mutex;
  LogSink sink = nullptr;
  void* user = nullptr;
  std::set<std::string> said;
};

// Never destroyed: threads may log while the process exits.
LogState& state() {
  static LogState* const instance = [] {
    auto* created = new LogState;
    // A child that is forked while another thread logs would find the mutex held for ever. It is
    // never held for longer than it takes to look something up.
    ::pthread_atfork([] { state().mutex.lock(); }, [] { state().mutex.unlock(); },
                     [] { state().mutex.unlock(); });
    return created;
  }();
  return *instance;
}

void write_line(LogLevel level, const char* area, const std::string& message) {
  std::string line = "moejit ";
  line += "EWID"[static_cast<int>(level)];
  line += ' ';
  line += area;
  line += ": ";
  line += message;
  line += '\n';
  const char* data = line.data();
  size_t left = line.size();
  while (left > 0) {
    const ssize_t written = ::write(STDERR_FILENO, data, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    data += written, left -= static_cast<size_t>(written);
  }
}

std::pair<LogSink, void*> current_sink() {
  LogState& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  return {s.sink, s.user};
}

}  // namespace

bool log_enabled(LogLevel level) {
  return current_sink().first != nullptr || level <= settings().log;
}

void log(LogLevel level, const char* area, const std::string& message) {
  const auto [sink, user] = current_sink();
  if (sink != nullptr) {
    const std::string line = std::string(area) + ": " + message;
    sink(static_cast<int>(level), line.c_str(), user);
  } else if (level <= settings().log) {
    write_line(level, area, message);
  }
}

void log_once(LogLevel level, const char* area, const std::string& key,
              const std::string& message) {
  {
    LogState& s = state();
    std::lock_guard<std::mutex> lock(s.mutex);
    if (!s.said.insert(std::string(area) + "|" + key).second) return;
  }
  log(level, area, message);
}

void set_log_sink(LogSink sink, void* user) {
  LogState& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  s.sink = sink;
  s.user = user;
}

}  // namespace moejit::internal
