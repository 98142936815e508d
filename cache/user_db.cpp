#include "cache/user_db.h"

#include <pthread.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <mutex>

#include "base/fs.h"
#include "cache/database_files.h"
#include "cache/rescue.h"
#include "cache/schema.h"

namespace moejit::internal {
namespace {

std::atomic<int> sql_uses{0};
std::atomic<bool> sqlite_torn{false};

struct Count {
  uint64_t generation = 0;
  int connections = 0;
};
struct Opened {
  std::mutex mutex;
  std::map<std::pair<uint64_t, uint64_t>, Count> files;
};
Opened& opened() {
  static Opened* const instance = new Opened;
  return *instance;
}

void close_db(UserDb* user) {
  user->db.reset();
  user->opened.release();
  user->connected.release();
  user->access = Access::kNone;
}

void degrade(UserDb* user, const std::string& why) {
  close_db(user);
  user->why = why + "; nothing is kept on disk";
}

bool identify(UserDb* user) {
  struct stat st;
  if (::lstat(user->path.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  user->device = st.st_dev;
  user->inode = st.st_ino;
  return true;
}

// Creation and migration happen one process at a time.
constexpr double kInitWait = 15, kConnectWait = 5;

void set_journal(const UserDb& user) {
  Db& db = *user.db;
  if (user.network) {
    db.exec("PRAGMA journal_mode=DELETE; PRAGMA synchronous=FULL");
    return;
  }
  std::string mode;
  {
    Query query(db, "PRAGMA journal_mode");
    if (query.row()) mode = query.text_at(0);
  }
  if (mode != "wal" && db.error() == 0) {
    // A pack that was put in place by hand. It works in its old mode too, where others are busy.
    FileLock init;
    if (init.acquire(join_path(user.directory, kInitLock), LockKind::kExclusive, 1) ==
        FileLock::Outcome::kHeld) {
      db.exec("PRAGMA journal_mode=WAL");
      if (classify(db.error()) == Trouble::kBusy) db.take_error();
    }
  }
  db.exec(
      "PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=67108864;"
      "PRAGMA wal_autocheckpoint=1000");
}

// Opens the existing file for writing and brings its schema up to date.
void connect(UserDb* user, const UserDbOptions& options, int* code) {
  std::string message;
  user->db =
      Db::open(user->path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW,
               options.busy_ms, code, &message);
  if (user->db == nullptr) return degrade(user, "cannot open " + user->path + ": " + message);
  int64_t version = 0;
  SchemaVerdict verdict = check_schema(*user->db, &version);
  if (verdict == SchemaVerdict::kOlder) {
    FileLock init;
    if (init.acquire(join_path(user->directory, kInitLock), LockKind::kExclusive, kInitWait) !=
        FileLock::Outcome::kHeld) {
      return degrade(user, user->path + " has schema " + std::to_string(version) +
                               " and is locked by a process that changes it");
    }
    migrate_schema(*user->db, version);
    verdict = user->db->error() != 0 ? SchemaVerdict::kError : check_schema(*user->db, &version);
  }
  switch (verdict) {
    case SchemaVerdict::kCurrent:
      if (sqlite3_db_readonly(user->db->handle(), "main") == 1) {
        user->access = Access::kRead;
        user->why = user->path + " cannot be written; new results are not kept";
        return;
      }
      set_journal(*user);
      if (user->db->error() == 0) {
        user->why.clear();
        user->access = Access::kWrite;
        return;
      }
      break;
    case SchemaVerdict::kNewerRead:
      user->db->exec("PRAGMA query_only=ON");
      user->access = Access::kRead;
      user->why = user->path + " has schema " + std::to_string(version) + ", newer than " +
                  std::to_string(kSchemaVersion) + "; it is read, new results are not kept";
      return;
    case SchemaVerdict::kNewer:
      return degrade(user, user->path + " has schema " + std::to_string(version) +
                               ", which this version of the library (schema " +
                               std::to_string(kSchemaVersion) + ") cannot read");
    case SchemaVerdict::kForeign:
      return degrade(user, user->path + " is the database of another application");
    case SchemaVerdict::kIncomplete:
      *code = SQLITE_NOTADB;
      user->db->fail(SQLITE_NOTADB, "tables are missing");
      break;
    case SchemaVerdict::kOlder:
    case SchemaVerdict::kError:
      break;
  }
  *code = user->db->error();
  message = user->db->message();
  degrade(user, "cannot use " + user->path + ": " + message);
}

void open_for_reading(UserDb* user, const UserDbOptions& options) {
  std::string why, message;
  int code = 0;
  int64_t version = 0;
  // Sees the log of a live database where its -shm is there; else the file alone must be whole.
  user->db = Db::open(user->path, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW,
                      options.busy_ms, &code, &message);
  if (user->db != nullptr) {
    const SchemaVerdict verdict = check_schema(*user->db, &version);
    if (verdict != SchemaVerdict::kError) {
      if (verdict == SchemaVerdict::kCurrent || verdict == SchemaVerdict::kNewerRead ||
          verdict == SchemaVerdict::kOlder) {
        user->access = Access::kRead;
        return;
      }
      user->damaged = verdict == SchemaVerdict::kIncomplete;
      return degrade(user, user->path + (user->damaged ? " lacks its tables"
                                         : verdict == SchemaVerdict::kForeign
                                             ? " is the database of another application"
                                             : " cannot be read by this version of the library"));
    }
    message = user->db->message();
    user->damaged = classify(user->db->error()) == Trouble::kCorrupt;
    user->db.reset();
    if (user->damaged) return degrade(user, "cannot read " + user->path + ": " + message);
  }
  user->db = open_read_only_db(user->path, options.allow_shared, &why);
  if (user->db == nullptr) return degrade(user, why.empty() ? message : why);
  user->access = Access::kRead;
}

UserDb prepare(const UserDbOptions& options) {
  UserDb user;
  Status status;
  if (!options.read_only) status = make_directories(options.directory, 0700);
  char* resolved = ::realpath(options.directory.c_str(), nullptr);
  if (resolved == nullptr) {
    degrade(&user, status.ok() ? "cannot use " + options.directory + ": " + errno_message(errno)
                               : status.message());
    return user;
  }
  user.directory = resolved;
  std::free(resolved);
  user.path = join_path(user.directory, kDatabaseName);
  // Whoever can write here can put machine code into this process.
  status = check_private_directory(options.directory);
  if (!status.ok() && !options.allow_shared) {
    degrade(&user, status.message());
    return user;
  }
  if (const std::string kind = network_file_system(user.directory); !kind.empty()) {
    user.network = options.allow_network;
    if (!user.network) {
      degrade(&user, user.directory + " is on a network file system (" + kind +
                         "), whose locks cannot be relied on; set MOEJIT_CACHE_DIR to a local "
                         "directory, or MOEJIT_CACHE_ALLOW_NETWORK=1 to use it all the same");
      return user;
    }
  }
  return user;
}

}  // namespace

bool is_in_place(const UserDb& user) {
  struct stat st;
  return ::lstat(user.path.c_str(), &st) == 0 && st.st_dev == user.device &&
         st.st_ino == user.inode;
}

bool OpenedFile::note(uint64_t device, uint64_t inode) {
  release();
  Opened& o = opened();
  const uint64_t generation = fork_generation();
  std::unique_lock<std::mutex> lock(o.mutex, std::defer_lock);
  if (generation == 0) {
    lock.lock();
  } else if (!lock.try_lock()) {
    return false;  // a thread of the parent may have held it
  }
  Count& count = o.files[{device, inode}];
  if (count.connections > 0 && count.generation != generation) return false;
  count.generation = generation;
  ++count.connections;
  key_ = {device, inode};
  return true;
}

void OpenedFile::release() {
  if (key_.second == 0) return;
  Opened& o = opened();
  std::lock_guard<std::mutex> lock(o.mutex);
  const auto it = o.files.find(key_);
  if (it != o.files.end() && it->second.generation == fork_generation() &&
      --it->second.connections == 0) {
    o.files.erase(it);
  }
  key_ = {0, 0};
}

SqlUse::SqlUse() {
  static const int registered =
      ::pthread_atfork(nullptr, nullptr, [] { sqlite_torn = sqlite_torn || sql_uses > 0; });
  (void)registered;
  ++sql_uses;
}
SqlUse::~SqlUse() {
  --sql_uses;
}
bool sqlite_usable_after_fork() {
  return !sqlite_torn;
}

UserDb open_user_db(const UserDbOptions& options) {
  const SqlUse use;
  UserDb user = prepare(options);
  if (!user.why.empty()) return user;
  const bool may_write = !options.read_only && ::access(user.directory.c_str(), W_OK | X_OK) == 0;
  if (path_exists(user.path) && !identify(&user)) {
    degrade(&user, user.path + " is no regular file");
    return user;
  }
  if (user.inode != 0 && !user.opened.note(user.device, user.inode)) {
    degrade(&user, user.path + " was open in the parent of this forked process");
    return user;
  }
  if (!may_write) {
    if (!options.read_only) {
      user.why = user.directory + " cannot be written; new results are not kept";
    }
    if (user.inode != 0) {
      open_for_reading(&user, options);
    } else if (!options.read_only) {
      degrade(&user, user.directory + " cannot be written and has no database");
    } else {
      degrade(&user, user.path + " does not exist");
    }
    return user;
  }

  const auto outcome = user.connected.acquire(join_path(user.directory, kConnectedLock),
                                              LockKind::kShared, kConnectWait);
  if (outcome != FileLock::Outcome::kHeld) {
    degrade(&user, outcome == FileLock::Outcome::kTimeout
                       ? user.directory + " is being repaired by another process"
                       : "cannot lock " + join_path(user.directory, kConnectedLock) + ": " +
                             errno_message(user.connected.error()));
    return user;
  }
  if (user.inode == 0) {
    const std::string failure = create_database(user.directory, user.network, &user.connected);
    if (!failure.empty() || !identify(&user)) {
      degrade(&user, failure.empty() ? user.path + " vanished" : failure);
      return user;
    }
    user.opened.note(user.device, user.inode);
  }
  int code = 0;
  connect(&user, options, &code);
  if (classify(code) == Trouble::kCorrupt) recover_user_db(&user, options);
  user.locks_work = user.access == Access::kWrite;
  return user;
}

void recover_user_db(UserDb* user, const UserDbOptions& options) {
  const SqlUse use;
  const uint64_t device = user->device, inode = user->inode;
  const bool may_replace = !options.read_only && user->access != Access::kRead;
  close_db(user);
  user->locks_work = false;
  if (!may_replace) return degrade(user, user->path + " is damaged");
  FileLock alone;
  if (alone.acquire(join_path(user->directory, kConnectedLock), LockKind::kExclusive, 0) !=
      FileLock::Outcome::kHeld) {
    return degrade(user,
                   user->path + " is damaged, and cannot be replaced while others have it open");
  }
  // Somebody else may have put a new file there since.
  std::string moved;
  if (identify(user) && user->device == device && user->inode == inode) {
    moved = set_database_aside(user->directory);
    if (moved.empty()) return degrade(user, user->path + " is damaged and cannot be moved");
  }
  if (!path_exists(user->path)) {
    const std::string failure = create_database(user->directory, user->network, &alone);
    if (!failure.empty()) return degrade(user, failure);
  }
  alone.release();
  if (user->connected.acquire(join_path(user->directory, kConnectedLock), LockKind::kShared,
                              kConnectWait) != FileLock::Outcome::kHeld ||
      !identify(user)) {
    return degrade(user, user->path + " is being repaired by another process");
  }
  user->opened.note(user->device, user->inode);
  int code = 0;
  connect(user, options, &code);
  user->locks_work = user->access == Access::kWrite;
  if (moved.empty()) return;
  const int64_t rescued = user->access == Access::kWrite ? rescue_rows(moved, *user->db, {}) : 0;
  user->notes.push_back(user->path + " was damaged; it is kept as " + moved + ", and " +
                        std::to_string(rescued) + " of its rows went over to a new one");
}

std::unique_ptr<Db> open_read_only_db(const std::string& path, bool allow_shared,
                                      std::string* why) {
  why->clear();
  const Status trusted = check_trusted_file(path);
  if (!trusted.ok() && (trusted.code() == StatusCode::kNotFound || !allow_shared)) {
    *why = trusted.message();
    return nullptr;
  }
  // Without locks and log a live database would be read half-written.
  if (file_size(path + "-wal") > 0 || file_size(path + "-journal") > 0) {
    *why = path + " is in use or was left unfinished; make a pack of it first";
    return nullptr;
  }
  const SqlUse use;
  int code = 0;
  std::string message;
  std::unique_ptr<Db> db =
      Db::open("file:" + uri_escape(path) + "?immutable=1",
               SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI, 0, &code, &message);
  int64_t version = 0;
  if (db != nullptr) {
    switch (check_schema(*db, &version)) {
      case SchemaVerdict::kCurrent:
      case SchemaVerdict::kOlder:
      case SchemaVerdict::kNewerRead:
        return db;
      case SchemaVerdict::kError:
        message = db->message();
        break;
      default:
        message = "it is no database of this library, or a newer one";
    }
  }
  *why = "cannot read " + path + ": " + message;
  return nullptr;
}

}  // namespace moejit::internal
