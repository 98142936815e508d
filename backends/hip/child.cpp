#include "backends/hip/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

extern char** environ;

namespace moejit::internal::hip {
namespace {

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  ~Fd() { close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void reset(int fd) {
    close();
    fd_ = fd;
  }

 private:
  int fd_;
};

bool make_pipe(Fd& read_end, Fd& write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  read_end.reset(ends[0]);
  write_end.reset(ends[1]);
  return true;
}

// A socket instead of a pipe: writing to a child that is gone must not raise SIGPIPE here.
bool make_input(Fd& child_end, Fd& own_end) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return false;
  child_end.reset(ends[0]);
  own_end.reset(ends[1]);
  return true;
}

// False when the other end is closed.
bool drain(int fd, std::string& to) {
  char buffer[1 << 16];
  const ssize_t n = read(fd, buffer, sizeof buffer);
  if (n > 0) to.append(buffer, static_cast<size_t>(n));
  return n > 0 || (n < 0 && errno == EINTR);
}

}  // namespace

Result<ChildResult> run_child(const std::vector<std::string>& command, const std::string& input,
                              int seconds) {
  Fd in_child, in, out, out_child, err, err_child;
  if (!make_input(in_child, in) || !make_pipe(out, out_child) || !make_pipe(err, err_child)) {
    return Status(StatusCode::kUnavailable,
                  command.front() + ": no pipe to a child process: " + strerror(errno));
  }
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in_child.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, out_child.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, err_child.get(), 2);
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, command.front().c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return Status(StatusCode::kUnavailable,
                  command.front() + ": cannot be started: " + strerror(error));
  }
  in_child.close();
  out_child.close();
  err_child.close();

  ChildResult result;
  size_t sent = 0;
  bool late = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  if (input.empty()) in.close();
  while (out.get() >= 0 || err.get() >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
                          deadline - std::chrono::steady_clock::now())
                          .count();
    if (left <= 0) {
      late = true;
      kill(pid, SIGKILL);
      break;
    }
    pollfd fds[3] = {{in.get(), POLLOUT, 0}, {out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}};
    if (poll(fds, 3, static_cast<int>(left)) < 0 && errno != EINTR) break;
    if (fds[0].revents != 0) {
      const ssize_t n = send(in.get(), input.data() + sent, input.size() - sent, MSG_NOSIGNAL);
      if (n > 0) sent += static_cast<size_t>(n);
      if ((n < 0 && errno != EINTR) || sent == input.size()) in.close();
    }
    if (fds[1].revents != 0 && !drain(out.get(), result.out)) out.close();
    if (fds[2].revents != 0 && !drain(err.get(), result.errors)) err.close();
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (late) {
    result.death = "took longer than " + std::to_string(seconds) + " s and was stopped";
  } else if (WIFSIGNALED(status)) {
    result.death = "was killed by signal " + std::to_string(WTERMSIG(status)) + " (" +
                   strsignal(WTERMSIG(status)) + ")";
  } else if (WEXITSTATUS(status) != 0) {
    result.death = "ended with exit status " + std::to_string(WEXITSTATUS(status));
  }
  return result;
}

}  // namespace moejit::internal::hip
