#include "tools/context.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "base/settings.h"

namespace moejit::tools {
namespace {

struct LogRoute {
  std::atomic<int> level{1};
  std::atomic<internal::Progress*> progress{nullptr};
};

LogRoute& log_route() {
  static LogRoute route;
  return route;
}

// Of the terminal that stdout is; 0 where it is none.
int screen_width() {
  struct winsize size {};
  if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

void write_stderr(const std::string& line) {
  if (internal::Progress* progress = log_route().progress) {
    progress->message(line);
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

}  // namespace

ExitCode exit_code(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return ExitCode::kOk;
    case StatusCode::kInvalidArgument:
      return ExitCode::kUsage;
    case StatusCode::kNotFound:
    case StatusCode::kNotReady:
      return ExitCode::kNothingFound;
    case StatusCode::kUnsupported:
    case StatusCode::kUnavailable:
      return ExitCode::kUnavailable;
    case StatusCode::kVerificationFailed:
      return ExitCode::kWrong;
    case StatusCode::kCancelled:
      return ExitCode::kInterrupted;
    case StatusCode::kCompileError:
    case StatusCode::kDeviceError:
    case StatusCode::kOutOfMemory:
    case StatusCode::kIoError:
    case StatusCode::kDataError:
    case StatusCode::kInternal:
      break;
  }
  return ExitCode::kFailed;
}

ExitCode Context::print_text(std::string_view text) {
  if (internal::Progress* progress = log_route().progress) progress->clear();
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (written && std::fflush(stdout) == 0) return ExitCode::kOk;
  std::fprintf(stderr, "moejit %s: error: standard output: %s\n", command.c_str(),
               std::strerror(errno));
  return ExitCode::kFailed;
}

ExitCode Context::print(const Table& table) {
  Table::Style style;
  style.format = format;
  style.bold_headings = color;
  style.wide = verbosity > 0;
  style.width = screen_width();
  return print_text(table.render(style, command));
}

void Context::note(const std::string& text) {
  if (verbosity >= 0) write_stderr("moejit " + command + ": " + text);
}

ExitCode Context::fail(const Status& status) {
  write_stderr("moejit " + command + ": error: " + status.message());
  if (!status.log().empty()) write_stderr(status.log());
  return exit_code(status);
}

bool Context::confirm(const std::string& what) {
  if (assume_yes) return true;
  if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) {
    write_stderr("moejit " + command + ": error: " + what +
                 ": needs --yes where there is no terminal to ask on");
    return false;
  }
  std::fprintf(stderr, "%s [y/N] ", what.c_str());
  char answer[16] = {};
  return std::fgets(answer, sizeof answer, stdin) != nullptr &&
         (answer[0] == 'y' || answer[0] == 'Y');
}

void Context::route_log() {
  log_route().level = verbosity == 0  ? static_cast<int>(internal::settings().log)
                      : verbosity < 0 ? 0
                                      : 1 + verbosity;
  internal::set_log_sink(
      [](int level, const char* message, void*) {
        if (level > log_route().level) return;
        write_stderr(std::string("moejit ") + "EWID"[level] + " " + message);
      },
      nullptr);
}

internal::Progress& Context::progress() {
  if (!progress_) {
    progress_ = std::make_unique<internal::Progress>(verbosity < 0 ? internal::ProgressMode::kNone
                                                                   : progress_mode);
    log_route().progress = progress_.get();
  }
  return *progress_;
}

}  // namespace moejit::tools
