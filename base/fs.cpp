#include "base/fs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace moejit::internal {
namespace {

std::atomic<int64_t> magic_for_test{0};

Status io_error(const char* what, const std::string& path, int error) {
  return {error == ENOENT ? StatusCode::kNotFound : StatusCode::kIoError,
          std::string(what) + " " + path + ": " + errno_message(error)};
}

std::string octal(mode_t mode) {
  char text[16];
  std::snprintf(text, sizeof text, "%04o", static_cast<unsigned>(mode & 07777));
  return text;
}

Status write_all(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error("cannot write", path, errno);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

std::string join_path(std::string_view directory, std::string_view name) {
  std::string path(directory);
  if (!path.empty() && path.back() != '/') path += '/';
  path += name;
  return path;
}

std::string parent_path(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return std::string(path.substr(0, slash == 0 ? 1 : slash));
}

bool path_exists(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0;
}

bool is_directory(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t file_size(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 ? int64_t{st.st_size} : -1;
}

std::string errno_message(int error) {
  char text[256] = "";
  return ::strerror_r(error, text, sizeof text);
}

Result<std::string> read_file(const std::string& path, int64_t max_bytes) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return io_error("cannot open", path, errno);
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error("cannot read", path, errno);
    if (n == 0) return text;
    if (static_cast<int64_t>(text.size()) + n > max_bytes) {
      return Status(StatusCode::kIoError, "cannot read " + path + ": larger than " +
                                              std::to_string(max_bytes) + " bytes");
    }
    text.append(buffer, static_cast<size_t>(n));
  }
}

Status write_file(const std::string& path, std::string_view bytes, mode_t mode) {
  // A device, a pipe or a socket is written to; replacing it would destroy it.
  struct stat existing;
  if (::stat(path.c_str(), &existing) == 0 && !S_ISREG(existing.st_mode)) {
    const Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    return fd ? write_all(fd.get(), bytes, path) : io_error("cannot open", path, errno);
  }
  static std::atomic<unsigned> serial{0};
  const std::string temporary =
      path + "." + std::to_string(::getpid()) + "-" + std::to_string(serial++) + ".tmp";
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) return io_error("cannot create", temporary, errno);
  Status status = write_all(fd.get(), bytes, path);
  if (status.ok() && ::fsync(fd.get()) != 0) status = io_error("cannot write", path, errno);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) {
    status = io_error("cannot create", path, errno);
  }
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

Status make_directories(const std::string& path, mode_t mode) {
  if (::mkdir(path.c_str(), mode) == 0) return {};
  if (errno == ENOENT && !path.empty() && parent_path(path) != path) {
    MOEJIT_RETURN_IF_ERROR(make_directories(parent_path(path), 0755));
    if (::mkdir(path.c_str(), mode) == 0) return {};
  }
  const int error = errno;
  struct stat st;
  if (error == EEXIST || error == EROFS || error == EACCES) {
    if (::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return {};
  }
  return {StatusCode::kIoError, "cannot create directory " + path + ": " + errno_message(error)};
}

Status check_private_directory(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) != 0) return io_error("cannot look at", path, errno);
  const auto refuse = [&](const std::string& why) {
    return Status(StatusCode::kIoError, path + " is not trusted: " + why);
  };
  if (S_ISLNK(st.st_mode)) return refuse("it is a symbolic link; name the directory itself");
  if (!S_ISDIR(st.st_mode)) return refuse("it is no directory");
  if (st.st_uid != ::geteuid()) {
    return refuse("it belongs to user " + std::to_string(st.st_uid) + ", not to user " +
                  std::to_string(::geteuid()));
  }
  if (st.st_mode & (S_IWGRP | S_IWOTH)) {
    return refuse("its mode " + octal(st.st_mode) + " lets others write; chmod 0700 it");
  }
  return {};
}

Status check_trusted_file(const std::string& path) {
  struct stat st;
  if (::stat(path.c_str(), &st) != 0) return io_error("cannot look at", path, errno);
  const auto refuse = [&](const std::string& why) {
    return Status(StatusCode::kIoError, path + " is not trusted: " + why);
  };
  if (!S_ISREG(st.st_mode)) return refuse("it is no regular file");
  if (st.st_uid != ::geteuid() && st.st_uid != 0) {
    return refuse("it belongs to user " + std::to_string(st.st_uid) +
                  ", neither to root nor to user " + std::to_string(::geteuid()));
  }
  if (st.st_mode & (S_IWGRP | S_IWOTH)) {
    return refuse("its mode " + octal(st.st_mode) + " lets others write");
  }
  return {};
}

std::string network_file_system(const std::string& path) {
  // Values of statfs(2), f_type.
  static constexpr struct {
    uint32_t magic;
    const char* name;
  } kNetwork[] = {
      {0x6969, "nfs"},        {0x517b, "smb"},       {0xff534d42, "cifs"},  {0xfe534d42, "smb2"},
      {0x73757245, "coda"},   {0x7461636f, "ocfs2"}, {0x5346414f, "afs"},   {0x6b414653, "afs"},
      {0x0bd00bd0, "lustre"}, {0x00c36400, "ceph"},  {0x47504653, "gpfs"},  {0x65735546, "fuse"},
      {0x01021997, "9p"},     {0x01161970, "gfs2"},  {0xaad7aaea, "panfs"}, {0x19830326, "beegfs"},
      {0x786f4256, "vboxsf"}, {0x6e667364, "nfsd"},
  };
  uint32_t magic = static_cast<uint32_t>(magic_for_test.load());
  if (magic == 0) {
    struct statfs st;
    if (::statfs(path.c_str(), &st) != 0) return "";
    magic = static_cast<uint32_t>(st.f_type);
  }
  for (const auto& entry : kNetwork) {
    if (entry.magic == magic) return entry.name;
  }
  return "";
}

void set_file_system_magic_for_test(int64_t magic) {
  magic_for_test = magic;
}

}  // namespace moejit::internal
