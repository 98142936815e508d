// The program that the cache tests run in parallel and kill.
//   cold DIR KEYS LOG      asks for keys 0..KEYS-1, appends one line to LOG for each compilation
//   load DIR SEED          writes binaries, measurements and selections until it is killed
//   hold LOCKFILE S        holds a lock file exclusively for S seconds
//   check DIR KEYS         0 where every key is found intact without compiling
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "base/file_lock.h"
#include "base/fs.h"
#include "cache/store.h"

using namespace moejit;            // NOLINT
using namespace moejit::internal;  // NOLINT

namespace {

ArtifactKey key_of(int n) {
  ArtifactKey key;
  for (size_t i = 0; i < 32; ++i) key.source[i] = static_cast<uint8_t>(n * 7 + int(i));
  key.source[31] = static_cast<uint8_t>(n);
  key.source[30] = static_cast<uint8_t>(n >> 8);
  key.toolchain = "worker 1";
  return key;
}

StoredBinary binary_of(int n) {
  StoredBinary b;
  b.backend = "cpu";
  b.arch = "any";
  b.format = "elf-object";
  b.toolchain = "worker 1";
  b.bytes.assign(size_t(2000 + n % 50 * 100), static_cast<uint8_t>(n));
  for (size_t i = 0; i < 8; ++i) b.bytes[i] = static_cast<uint8_t>(n >> (4 * i));
  return b;
}

void append_line(const char* path, int n) {
  const Fd fd(::open(path, O_WRONLY | O_CREAT | O_APPEND, 0600));
  const std::string line = std::to_string(n) + "\n";
  if (::write(fd.get(), line.data(), line.size()) < 0) std::abort();
}

int cold(const char* directory, int keys, const char* log_path) {
  StoreOptions options;
  options.directory = directory;
  const auto store = Store::open(options);
  if (!store->degraded().empty()) return 3;
  for (int n = 0; n < keys; ++n) {
    const auto found = store->find_or_compile(key_of(n), [&]() -> Result<StoredBinary> {
      append_line(log_path, n);
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      return binary_of(n);
    });
    if (!found.ok() || found->bytes != binary_of(n).bytes) return 4;
  }
  return 0;
}

int load(const char* directory, unsigned seed) {
  StoreOptions options;
  options.directory = directory;
  const auto store = Store::open(options);
  for (unsigned i = 0;; ++i) {
    const int n = static_cast<int>((seed * 7919u + i * 104729u) % 4096u);
    const auto found =
        store->find_or_compile(key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n); });
    if (!found.ok() || found->bytes != binary_of(n).bytes) return 4;
    Measurement m;
    m.key = {"{\"e\":8}", int64_t(n % 16), "{\"cpu\":1}", "{}"};
    m.session = "s" + std::to_string(seed);
    m.schedule = "{\"n\":" + std::to_string(n) + "}";
    m.source = key_of(n).source;
    m.toolchain = "worker 1";
    m.stage = "screen";
    m.status = "ok";
    m.median_s = 1e-6 * (n + 1);
    store->record(m);
    Selection s;
    s.key = m.key;
    s.generator = "g";
    s.schedule = m.schedule;
    s.source = m.source;
    s.toolchain = m.toolchain;
    s.how = "tuned";
    store->select(s);
  }
}

int hold(const char* path, double seconds) {
  FileLock lock;
  if (lock.acquire(path, LockKind::kExclusive, 5) != FileLock::Outcome::kHeld) return 5;
  std::puts("held");
  std::fflush(stdout);
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  return 0;
}

int check(const char* directory, int keys) {
  StoreOptions options;
  options.directory = directory;
  const auto store = Store::open(options);
  for (int n = 0; n < keys; ++n) {
    const auto found = store->find_binary(key_of(n));
    if (!found.has_value() || found->bytes != binary_of(n).bytes) return 6;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "cold" && argc == 5) return cold(argv[2], std::atoi(argv[3]), argv[4]);
  if (command == "load" && argc == 4) return load(argv[2], unsigned(std::atoi(argv[3])));
  if (command == "hold" && argc == 4) return hold(argv[2], std::atof(argv[3]));
  if (command == "check" && argc == 4) return check(argv[2], std::atoi(argv[3]));
  return 2;
}
