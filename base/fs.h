// Files and directories, with errors as values.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "moejit/status.h"

namespace moejit::internal {

// An owned file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

std::string join_path(std::string_view directory, std::string_view name);
// "." where the path has no directory.
std::string parent_path(std::string_view path);
bool path_exists(const std::string& path);   // a dangling link exists
bool is_directory(const std::string& path);  // also through links
int64_t file_size(const std::string& path);  // -1 where there is no such file
std::string errno_message(int error);        // "No space left on device"

// The whole file; kNotFound, or kIoError also where it is larger than max_bytes or a directory.
Result<std::string> read_file(const std::string& path, int64_t max_bytes = int64_t{1} << 30);
// Replaces the file whole: readers see the old content or the new, also after a crash. What is no
// regular file (/dev/stdout, a named pipe) is written to.
Status write_file(const std::string& path, std::string_view bytes, mode_t mode = 0644);
// Creates the directory with `mode` and its missing parents with 0755, both under the umask.
Status make_directories(const std::string& path, mode_t mode = 0755);

// May this process trust the directory's content as its own? Ok where it is a directory and no
// link, belongs to the effective user and nobody else may write it.
Status check_private_directory(const std::string& path);
// The same for a file that is only read; it may also belong to root.
Status check_trusted_file(const std::string& path);

// Name of the network or user-space file system that holds the path ("nfs", "lustre", "fuse"),
// else "". Locks and shared memory cannot be relied on there.
std::string network_file_system(const std::string& path);
// For tests: every path now reports this statfs magic number; 0 restores.
void set_file_system_magic_for_test(int64_t magic);

}  // namespace moejit::internal
