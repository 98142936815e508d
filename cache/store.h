// Store: the cache of binaries, measurements and choices in one SQLite file, correct under several
// threads and processes. Knows no device, no kernel and no schedule: it keeps bytes and JSON.
// The format is documented in docs/cache_format.md.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

using Digest = std::array<uint8_t, 32>;  // SHA-256

// What a binary was compiled from. `source` covers backend, exact arch, final text and options;
// `toolchain` names the compiler. Empty toolchain in a look-up: any compiler will do, newest first
// (a process that cannot compile still runs what another one compiled).
struct ArtifactKey {
  Digest source{};
  std::string toolchain;
};

struct StoredBinary {
  std::string backend;  // "cpu"
  std::string arch;
  std::string format;  // as Binary::format
  std::string toolchain;
  std::string schedule;  // canonical JSON, for people
  std::string config;    // canonical JSON, for people
  std::string compiler_log;
  int32_t registers = -1, spill_bytes = -1, shared_bytes = -1;
  double compile_ms = 0;
  std::vector<uint8_t> bytes;
};

// Identity of a measurement, canonical JSON each; hashed by the store.
struct MeasurementKey {
  std::string problem;  // the config, tokens not included
  int64_t tokens = 0;
  std::string environment;  // DeviceInfo::identity
  std::string policy;       // routing, cold or warm, protocol version
};

struct Measurement {
  MeasurementKey key;
  std::string session;  // uuid of the tuning run
  std::string schedule;
  Digest source{};  // of the artifact that ran
  std::string toolchain;
  std::string stage;   // "screen" | "final"
  std::string status;  // "ok" | "compile_error" | "wrong" | "fault" | "timeout" | "spill"
  double median_s = 0, p20_s = 0, p80_s = 0;
  int32_t samples = 0;
  double predicted_s = 0, floor_s = 0, error = 0;
  std::string note;
  int64_t at = 0;  // Unix seconds, set by the store
};

struct Selection {
  MeasurementKey key;
  std::string generator;  // digest of generator and templates that gives `schedule` its meaning
  std::string schedule;
  Digest source{};
  std::string toolchain;
  std::string how;  // "pinned" | "tuned" | "imported"
  double median_s = 0, predicted_s = 0, floor_s = 0, error = 0;
  double versus_default = 0;  // default's time / this time
  int32_t candidates = 0;
  std::string note;
  int64_t decided_at = 0;  // Unix seconds, set by the store
};

// Measured rates of a device, kept with its environment.
struct EnvironmentLimits {
  std::string json;  // the tuner's own format
  int64_t measured_at = 0;
};

enum class StoreMode : int32_t { kReadWrite = 0, kReadOnly = 1, kMemory = 2 };

struct StoreOptions {
  std::string directory;  // where moejit-v1.db, its locks and nothing else live
  StoreMode mode = StoreMode::kReadWrite;
  std::vector<std::string> read_only;  // further databases, or directories with one; after the own
  int64_t max_bytes = int64_t{2} << 30;  // of binaries; the least recently used go first
  bool allow_shared = false;   // a directory that belongs to, or may be written by, others
  bool allow_network = false;  // a network file system: rollback journal instead of WAL
  double lock_wait_s = 60;     // for another process that compiles the same key
  int32_t busy_ms = 5000;      // for another process's transaction
};

class Store {
 public:
  virtual ~Store() = default;

  // Never fails: where the directory cannot be used (read-only, full, corrupt, foreign owner,
  // network file system) the store says so once through the log, degrades (read-only, then memory)
  // and goes on.
  static std::shared_ptr<Store> open(const StoreOptions& options);

  // Why the store is not a plain read-write one, or "".
  virtual std::string degraded() const = 0;
  virtual std::string path() const = 0;  // of the database; "" in memory

  // A hit has passed its SHA-256.
  virtual std::optional<StoredBinary> find_binary(const ArtifactKey& key) = 0;
  // Finds, or compiles once across threads and processes and keeps the result. `compile` runs with
  // no database transaction open. Its failure is returned to every thread that waits for the key.
  virtual Result<StoredBinary> find_or_compile(
      const ArtifactKey& key, const std::function<Result<StoredBinary>()>& compile) = 0;

  // Committed on return, or kept in memory where the database could not take part, until a later
  // call or save() finds it willing.
  virtual void record(const Measurement& measurement) = 0;
  // Takes the place of the one of its key and generator; a pinned one yields only to a pinned one.
  virtual void select(const Selection& selection) = 0;
  virtual std::optional<Selection> find_selection(const MeasurementKey& key,
                                                  const std::string& generator) = 0;
  // Every selection of the problem in that environment and policy, by tokens ascending.
  virtual std::vector<Selection> selections(const std::string& problem,
                                            const std::string& environment,
                                            const std::string& policy,
                                            const std::string& generator) = 0;
  // Measurements of a key, best first, newest session first among equals.
  virtual std::vector<Measurement> measurements(const MeasurementKey& key) = 0;

  virtual std::optional<EnvironmentLimits> limits(const std::string& environment) = 0;
  virtual void set_limits(const std::string& environment, const EnvironmentLimits& limits) = 0;

  // The policies under which the key's problem, tokens and environment were measured, sorted.
  virtual std::vector<std::string> policies(const MeasurementKey& key) = 0;

  // Selections of the same problem, tokens (0: of every token count) and policy from other
  // environments, newest first: seeds that are to be measured here before they are trusted.
  virtual std::vector<Selection> selections_elsewhere(const MeasurementKey& key,
                                                      const std::string& generator) = 0;

  // Tries once more to write what is in memory only, a pause after a failure or not. Where some of
  // it is still in no file: kUnavailable while another process writes, else kIoError.
  virtual Status save() = 0;

  // Counters since open: "hit_memory", "hit_user", "hit_read_only", "compile", "bad_hash",
  // "db_fail", "wait_ms".
  virtual std::vector<std::pair<std::string, int64_t>> counters() const = 0;
};

}  // namespace moejit::internal
