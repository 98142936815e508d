// Runs the `moejit` command of this build and collects what it says.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moejit::cli_test {

struct Output {
  int code = -1;  // exit code, or -signal
  std::string out;
  std::string err;
};

struct Invocation {
  std::vector<std::string> args;
  std::map<std::string, std::string> environment;  // set on top of the test's own
  std::string input;
  // Sent once stderr holds `interrupt_after`, `interrupts` times; 0: never.
  int interrupts = 0;
  std::string interrupt_after;
  // SIGKILL this long after the start, unless it has ended; 0: never.
  std::chrono::milliseconds kill_after{0};
};

Output invoke(const Invocation& invocation);
// With the scratch cache and home of the running test.
Output moejit(std::vector<std::string> args);
Output moejit_with(std::map<std::string, std::string> environment, std::vector<std::string> args);

// An empty directory that lives as long as the running test.
std::filesystem::path scratch();
// The environment that keeps a test away from the user's cache.
std::map<std::string, std::string> private_environment();
void write_text(const std::filesystem::path& path, const std::string& text);
std::string read_text(const std::filesystem::path& path);

// Fails the test where the text is not JSON.
nlohmann::json json_of(const std::string& text);

}  // namespace moejit::cli_test
