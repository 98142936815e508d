#include "cache/once.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <vector>

#include "base/file_lock.h"
#include "base/fs.h"
#include "base/log.h"

namespace moejit::internal {
namespace {

// The keys that this thread is compiling. A compile step that asks for another key must not take a
// second stripe, and one that asks for its own must not wait for itself.
thread_local std::vector<Digest> compiling;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Result<Once::Shared> compile_guarded(const Digest& key, const Once::Steps& steps) {
  compiling.push_back(key);
  Status failure;
  Once::Shared binary;
  try {
    Result<StoredBinary> compiled = steps.compile();
    if (!compiled.ok()) {
      failure = compiled.status();
    } else if (compiled->bytes.empty()) {
      failure = {StatusCode::kInternal, "the compiler returned an empty binary"};
    } else {
      binary = std::make_shared<const StoredBinary>(*std::move(compiled));
    }
  } catch (const std::exception& e) {
    failure = {StatusCode::kInternal, std::string("the compile step threw: ") + e.what()};
  } catch (...) {
    failure = {StatusCode::kInternal, "the compile step threw"};
  }
  compiling.pop_back();
  if (!failure.ok()) return failure;
  return binary;
}

std::string stripe(const std::string& folder, const Digest& key) {
  char name[8];
  std::snprintf(name, sizeof name, "%02x", key[0]);
  return join_path(folder, name);
}

}  // namespace

Result<Once::Shared> Once::lead(const Digest& key, const std::string& lock_folder, double wait_s,
                                const Steps& steps, double* waited_s) {
  FileLock lock;
  if (!lock_folder.empty() && compiling.empty()) {
    const auto start = std::chrono::steady_clock::now();
    const std::string path = stripe(lock_folder, key);
    const FileLock::Outcome outcome = lock.acquire(path, LockKind::kExclusive, wait_s);
    *waited_s += seconds_since(start);
    if (outcome == FileLock::Outcome::kTimeout) {
      log(LogLevel::kWarning, "cache",
          "another process has held " + path + " for " + std::to_string(int(wait_s)) +
              " s; compiling here as well");
    } else if (outcome == FileLock::Outcome::kFailed) {
      log_once(LogLevel::kWarning, "cache", "stripe " + path,
               "cannot lock " + path + ": " + errno_message(lock.error()) +
                   "; processes may compile the same kernel twice");
    }
  }
  // Another thread or process may have finished since the caller looked.
  if (Shared found = steps.probe()) return found;
  Result<Shared> compiled = compile_guarded(key, steps);
  if (compiled.ok()) steps.publish(*compiled);
  return compiled;
}

Result<Once::Shared> Once::run(const Digest& key, const std::string& lock_folder, double wait_s,
                               const Steps& steps, double* waited_s) {
  if (std::find(compiling.begin(), compiling.end(), key) != compiling.end()) {
    return compile_guarded(key, steps);
  }
  std::shared_ptr<Flight> flight;
  bool leader = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<Flight>& slot = flights_[key];
    if (slot == nullptr) {
      slot = std::make_shared<Flight>();
      leader = true;
    }
    flight = slot;
  }
  // Two threads in the midst of compiling that want each other's key would wait for ever.
  if (!leader && !compiling.empty()) return compile_guarded(key, steps);
  if (!leader) {
    const auto start = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(flight->mutex);
    flight->done.wait(lock, [&] { return flight->result.has_value(); });
    *waited_s += seconds_since(start);
    return *flight->result;
  }
  const Result<Shared> result = [&]() -> Result<Shared> {
    try {
      return lead(key, lock_folder, wait_s, steps, waited_s);
    } catch (const std::exception& e) {
      return Status(StatusCode::kOutOfMemory, std::string("the cache failed: ") + e.what());
    }
  }();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    flights_.erase(key);
  }
  {
    std::lock_guard<std::mutex> lock(flight->mutex);
    flight->result = result;
  }
  flight->done.notify_all();
  return result;
}

}  // namespace moejit::internal
