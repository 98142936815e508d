#include "fixture.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "base/fs.h"
#include "base/log.h"

namespace moejit::internal {
namespace {

std::mutex log_mutex;
std::vector<std::string> log_lines;

void collect(int level, const char* message, void*) {
  std::lock_guard<std::mutex> lock(log_mutex);
  log_lines.push_back(std::to_string(level) + " " + message);
}

}  // namespace

CacheTest::CacheTest() {
  std::string pattern = (std::filesystem::temp_directory_path() / "moejit-cache-XXXXXX").string();
  root_ = ::mkdtemp(pattern.data());
  directory_ = join_path(root_, "cache");
  set_log_sink(collect, nullptr);
  take_log();
}

CacheTest::~CacheTest() {
  set_log_sink(nullptr, nullptr);
  set_file_system_magic_for_test(0);
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

StoreOptions CacheTest::options() const {
  StoreOptions o;
  o.directory = directory_;
  return o;
}

std::string CacheTest::file(const std::string& name) const {
  return join_path(directory_, name);
}

std::vector<std::string> CacheTest::take_log() {
  std::lock_guard<std::mutex> lock(log_mutex);
  return std::exchange(log_lines, {});
}

int CacheTest::warnings() {
  int count = 0;
  for (const std::string& line : take_log()) count += line[0] <= '1';
  return count;
}

ArtifactKey key_of(int n, const std::string& toolchain) {
  ArtifactKey key;
  for (size_t i = 0; i < 32; ++i)
    key.source[i] = static_cast<uint8_t>(n * 37 + int(i) * 11 + n / 7);
  key.source[31] = static_cast<uint8_t>(n);
  key.source[30] = static_cast<uint8_t>(n >> 8);
  key.toolchain = toolchain;
  return key;
}

StoredBinary binary_of(int n, size_t size) {
  StoredBinary b;
  b.backend = "cpu";
  b.arch = "x86-64-avx512";
  b.format = "elf-object";
  b.toolchain = "clang 19.1.7 abcd";
  b.schedule = "{\"n\":" + std::to_string(n) + "}";
  b.config = "{\"num_experts\":8}";
  b.compiler_log = "no warnings";
  b.registers = n;
  b.spill_bytes = 0;
  b.compile_ms = 12.5;
  b.bytes.resize(size);
  uint32_t state = static_cast<uint32_t>(n) * 2654435761u + 1;
  for (uint8_t& byte : b.bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return b;
}

MeasurementKey measurement_key(int64_t tokens, const std::string& environment) {
  return {"{\"num_experts\":8,\"top_k\":2}", tokens, environment, "{\"routing\":\"uniform\"}"};
}

Measurement measurement_of(const std::string& schedule, double median_s) {
  Measurement m;
  m.key = measurement_key();
  m.session = "11111111-2222-3333-4444-555555555555";
  m.schedule = schedule;
  m.source = key_of(1).source;
  m.toolchain = key_of(1).toolchain;
  m.stage = "final";
  m.status = "ok";
  m.median_s = median_s;
  m.p20_s = median_s * 0.9;
  m.p80_s = median_s * 1.1;
  m.samples = 30;
  m.predicted_s = median_s * 0.8;
  m.floor_s = median_s * 0.7;
  m.error = 1e-3;
  m.note = "noted";
  return m;
}

Selection selection_of(int64_t tokens, const std::string& schedule) {
  Selection s;
  s.key = measurement_key(tokens);
  s.generator = "generator-1";
  s.schedule = schedule;
  s.source = key_of(1).source;
  s.toolchain = key_of(1).toolchain;
  s.how = "tuned";
  s.median_s = 1e-5;
  s.predicted_s = 0.9e-5;
  s.floor_s = 0.8e-5;
  s.error = 1e-4;
  s.versus_default = 1.25;
  s.candidates = 16;
  s.note = "a note";
  return s;
}

int64_t counter(const Store& store, const std::string& name) {
  for (const auto& [k, v] : store.counters()) {
    if (k == name) return v;
  }
  return -1;
}

std::string sql(const std::string& path, const std::string& statement) {
  sqlite3* handle = nullptr;
  std::string value;
  if (sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr) ==
      SQLITE_OK) {
    sqlite3_busy_timeout(handle, 5000);
    const auto first = [](void* out, int count, char** values, char**) {
      auto* text = static_cast<std::string*>(out);
      if (text->empty() && count > 0 && values[0] != nullptr) *text = values[0];
      return 0;
    };
    char* message = nullptr;
    if (sqlite3_exec(handle, statement.c_str(), first, &value, &message) != SQLITE_OK) {
      value = std::string("error: ") + (message != nullptr ? message : "");
    }
    sqlite3_free(message);
  }
  sqlite3_close(handle);
  return value;
}

void overwrite(const std::string& path, int64_t offset, const std::string& bytes) {
  const Fd fd(::open(path.c_str(), O_WRONLY));
  ASSERT_TRUE(static_cast<bool>(fd)) << path;
  ASSERT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), offset),
            static_cast<ssize_t>(bytes.size()));
}

pid_t start_worker(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  const std::string program = MOEJIT_CACHE_WORKER;
  argv.push_back(const_cast<char*>(program.c_str()));
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  return pid;
}

int wait_for(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int in_child(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  return wait_for(pid);
}

int test_level() {
  const char* text = std::getenv("MOEJIT_TEST_LEVEL");
  const int level = text != nullptr ? std::atoi(text) : 1;
  return level < 1 ? 1 : level;
}

}  // namespace moejit::internal
