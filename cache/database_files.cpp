#include "cache/database_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <memory>
#include <vector>

#include "base/fs.h"
#include "cache/db.h"
#include "cache/schema.h"

namespace moejit::internal {
namespace {

constexpr double kInitWait = 15;
constexpr const char* kCompanions[] = {"", "-wal", "-shm", "-journal"};

std::vector<std::string> entries(const std::string& directory, std::string_view prefix) {
  std::vector<std::string> names;
  DIR* const stream = ::opendir(directory.c_str());
  if (stream == nullptr) return names;
  while (const dirent* entry = ::readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name.substr(0, prefix.size()) == prefix) names.emplace_back(name);
  }
  ::closedir(stream);
  return names;
}

std::string temporary_prefix() {
  return std::string(kDatabaseName) + ".new-";
}

bool companions_left(const std::string& path) {
  for (const char* suffix : kCompanions) {
    if (path_exists(path + suffix)) return true;
  }
  return false;
}

// Builds the whole database under another name. "" or why not.
std::string build(const std::string& temporary, bool network) {
  int code = 0;
  std::string message;
  // Created first with its final mode: SQLite would take the umask's.
  Fd file(::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return errno_message(errno);
  file = Fd();
  const std::unique_ptr<Db> db =
      Db::open(temporary, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, 1000,
               &code, &message);
  if (db == nullptr) return message;
  // Nobody sees this file until it is whole: one fsync at the end is enough. WAL is kept in the
  // file; its companions go away when this connection closes.
  db->exec("PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY");
  if (create_schema(*db) && !network) db->exec("PRAGMA journal_mode=WAL");
  return db->message();
}

}  // namespace

void remove_stale(const std::string& directory, std::string_view prefix) {
  for (const std::string& name : entries(directory, prefix)) {
    const std::string path = join_path(directory, name);
    struct stat st;
    if (::lstat(path.c_str(), &st) == 0 && std::time(nullptr) - st.st_mtime > 3600) {
      ::unlink(path.c_str());
    }
  }
}

std::string sync_file(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  return file && ::fsync(file.get()) == 0 ? "" : errno_message(errno);
}

std::string create_database(const std::string& directory, bool network, FileLock* connected) {
  const std::string path = join_path(directory, kDatabaseName);
  FileLock init;
  const auto outcome =
      init.acquire(join_path(directory, kInitLock), LockKind::kExclusive, kInitWait);
  if (outcome == FileLock::Outcome::kFailed) {
    return "cannot lock " + join_path(directory, kInitLock) + ": " + errno_message(init.error());
  }
  if (outcome == FileLock::Outcome::kTimeout) return path + " is being created by another process";
  if (path_exists(path)) return "";
  remove_stale(directory, temporary_prefix());
  if (companions_left(path)) {
    // The log of a file that was deleted would be taken for the new one's.
    const std::string lock_path = join_path(directory, kConnectedLock);
    connected->release();
    const bool alone =
        connected->acquire(lock_path, LockKind::kExclusive, 0) == FileLock::Outcome::kHeld;
    if (alone) {
      for (const char* suffix : kCompanions) ::unlink((path + suffix).c_str());
    }
    connected->release();
    if (connected->acquire(lock_path, LockKind::kShared, kInitWait) != FileLock::Outcome::kHeld ||
        !alone) {
      return path + " was deleted while another process had it open";
    }
  }
  char unique[64];
  std::snprintf(unique, sizeof unique, "%ld-%llx", static_cast<long>(::getpid()),
                static_cast<unsigned long long>(std::time(nullptr)));
  const std::string temporary = join_path(directory, temporary_prefix() + unique);
  std::string failure = build(temporary, network);
  if (failure.empty()) failure = sync_file(temporary);
  // Unlike rename, link never replaces a file that others may have open.
  if (failure.empty() && ::link(temporary.c_str(), path.c_str()) != 0 && errno != EEXIST) {
    failure = errno_message(errno);
  }
  for (const char* suffix : kCompanions) ::unlink((temporary + suffix).c_str());
  return failure.empty() ? "" : "cannot create " + path + ": " + failure;
}

std::string set_database_aside(const std::string& directory) {
  const std::string bad = std::string(kDatabaseName) + ".bad-";
  for (const std::string& name : entries(directory, bad)) {
    ::unlink(join_path(directory, name).c_str());
  }
  const std::string path = join_path(directory, kDatabaseName);
  const std::string aside =
      join_path(directory, bad + std::to_string(static_cast<int64_t>(std::time(nullptr))));
  for (const char* suffix : kCompanions) {
    if (::rename((path + suffix).c_str(), (aside + suffix).c_str()) != 0 &&
        (errno != ENOENT || *suffix == '\0')) {
      return "";
    }
  }
  return aside;
}

int64_t remove_database(const std::string& directory) {
  int64_t bytes = 0;
  for (const std::string& name : entries(directory, std::string(kDatabaseName) + ".")) {
    const std::string path = join_path(directory, name);
    bytes += file_size(path) > 0 ? file_size(path) : 0;
    ::unlink(path.c_str());
  }
  // The main file first: companions without it are known to be leftovers.
  for (const char* suffix : kCompanions) {
    ::unlink((join_path(directory, kDatabaseName) + suffix).c_str());
  }
  return bytes;
}

std::string uri_escape(std::string_view path) {
  // What follows the first two slashes of a URI would be a host.
  std::string text = path.starts_with("//") ? "//" : "";
  for (const char c : path) {
    if (c == '?' || c == '#' || c == '%') {
      char code[4];
      std::snprintf(code, sizeof code, "%%%02X", static_cast<unsigned char>(c));
      text += code;
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace moejit::internal
