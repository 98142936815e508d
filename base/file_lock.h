// flock(2) locks on small files that are never unlinked, and what fork(2) does to them.
#pragma once

#include <cstdint>
#include <string>

namespace moejit::internal {

enum class LockKind { kShared, kExclusive };

// Holds a lock from acquire() to release(), destruction or the death of the process. A forked
// child holds none: its copies of the descriptors are closed in the child.
class FileLock {
 public:
  FileLock() = default;
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock() { release(); }

  enum class Outcome { kHeld, kTimeout, kFailed };  // kFailed: see error()
  // Opens `path` (created with 0600, no link followed) and waits up to `timeout_s` for the lock;
  // 0 tries once.
  Outcome acquire(const std::string& path, LockKind kind, double timeout_s);
  void release();
  bool held() const { return fd_ >= 0; }
  int error() const { return error_; }  // errno of the last kFailed

 private:
  int fd_ = -1;
  int error_ = 0;
  uint64_t generation_ = 0;
};

// 0 in the first process of this image, then one more in each forked child. State of an earlier
// generation belongs to an ancestor: its handles must be left alone, its mutexes may be held.
uint64_t fork_generation();

}  // namespace moejit::internal
