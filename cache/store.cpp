#include "cache/store.h"

#include <sys/stat.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/file_lock.h"
#include "base/fs.h"
#include "cache/core.h"
#include "cache/rows.h"

namespace moejit::internal {
namespace {

// Cores of ancestors: kept reachable, never used again.
void abandon(Core* core) {
  static std::mutex* const mutex = new std::mutex;
  static std::vector<Core*>* const cores = new std::vector<Core*>;
  std::lock_guard<std::mutex> lock(*mutex);
  cores->push_back(core);
}

class StoreImpl : public Store {
 public:
  explicit StoreImpl(const StoreOptions& options)
      : options_(options), core_(new Core(options, &counters_)) {}

  ~StoreImpl() override {
    Core* const core = core_.load();
    if (core->generation == fork_generation()) {
      (void)StoreImpl::save();  // the last chance
      delete core;
    } else {
      abandon(core);
    }
  }

  std::string degraded() const override { return core().degraded(); }
  std::string path() const override { return core().path(); }

  std::optional<StoredBinary> find_binary(const ArtifactKey& key) override {
    const std::shared_ptr<const StoredBinary> found = probe(core(), key);
    if (found == nullptr) return std::nullopt;
    return *found;
  }

  Result<StoredBinary> find_or_compile(
      const ArtifactKey& key, const std::function<Result<StoredBinary>()>& compile) override {
    Core& c = core();
    if (const auto found = probe(c, key)) return *found;
    double waited_s = 0;
    const Once::Steps steps{
        [&] { return probe(c, key); },
        [&] {
          ++counters_.compile;
          return compile();
        },
        [&](const Once::Shared& binary) {
          // "Any compiler" was asked for; kept is the one that it was.
          const ArtifactKey named{key.source,
                                  key.toolchain.empty() ? binary->toolchain : key.toolchain};
          const std::lock_guard<std::mutex> lock(c.records);
          c.memory.put(named, binary);
          c.save();
          if (!c.put_binary(named, *binary) && options_.mode == StoreMode::kReadWrite) {
            c.memory.mark_unsaved(named);
          }
        }};
    const Result<Once::Shared> result =
        c.once.run(artifact_digest(key), lock_folder(c), options_.lock_wait_s, steps, &waited_s);
    counters_.wait_us += static_cast<int64_t>(waited_s * 1e6);
    if (!result.ok()) return result.status();
    return **result;
  }

  void record(const Measurement& measurement) override {
    Core& c = core();
    const std::lock_guard<std::mutex> lock(c.records);
    c.save();
    if (!c.write([&](Db& db) { write_measurement(db, measurement, unix_now()); })) {
      c.memory.record(measurement);
    }
  }

  void select(const Selection& selection) override {
    Core& c = core();
    Selection decided = selection;
    decided.decided_at = unix_now();
    const std::lock_guard<std::mutex> lock(c.records);
    c.save();
    if (c.write([&](Db& db) { write_selection(db, decided, decided.decided_at); })) {
      c.memory.forget_selection(decided.key, decided.generator);
    } else {
      c.memory.select(decided);
    }
  }

  std::optional<Selection> find_selection(const MeasurementKey& key,
                                          const std::string& generator) override {
    Core& c = core();
    std::optional<Selection> found = c.memory.find_selection(key, generator);
    if (found.has_value()) return found;
    c.read([&](Db& db) { found = read_selection(db, key, generator); });
    if (found.has_value()) return found;
    c.read_only([&](Db& db) {
      found = read_selection(db, key, generator);
      return found.has_value() && db.error() == 0;
    });
    return found;
  }

  std::vector<Selection> selections(const std::string& problem, const std::string& environment,
                                    const std::string& policy,
                                    const std::string& generator) override {
    Core& c = core();
    std::map<int64_t, Selection> by_tokens;  // the first layer that has one wins
    const auto merge = [&](std::vector<Selection> found) {
      for (Selection& s : found) by_tokens.emplace(s.key.tokens, std::move(s));
    };
    merge(c.memory.selections(problem, environment, policy, generator));
    c.read([&](Db& db) { merge(read_selections(db, problem, environment, policy, generator)); });
    c.read_only([&](Db& db) {
      merge(read_selections(db, problem, environment, policy, generator));
      return false;
    });
    std::vector<Selection> all;
    for (auto& [tokens, s] : by_tokens) all.push_back(std::move(s));
    return all;
  }

