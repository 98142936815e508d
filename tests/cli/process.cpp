#include "tests/cli/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

extern char** environ;

namespace fs = std::filesystem;

namespace moejit::cli_test {
namespace {

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) == 0) read = ends[0], write = ends[1];
  }
  ~Pipe() {
    close_read();
    close_write();
  }
  void close_read() {
    if (read >= 0) close(std::exchange(read, -1));
  }
  void close_write() {
    if (write >= 0) close(std::exchange(write, -1));
  }
};

std::vector<std::string> environment_of(const std::map<std::string, std::string>& changes) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    // Settings of the tester's shell must not reach the command.
    const bool foreign = name.starts_with("MOEJIT_") && name != "MOEJIT_TEST_LEVEL";
    if (!foreign && !changes.contains(name)) all.push_back(text);
  }
  for (const auto& [name, value] : changes) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace

Output invoke(const Invocation& invocation) {
  signal(SIGPIPE, SIG_IGN);  // a command that reads no input closes its end early
  Pipe in, out, err;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read, 0);
  posix_spawn_file_actions_adddup2(&actions, out.write, 1);
  posix_spawn_file_actions_adddup2(&actions, err.write, 2);
  std::vector<std::string> args = {MOEJIT_COMMAND};
  args.insert(args.end(), invocation.args.begin(), invocation.args.end());
  std::vector<std::string> environment = environment_of(invocation.environment);
  pid_t child = -1;
  const int spawned = posix_spawn(&child, MOEJIT_COMMAND, &actions, nullptr, pointers(args).data(),
                                  pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  Output result;
  EXPECT_EQ(spawned, 0) << MOEJIT_COMMAND;
  if (spawned != 0) return result;
  in.close_read();
  out.close_write();
  err.close_write();
  if (!invocation.input.empty()) {
    EXPECT_GE(write(in.write, invocation.input.data(), invocation.input.size()), 0);
  }
  in.close_write();

  int interrupts = invocation.interrupts;
  const auto killed_at = std::chrono::steady_clock::now() + invocation.kill_after;
  while (out.read >= 0 || err.read >= 0) {
    std::array<pollfd, 2> ends = {pollfd{out.read, POLLIN, 0}, pollfd{err.read, POLLIN, 0}};
    int wait_ms = -1;
    if (invocation.kill_after.count() > 0) {
      const auto left = killed_at - std::chrono::steady_clock::now();
      wait_ms = static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
      if (wait_ms <= 0) {
        kill(child, SIGKILL);
        wait_ms = -1;
      }
    }
    if (poll(ends.data(), ends.size(), wait_ms) < 0 && errno != EINTR) break;
    char buffer[4096];
    const auto drain = [&](const pollfd& end, Pipe* pipe, std::string* text) {
      if (end.fd < 0 || end.revents == 0) return;
      const ssize_t count = read(end.fd, buffer, sizeof buffer);
      if (count > 0) text->append(buffer, static_cast<size_t>(count));
      if (count == 0) pipe->close_read();
    };
    drain(ends[0], &out, &result.out);
    drain(ends[1], &err, &result.err);
    if (interrupts > 0 && result.err.find(invocation.interrupt_after) != std::string::npos) {
      for (; interrupts > 0; --interrupts) {
        kill(child, SIGINT);
        usleep(50000);  // two that come together count as one
      }
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return result;
}

fs::path scratch() {
  static const fs::path root = [] {
    std::string pattern = (fs::temp_directory_path() / "moejit-cli-XXXXXX").string();
    const char* made = mkdtemp(pattern.data());
    if (made == nullptr) abort();
    static struct Remove {
      fs::path path;
      ~Remove() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
      }
    } remove{made};
    return remove.path;
  }();
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  const fs::path path = root / (std::string(test->test_suite_name()) + "." + test->name());
  fs::create_directories(path);
  return path;
}

std::map<std::string, std::string> private_environment() {
  const fs::path home = scratch() / "home";
  fs::create_directories(home);
  return {{"HOME", home.string()},
          {"XDG_CACHE_HOME", (home / "cache").string()},
          {"MOEJIT_CACHE_DIR", (scratch() / "cache").string()}};
}

Output moejit(std::vector<std::string> args) {
  return moejit_with({}, std::move(args));
}

Output moejit_with(std::map<std::string, std::string> environment, std::vector<std::string> args) {
  environment.merge(private_environment());
  return invoke({.args = std::move(args), .environment = std::move(environment)});
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string read_text(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

nlohmann::json json_of(const std::string& text) {
  nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(value.is_discarded()) << "not JSON: " << text;
  return value;
}

}  // namespace moejit::cli_test
