// The user's own database: whether its directory may be used, how the file comes into being, who
// is connected, and what happens when it turns out to be damaged.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/file_lock.h"
#include "cache/db.h"

namespace moejit::internal {

enum class Access { kNone, kRead, kWrite };

// Counts this process's connections to a file. SQLite keeps state per inode, which a forked child
// inherits together with locks that it does not hold: what was open then stays shut in the child.
class OpenedFile {
 public:
  OpenedFile() = default;
  OpenedFile(OpenedFile&& other) noexcept { std::swap(key_, other.key_); }
  OpenedFile& operator=(OpenedFile&& other) noexcept {
    std::swap(key_, other.key_);
    return *this;
  }
  ~OpenedFile() { release(); }
  // False where an ancestor had it open when it forked.
  bool note(uint64_t device, uint64_t inode);
  void release();

 private:
  std::pair<uint64_t, uint64_t> key_{0, 0};
};

// The members go in reverse order: the connection before the lock that announces it.
struct UserDb {
  Access access = Access::kNone;
  std::string directory;  // resolved
  std::string path;       // of the file
  std::string why;        // why access is less than asked for; "" else
  // Lines for the log. The caller writes them when it holds no lock: a sink may call back.
  mutable std::vector<std::string> notes;
  uint64_t device = 0, inode = 0;
  bool damaged = false;     // access is kNone because the file is
  bool network = false;     // on a network file system, by request
  bool locks_work = false;  // the directory takes lock files
  FileLock connected;       // shared, on cache.lock, while `db` lives
  OpenedFile opened;
  std::unique_ptr<Db> db;
};

struct UserDbOptions {
  std::string directory;
  bool read_only = false;
  bool allow_shared = false;
  bool allow_network = false;
  int busy_ms = 5000;
};

// Opens or creates the database. Never fails: `access` and `why` tell how far it came.
UserDb open_user_db(const UserDbOptions& options);

// Whether the open file is still the one under its name.
bool is_in_place(const UserDb& user);

// After Trouble::kCorrupt: closes the connection. Where no other process is connected, the file is
// set aside as *.bad-<time> and a new one takes its place; else access becomes kNone, since a file
// that others have open must not be moved.
void recover_user_db(UserDb* user, const UserDbOptions& options);

// A database made by pack, or another process's closed one, opened without locks and never
// written. Null with the reason where it may not be used.
std::unique_ptr<Db> open_read_only_db(const std::string& path, bool allow_shared, std::string* why);

// False in a child that was forked while some thread was inside SQLite: its mutexes may be held
// for ever. Any connection counts its use.
class SqlUse {
 public:
  SqlUse();
  ~SqlUse();
};
bool sqlite_usable_after_fork();

}  // namespace moejit::internal
