// The connections of one process to one cache directory, with the reaction to every failure of
// theirs. A forked child makes a new one and leaves its parent's alone.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cache/memory_layer.h"
#include "cache/once.h"
#include "cache/store.h"
#include "cache/user_db.h"

namespace moejit::internal {

struct Counters {
  std::atomic<int64_t> hit_memory{0}, hit_user{0}, hit_read_only{0}, compile{0}, dup_compile{0},
      bad_hash{0}, db_fail{0}, evict{0}, wait_us{0};
};

class Core {
 public:
  Core(const StoreOptions& options, Counters* counters);
  ~Core();

  // Runs `work` on the user's database, inside a transaction when it writes. False where the
  // database could not take part; the reason has been dealt with.
  bool read(const std::function<void(Db&)>& work);
  bool write(const std::function<void(Db&)>& work);

  // The database, then the read-only ones in order; null where no intact binary is there.
  std::shared_ptr<const StoredBinary> find_binary(const ArtifactKey& key);
  bool put_binary(const ArtifactKey& key, const StoredBinary& binary);

  // Writes what is in memory only, where the database takes part. False where some of it is still
  // in no file. REQUIRES: `records` held.
  bool save();
  Status why_not_saved() const;
  // Tries to write again at once, however long it was to wait after a failure.
  void resume();

  // `work` on each read-only database until it returns true.
  void read_only(const std::function<bool(Db&)>& work);

  std::string degraded() const;
  std::string path() const;
  std::string lock_folder() const;  // "" where there are no locks among processes

  const uint64_t generation;
  const StoreOptions options;
  MemoryLayer memory;
  Once once;
  std::mutex records;  // held from a failed write until its record is in memory

 private:
  struct Layer {
    std::string path;
    std::unique_ptr<Db> db;
  };
  // Holds mutex_; writes what was to be said once it has let go.
  class Lock {
   public:
    explicit Lock(const Core& core) : core_(core), lock_(core.mutex_) {}
    ~Lock();

   private:
    const Core& core_;
    std::unique_lock<std::mutex> lock_;
  };
  void say_once(const std::string& key, const std::string& message) const;
  UserDbOptions user_options() const;
  void open_user();
  void open_layers();
  void follow_path();
  bool give_up();
  bool usable(bool to_write) const;
  void handle_error(const char* what);
  void suspend(double seconds, StatusCode code, const std::string& why);
  void note_use(int64_t art_id, int64_t last_used_at);
  void flush_uses();
  void drop_damaged(int64_t blob_id, const ArtifactKey& key);

  Counters* const counters_;
  mutable std::mutex mutex_;  // the connections and what follows
  mutable std::vector<std::pair<std::string, std::string>> unsaid_;  // key ("": always), message
  UserDb user_;
  std::vector<Layer> layers_;
  std::chrono::steady_clock::time_point suspended_until_{};
  std::string suspended_why_;
  StatusCode suspended_code_ = StatusCode::kIoError;
  bool refused_ = false;       // the database works and yet would not take what was unsaved
  std::vector<int64_t> used_;  // artifacts whose time stamp is to be renewed
};

}  // namespace moejit::internal
