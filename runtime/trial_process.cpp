#include "runtime/trial_process.h"

#include <dlfcn.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "runtime/trial_wire.h"

extern char** environ;

namespace moejit::internal {
namespace {

using Json = nlohmann::json;

constexpr double kSlack = 20;         // how much slower than expected a launch may be
constexpr double kStartSeconds = 60;  // for the child to open its device
constexpr double kLateSeconds = 1.0;  // beyond the deadline, before the child is given up

bool is_executable(const std::string& path) {
  return !path.empty() && ::access(path.c_str(), X_OK) == 0 && !is_directory(path);
}

std::string ending(int status) {
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    return "crashed: signal " + std::to_string(number) + " (" + ::strsignal(number) + ")";
  }
  return "crashed: the process ended with code " + std::to_string(WEXITSTATUS(status));
}

// One child and its socket.
class Child {
 public:
  ~Child() { end(true); }

  bool running() const { return pid_ > 0; }
  int fd() const { return socket_.get(); }

  Status start(const std::string& helper) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
      return {StatusCode::kIoError, "socketpair: " + errno_message(errno)};
    }
    socket_ = Fd(pair[0]);
    const Fd theirs(pair[1]);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
    // Its standard output is ours for data: what it prints goes where messages go.
    ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), 0);
    ::posix_spawn_file_actions_adddup2(&actions, 2, 1);
    // A group of its own: Ctrl-C is for the tuner, which ends the child in good order.
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    ::posix_spawnattr_setpgroup(&attributes, 0);
    char* arguments[] = {const_cast<char*>(helper.c_str()), const_cast<char*>(kTrialVerb), nullptr};
    const int error =
        ::posix_spawn(&pid_, helper.c_str(), &actions, &attributes, arguments, environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    if (error != 0) {
      pid_ = -1;
      return {StatusCode::kUnavailable, "helper " + helper + ": " + errno_message(error)};
    }
    return {};
  }

  // How it ended; "" where that is not known.
  std::string end(bool kill_it) {
    if (pid_ <= 0) return "";
    if (kill_it) ::kill(pid_, SIGKILL);
    socket_ = Fd();
    std::string how;
    // A process that the driver holds may take a while to die; nobody waits for it for ever.
    for (int tenths = 0; tenths < 100; ++tenths) {
      int status = 0;
      const pid_t done = ::waitpid(pid_, &status, WNOHANG);
      if (done == pid_) how = ending(status);
      if (done != 0) break;
      if (tenths == 20) ::kill(pid_, SIGKILL);
      ::usleep(tenths < 5 ? 5000 : 100000);
    }
    pid_ = -1;
    return how;
  }

 private:
  pid_t pid_ = -1;
  Fd socket_;
};

class ProcessLab : public Lab {
 public:
  explicit ProcessLab(TrialProcessOptions options) : options_(std::move(options)) {}

  Status enter(const LabBucket& bucket) override {
    bucket_ = bucket;
    kernels_.clear();
    entered_ = false;
    return ensure();
  }

  Result<int> add(const BuiltKernel& kernel, const Schedule& schedule) override {
    if (kernel.binary == nullptr) return invalid_argument("kernel: has no binary");
    kernels_.push_back({schedule.to_json(), kernel.binary, -1});
    const int id = static_cast<int>(kernels_.size()) - 1;
    MOEJIT_RETURN_IF_ERROR(ensure());
    MOEJIT_RETURN_IF_ERROR(give(&kernels_.back()));
    return id;
  }

  Result<CheckResult> check(int kernel, double expected_s) override {
    Json reply;
    MOEJIT_RETURN_IF_ERROR(on_kernel(kernel, {{"op", "check"}}, 2 * expected_s, &reply));
    CheckResult result;
    result.error = reply["error"].is_number() ? reply["error"].get<double>()
                                              : std::numeric_limits<double>::infinity();
    result.problem = reply["problem"].get<std::string>();
    return result;
  }

  Result<std::vector<double>> measure(int kernel, int warmup, int first, int samples,
                                      double expected_s) override {
    Json reply;
    MOEJIT_RETURN_IF_ERROR(on_kernel(
        kernel, {{"op", "measure"}, {"warmup", warmup}, {"first", first}, {"samples", samples}},
        (warmup + samples) * expected_s, &reply));
    return reply["seconds"].get<std::vector<double>>();
  }

 private:
  struct Kernel {
    std::string schedule;
    std::shared_ptr<const Binary> binary;
    int id = -1;  // in the child; -1: not there
  };

