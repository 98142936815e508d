// Small kernels and temporary folders for the tests of the CPU backend.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "backends/backend.h"
#include "backends/cpu/compiler_module.h"

namespace moejit::internal {

inline std::string read_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// `body` follows templates/abi.h and `using moejit_abi::MoeArgs;`.
inline KernelSource kernel(const std::string& body, std::vector<std::string> entries = {"go"},
                           const std::string& name = "test_kernel.cc") {
  KernelSource source;
  source.name = name;
  std::string abi = read_text(std::string(MOEJIT_SOURCE_DIR) + "/templates/abi.h");
  if (const size_t at = abi.find("#pragma once"); at != std::string::npos) abi.erase(at, 12);
  source.text = abi + "\nusing moejit_abi::MoeArgs;\n" + body;
  source.arch = "x86-64-v3";
  source.language = "c++";
  for (const std::string& entry : entries) source.entries.push_back(Entry{.name = entry});
  return source;
}

// Writes `value` to the int at args.out.
inline KernelSource constant_kernel(int value) {
  return kernel(
      "extern \"C\" void go(const MoeArgs* a, int w, int) { if (w == 0) *(int*)a->out = " +
      std::to_string(value) + "; }\n");
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = std::filesystem::temp_directory_path() / "moejit-test-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

class ScopedEnv {
 public:
  ScopedEnv(const char* name, const std::string& value) : name_(name) {
    if (const char* old = getenv(name)) saved_ = old, had_ = true;
    setenv(name, value.c_str(), 1);
  }
  ~ScopedEnv() { had_ ? setenv(name_, saved_.c_str(), 1) : unsetenv(name_); }
  ScopedEnv(const ScopedEnv&) = delete;
  ScopedEnv& operator=(const ScopedEnv&) = delete;

 private:
  const char* name_;
  std::string saved_;
  bool had_ = false;
};

// Waits for a child with a limit, so that a deadlock fails instead of hanging.
inline int exit_code(pid_t child) {
  for (int i = 0; i < 12000; ++i) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child)
      return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    usleep(10000);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return -2;
}

// Carries out `checks` in a fresh process that has the environment variable set: the library reads
// its settings once. Call it at the start of a test that does nothing else.
template <typename Checks>
void in_new_process(const char* name, const std::string& value, Checks checks) {
  if (getenv("MOEJIT_TEST_CHILD") != nullptr) return checks();
  const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string filter =
      std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    dup2(2, 1);  // its summary is not this one's
    setenv("MOEJIT_TEST_CHILD", "1", 1);
    setenv(name, value.c_str(), 1);
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    execl(self.c_str(), self.c_str(), filter.c_str(), nullptr);
    _exit(127);
  }
  EXPECT_EQ(exit_code(child), 0) << "with " << name << "=" << value;
}

}  // namespace moejit::internal

// For tests that compile: without the module there is nothing to test.
#define MOEJIT_NEED_COMPILER()                                                   \
  do {                                                                           \
    if (auto module_ = ::moejit::internal::CompilerModule::get(); !module_.ok()) \
      GTEST_SKIP() << module_.status().to_string();                              \
  } while (0)
