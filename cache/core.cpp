#include "cache/core.h"

#include <algorithm>

#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"
#include "cache/database_files.h"
#include "cache/evict.h"
#include "cache/rows.h"
#include "cache/schema.h"

namespace moejit::internal {
namespace {

constexpr double kFullPause = 600;  // after a full disk
constexpr double kBusyPause = 30;   // after a writer that did not end
constexpr int64_t kUseGranularity = 3600;
constexpr size_t kUseBatch = 32;
constexpr int64_t kMemoryBytes = 64 << 20;

int64_t memory_bytes(const StoreOptions& options) {
  return options.mode == StoreMode::kMemory || options.directory.empty()
             ? std::max(options.max_bytes, kMemoryBytes)
             : kMemoryBytes;
}

}  // namespace

Core::Lock::~Lock() {
  for (std::string& note : core_.user_.notes) core_.unsaid_.emplace_back("", std::move(note));
  core_.user_.notes.clear();
  const auto lines = std::move(core_.unsaid_);
  core_.unsaid_.clear();
  lock_.unlock();
  for (const auto& [key, message] : lines) {
    if (key.empty()) {
      log(LogLevel::kWarning, "cache", message);
    } else {
      log_once(LogLevel::kWarning, "cache", key, message);
    }
  }
}

void Core::say_once(const std::string& key, const std::string& message) const {
  unsaid_.emplace_back(key, message);
}

Core::Core(const StoreOptions& o, Counters* counters)
    : generation(fork_generation()), options(o), memory(memory_bytes(o)), counters_(counters) {
  const Lock lock(*this);
  open_user();
  open_layers();
}

Core::~Core() {
  const Lock lock(*this);
  flush_uses();
  const SqlUse use;
  user_.db.reset();
  layers_.clear();
}

UserDbOptions Core::user_options() const {
  return {options.directory, options.mode == StoreMode::kReadOnly, options.allow_shared,
          options.allow_network, options.busy_ms};
}

void Core::open_user() {
  if (options.mode == StoreMode::kMemory) {
    user_.why = "memory was asked for; nothing is kept on disk";
    return;
  }
  if (options.directory.empty()) {
    user_.why = "no directory is known; nothing is kept on disk";
  } else if (!sqlite_usable_after_fork()) {
    user_.why = "the process was forked during a database access; nothing is kept on disk";
  } else {
    user_ = open_user_db(user_options());
  }
  if (!user_.why.empty()) {
    say_once(options.directory + user_.why, user_.why);
  }
}

void Core::open_layers() {
  if (!sqlite_usable_after_fork()) return;
  for (const std::string& path : options.read_only) {
    Layer layer;
    std::string why;
    layer.path = is_directory(path) ? join_path(path, kDatabaseName) : path;
    layer.db = open_read_only_db(layer.path, options.allow_shared, &why);
    if (layer.db != nullptr) {
      layers_.push_back(std::move(layer));
    } else {
      say_once(path + why, why + "; it is left out");
    }
  }
}

// Whoever deletes a cache that a process has open means the next results to go to a new one; those
// that went on into the deleted file would be lost.
void Core::follow_path() {
  if (user_.db == nullptr || user_.access != Access::kWrite || is_in_place(user_)) return;
  unsaid_.emplace_back("", user_.path + " was deleted or replaced; it is opened anew");
  const SqlUse use;
  used_.clear();
  user_.db.reset();
  user_ = UserDb();
  open_user();
}

bool Core::usable(bool to_write) const {
  if (user_.db == nullptr || user_.access == Access::kNone) return false;
  if (!to_write) return true;
  return user_.access == Access::kWrite && std::chrono::steady_clock::now() >= suspended_until_;
}

void Core::suspend(double seconds, StatusCode code, const std::string& why) {
  suspended_until_ =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(int64_t(seconds * 1000));
  suspended_why_ = why;
  suspended_code_ = code;
  say_once("suspend " + user_.path, why + "; new results are kept in memory for " +
                                        std::to_string(static_cast<int>(seconds)) + " s");
}

// Takes the connection's error. Whatever it was, the caller goes on as after a miss.
void Core::handle_error(const char* what) {
  const std::string message = user_.path + ": " + what + ": " + user_.db->message();
  const Trouble trouble = classify(user_.db->take_error());
  if (trouble == Trouble::kNone) return;
  ++counters_->db_fail;
  switch (trouble) {
    case Trouble::kFull:
      return suspend(kFullPause, StatusCode::kIoError, message);
    case Trouble::kBusy:
      return suspend(kBusyPause, StatusCode::kUnavailable, message);
    case Trouble::kReadOnly:
      user_.access = Access::kRead;
      user_.why = message + "; new results are not kept";
      user_.locks_work = false;
      break;
    case Trouble::kCorrupt:
      used_.clear();
      say_once("corrupt " + user_.path, message);
      recover_user_db(&user_, user_options());
      break;
    default:
      say_once("error " + user_.path, message);
      return;
  }
  if (!user_.why.empty()) say_once(user_.why, user_.why);
}

bool Core::read(const std::function<void(Db&)>& work) {
  const Lock lock(*this);
  if (!usable(false)) return false;
  const SqlUse use;
  work(*user_.db);
  if (user_.db->error() == 0) return true;
  handle_error("reading");
  return false;
}

bool Core::write(const std::function<void(Db&)>& work) {
  const Lock lock(*this);
  follow_path();
  if (!usable(true)) return false;
  const SqlUse use;
  {
    Transaction transaction(*user_.db);
    work(*user_.db);
    if (transaction.commit()) return true;
  }
  handle_error("writing");
  return false;
}

void Core::read_only(const std::function<bool(Db&)>& work) {
  const Lock lock(*this);
  const SqlUse use;
  for (auto it = layers_.begin(); it != layers_.end();) {
    const bool done = work(*it->db);
    if (it->db->error() != 0) {
      ++counters_->db_fail;
      say_once("layer " + it->path, it->path + ": " + it->db->message() + "; it is left out");
      it = layers_.erase(it);
      continue;
    }
    if (done) return;
    ++it;
  }
}

std::shared_ptr<const StoredBinary> Core::find_binary(const ArtifactKey& key) {
  // Each damaged one that is found is taken out, so the next round meets another or none.
  for (int round = 0; round < 16; ++round) {
    std::optional<BinaryRow> row;
    read([&](Db& db) { row = read_binary(db, key); });
    if (!row.has_value()) break;
    if (row->intact) {
      ++counters_->hit_user;
      note_use(row->art_id, row->last_used_at);
      return std::make_shared<const StoredBinary>(std::move(row->binary));
    }
    drop_damaged(row->blob_id, key);
    const Lock lock(*this);
    if (!usable(true)) break;  // could not be taken out
  }
  std::shared_ptr<const StoredBinary> found;
  read_only([&](Db& db) {
    std::optional<BinaryRow> row = read_binary(db, key);
    if (!row.has_value() || db.error() != 0) return false;
    if (!row->intact) {
      ++counters_->bad_hash;
      say_once("hash " + to_hex(key.source.data(), 32),
               "a read-only database holds a damaged binary for " + to_hex(key.source.data(), 32) +
                   "; it is not used");
      return false;
    }
    ++counters_->hit_read_only;
    found = std::make_shared<const StoredBinary>(std::move(row->binary));
    return true;
  });
  return found;
}

void Core::drop_damaged(int64_t blob_id, const ArtifactKey& key) {
  ++counters_->bad_hash;
  log(LogLevel::kWarning, "cache",
      "the binary of " + to_hex(key.source.data(), 32) +
          " does not match its SHA-256; it is dropped and will be compiled again");
  write([&](Db& db) { remove_blob(db, blob_id); });
}

bool Core::save() {
  if (memory.all_saved()) return true;
  {
    const Lock lock(*this);
    if (refused_ || !usable(true)) return false;
  }
  const MemoryLayer::Unsaved unsaved = memory.unsaved();
  for (const auto& [key, binary] : unsaved.binaries) {
    if (!put_binary(key, *binary)) return give_up();
  }
  const bool written = write([&](Db& db) {
    for (const auto& [environment, limits] : unsaved.limits) write_limits(db, environment, limits);
    for (const Measurement& m : unsaved.measurements) write_measurement(db, m, m.at);
    for (const Selection& s : unsaved.selections) write_selection(db, s, s.decided_at);
  });
  if (!written) return give_up();
  memory.forget_unsaved();
  return true;
}

bool Core::give_up() {
  const Lock lock(*this);
  refused_ = usable(true);
  return false;
}

Status Core::why_not_saved() const {
  const std::string why = degraded();
  const Lock lock(*this);
  if (why.empty()) return {StatusCode::kIoError, user_.path + ": does not take what is to be kept"};
  return {why == suspended_why_ ? suspended_code_ : StatusCode::kIoError, why};
}

void Core::resume() {
  const Lock lock(*this);
  suspended_until_ = {};
  refused_ = false;
}

bool Core::put_binary(const ArtifactKey& key, const StoredBinary& binary) {
  PutOutcome outcome = PutOutcome::kAdded;
  int64_t total = 0;
  const bool written = write([&](Db& db) {
    outcome = write_binary(db, key, binary, unix_now());
    total = blob_bytes(db);
  });
  if (!written) return false;
  if (outcome == PutOutcome::kAlreadyThere) ++counters_->dup_compile;
  if (total > options.max_bytes) {
    int64_t evicted = 0;
    write([&](Db& db) { evicted = evict_binaries(db, options.max_bytes / 5 * 4, 256).binaries; });
    counters_->evict += evicted;
  }
  return true;
}

void Core::note_use(int64_t art_id, int64_t last_used_at) {
  if (unix_now() - last_used_at < kUseGranularity) return;
  const Lock lock(*this);
  if (std::find(used_.begin(), used_.end(), art_id) == used_.end()) used_.push_back(art_id);
  if (used_.size() >= kUseBatch) flush_uses();
}

// Best effort: a lost time stamp costs at most an early eviction.
void Core::flush_uses() {
  if (used_.empty() || !usable(true)) return;
  const SqlUse use;
  Transaction transaction(*user_.db);
  for (const int64_t art_id : used_) touch_artifact(*user_.db, art_id, unix_now());
  transaction.commit();
  user_.db->take_error();
  used_.clear();
}

std::string Core::degraded() const {
  const Lock lock(*this);
  if (user_.access == Access::kWrite && std::chrono::steady_clock::now() < suspended_until_) {
    return suspended_why_;
  }
  return user_.why;
}

std::string Core::path() const {
  const Lock lock(*this);
  return user_.access == Access::kNone ? "" : user_.path;
}

std::string Core::lock_folder() const {
  const Lock lock(*this);
  return user_.locks_work ? join_path(user_.directory, kStripeFolder) : "";
}

}  // namespace moejit::internal