  // A running child with the bucket's inputs.
  Status ensure() {
    if (!child_.running()) {
      entered_ = false;
      for (Kernel& kernel : kernels_) kernel.id = -1;
      MOEJIT_RETURN_IF_ERROR(child_.start(options_.helper));
      Json reply;
      const Json open = {{"op", "open"},
                         {"protocol", options_.protocol},
                         {"device", options_.device},
                         {"num_threads", options_.num_threads},
                         {"config", options_.config.to_json()},
                         {"routing", options_.routing}};
      MOEJIT_RETURN_IF_ERROR(ask({open.dump(), {}}, kStartSeconds, &reply));
    }
    if (entered_) return {};
    // Gigabytes of weights may have to be made.
    Json reply;
    const Json enter = {{"op", "enter"},
                        {"tokens", bucket_.tokens},
                        {"num_routings", bucket_.num_routings},
                        {"seed", bucket_.seed},
                        {"check_operations", bucket_.check_operations}};
    MOEJIT_RETURN_IF_ERROR(ask({enter.dump(), {}}, 600, &reply));
    entered_ = true;
    return {};
  }

  Status give(Kernel* kernel) {
    if (kernel->id >= 0) return {};
    Json reply;
    const Json add = {{"op", "add"},
                      {"schedule", kernel->schedule},
                      {"format", kernel->binary->format},
                      {"arch", kernel->binary->arch},
                      {"compiler", kernel->binary->compiler}};
    MOEJIT_RETURN_IF_ERROR(ask({add.dump(), kernel->binary->bytes}, options_.timeout_s, &reply));
    kernel->id = reply["id"].get<int>();
    return {};
  }

  Status on_kernel(int index, Json request, double expected_s, Json* reply) {
    Kernel& kernel = kernels_[static_cast<size_t>(index)];
    MOEJIT_RETURN_IF_ERROR(ensure());
    MOEJIT_RETURN_IF_ERROR(give(&kernel));
    request["kernel"] = kernel.id;
    return ask({request.dump(), {}}, options_.timeout_s + kSlack * expected_s, reply);
  }

  Status ask(const Frame& request, double seconds, Json* reply) {
    const auto begin = Clock::now();
    auto until = begin + std::chrono::duration_cast<Clock::duration>(
                             std::chrono::duration<double>(std::min(seconds, 1e6)));
    bool by_deadline = false;
    if (deadline_) {
      const auto last = *deadline_ + std::chrono::milliseconds(int64_t(kLateSeconds * 1000));
      if (last < until) {
        until = std::max(last, begin);
        by_deadline = true;
      }
    }
    Frame answer;
    WireResult result = send_frame(child_.fd(), request);
    if (result == WireResult::kOk) result = receive_frame(child_.fd(), &answer, until);
    if (result == WireResult::kTimeout) {
      child_.end(true);
      if (by_deadline) return {StatusCode::kCancelled, "out of time"};
      char text[64];
      std::snprintf(text, sizeof text, "hung: no answer within %.1f s; killed", seconds);
      return {StatusCode::kDeviceError, text};
    }
    if (result == WireResult::kClosed) {
      const std::string how = child_.end(false);
      return {StatusCode::kDeviceError, how.empty() ? "crashed: how is not known" : how};
    }
    *reply = Json::parse(answer.head, nullptr, false);
    if (!reply->is_object() || !reply->contains("ok")) {
      child_.end(true);
      return {StatusCode::kInternal, "helper " + options_.helper + ": answered nonsense"};
    }
    if ((*reply)["ok"].get<bool>()) return {};
    const auto code = static_cast<StatusCode>((*reply)["code"].get<int>());
    if (code == StatusCode::kDeviceError) child_.end(true);
    return {code, (*reply)["message"].get<std::string>()};
  }

  const TrialProcessOptions options_;
  LabBucket bucket_;
  bool entered_ = false;
  std::vector<Kernel> kernels_;
  Child child_;
};

}  // namespace

std::string find_trial_helper(const std::string& wanted) {
  if (!wanted.empty()) return is_executable(wanted) ? wanted : "";
  char self[4096];
  const ssize_t length = ::readlink("/proc/self/exe", self, sizeof self);
  if (length > 0) {
    std::string path(self, static_cast<size_t>(length));
    // Replaced while it runs: the link still opens the old one, which is the one that fits.
    if (const size_t at = path.rfind(" (deleted)"); at != std::string::npos) path.resize(at);
    if (path.substr(path.rfind('/') + 1) == "moejit") return "/proc/self/exe";
  }
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&find_trial_helper), &info) == 0 ||
      info.dli_fname == nullptr) {
    return "";
  }
  const std::string folder = parent_path(info.dli_fname);
  for (const char* place : {"moejit", "../bin/moejit", "../../bin/moejit"}) {
    std::string path = join_path(folder, place);
    if (is_executable(path)) return path;
  }
  return "";
}

std::unique_ptr<Lab> make_process_lab(TrialProcessOptions options) {
  return std::make_unique<ProcessLab>(std::move(options));
}

}  // namespace moejit::internal