  std::vector<Measurement> measurements(const MeasurementKey& key) override {
    Core& c = core();
    std::vector<Measurement> all = c.memory.measurements(key);
    const auto append = [&](std::vector<Measurement> found) {
      for (Measurement& m : found) all.push_back(std::move(m));
    };
    c.read([&](Db& db) { append(read_measurements(db, key)); });
    c.read_only([&](Db& db) {
      append(read_measurements(db, key));
      return false;
    });
    sort_measurements(&all);
    return all;
  }

  std::vector<std::string> policies(const MeasurementKey& key) override {
    Core& c = core();
    std::set<std::string> all;
    const auto add = [&](const std::vector<std::string>& found) {
      all.insert(found.begin(), found.end());
    };
    add(c.memory.policies(key));
    c.read([&](Db& db) { add(read_policies(db, key)); });
    c.read_only([&](Db& db) {
      add(read_policies(db, key));
      return false;
    });
    return {all.begin(), all.end()};
  }

  std::optional<EnvironmentLimits> limits(const std::string& environment) override {
    Core& c = core();
    std::optional<EnvironmentLimits> found = c.memory.limits(environment);
    if (found.has_value()) return found;
    c.read([&](Db& db) { found = read_limits(db, environment); });
    if (found.has_value()) return found;
    c.read_only([&](Db& db) {
      found = read_limits(db, environment);
      return found.has_value() && db.error() == 0;
    });
    return found;
  }

  void set_limits(const std::string& environment, const EnvironmentLimits& limits) override {
    Core& c = core();
    const std::lock_guard<std::mutex> lock(c.records);
    c.save();
    if (c.write([&](Db& db) { write_limits(db, environment, limits); })) {
      c.memory.forget_limits(environment);
    } else {
      c.memory.set_limits(environment, limits);
    }
  }

  std::vector<Selection> selections_elsewhere(const MeasurementKey& key,
                                              const std::string& generator) override {
    Core& c = core();
    std::vector<Selection> all = c.memory.selections_elsewhere(key, generator);
    const auto append = [&](std::vector<Selection> found) {
      for (Selection& s : found) {
        const bool known = std::any_of(all.begin(), all.end(), [&](const Selection& other) {
          return other.key.environment == s.key.environment && other.key.tokens == s.key.tokens;
        });
        if (!known) all.push_back(std::move(s));
      }
    };
    c.read([&](Db& db) { append(read_selections_elsewhere(db, key, generator)); });
    c.read_only([&](Db& db) {
      append(read_selections_elsewhere(db, key, generator));
      return false;
    });
    std::sort(all.begin(), all.end(), [](const Selection& a, const Selection& b) {
      if (a.decided_at != b.decided_at) return a.decided_at > b.decided_at;
      if (a.key.tokens != b.key.tokens) return a.key.tokens < b.key.tokens;
      return a.key.environment < b.key.environment;
    });
    return all;
  }

  Status save() override {
    Core& c = core();
    const std::lock_guard<std::mutex> lock(c.records);
    if (c.memory.all_saved()) return {};
    c.resume();
    if (c.save()) return {};
    return c.why_not_saved();
  }

  std::vector<std::pair<std::string, int64_t>> counters() const override {
    const Counters& c = counters_;
    return {{"hit_memory", c.hit_memory},
            {"hit_user", c.hit_user},
            {"hit_read_only", c.hit_read_only},
            {"compile", c.compile},
            {"dup_compile", c.dup_compile},
            {"bad_hash", c.bad_hash},
            {"db_fail", c.db_fail},
            {"evict", c.evict},
            {"wait_ms", c.wait_us / 1000}};
  }

 private:
  // The state of this process: a forked child starts over.
  Core& core() const {
    Core* current = core_.load(std::memory_order_acquire);
    if (current->generation == fork_generation()) return *current;
    Core* const fresh = new Core(options_, &counters_);
    if (core_.compare_exchange_strong(current, fresh, std::memory_order_acq_rel)) {
      abandon(current);
      return *fresh;
    }
    delete fresh;
    return *current;
  }

  std::shared_ptr<const StoredBinary> probe(Core& c, const ArtifactKey& key) {
    if (auto found = c.memory.find(key)) {
      ++counters_.hit_memory;
      return found;
    }
    auto found = c.find_binary(key);
    if (found != nullptr) c.memory.put({key.source, found->toolchain}, found);
    return found;
  }

  static std::string lock_folder(const Core& c) {
    std::string folder = c.lock_folder();
    if (!folder.empty() && ::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return "";
    return folder;
  }

  const StoreOptions options_;
  mutable Counters counters_;
  mutable std::atomic<Core*> core_;
};

}  // namespace

std::shared_ptr<Store> Store::open(const StoreOptions& options) {
  return std::make_shared<StoreImpl>(options);
}

}  // namespace moejit::internal
