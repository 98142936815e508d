#include "base/file_lock.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

namespace moejit::internal {
namespace {

// A flock belongs to the open file, which a forked child shares: unless the child closes its copy,
// the lock would outlive a parent that is killed.
struct Registry {
  std::mutex mutex;
  std::set<int> descriptors;
  std::atomic<uint64_t> generation{0};
};

Registry& registry() {
  static Registry* const instance = [] {
    auto* created = new Registry;
    ::pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                     [] {
                       Registry& r = registry();
                       for (const int fd : r.descriptors) ::close(fd);
                       r.descriptors.clear();
                       ++r.generation;
                       r.mutex.unlock();
                     });
    return created;
  }();
  return *instance;
}

}  // namespace

uint64_t fork_generation() {
  return registry().generation.load(std::memory_order_acquire);
}

FileLock::FileLock(FileLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), error_(other.error_), generation_(other.generation_) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(error_, other.error_);
  std::swap(generation_, other.generation_);
  return *this;
}

FileLock::Outcome FileLock::acquire(const std::string& path, LockKind kind, double timeout_s) {
  release();
  {
    // Opened and registered in one step, so that no fork falls in between.
    Registry& r = registry();
    std::lock_guard<std::mutex> lock(r.mutex);
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd_ < 0) {
      error_ = errno;
      return Outcome::kFailed;
    }
    r.descriptors.insert(fd_);
    generation_ = r.generation;
  }
  const auto start = std::chrono::steady_clock::now();
  const auto deadline =
      start + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                  std::chrono::duration<double>(std::min(std::max(timeout_s, 0.0), 1e6)));
  auto pause = std::chrono::microseconds(500);
  const int operation = (kind == LockKind::kShared ? LOCK_SH : LOCK_EX) | LOCK_NB;
  for (;;) {
    if (::flock(fd_, operation) == 0) return Outcome::kHeld;
    if (errno != EWOULDBLOCK && errno != EINTR) {
      error_ = errno;
      release();
      return Outcome::kFailed;
    }
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline) {
      release();
      return Outcome::kTimeout;
    }
    std::this_thread::sleep_for(
        std::min<std::chrono::steady_clock::duration>(pause, deadline - now));
    pause = std::min(pause * 2, std::chrono::microseconds(10000));
  }
}

void FileLock::release() {
  if (fd_ < 0) return;
  const int fd = std::exchange(fd_, -1);
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (generation_ != r.generation) return;  // closed when the child was made
  r.descriptors.erase(fd);
  ::flock(fd, LOCK_UN);  // also where a child of vfork still has a copy
  ::close(fd);
}

}  // namespace moejit::internal
