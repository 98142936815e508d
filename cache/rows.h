// Reading and writing of the rows, on any connection. Writers run inside a transaction of the
// caller; an error sticks to the connection.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cache/db.h"
#include "cache/store.h"

namespace moejit::internal {

Digest artifact_digest(const ArtifactKey& key);
Digest text_digest(const std::string& json);
int64_t unix_now();

// SHA-256 over everything that makes one binary what it is: key, bytes' hash and description. A
// damaged page can point a key at another key's row, or a row at another's blob, with bytes that
// are themselves intact; the seal does not match then.
Digest seal_of(const ArtifactKey& key, const Digest& bytes_hash, const StoredBinary& binary);

struct BinaryRow {
  StoredBinary binary;
  ArtifactKey key;  // as the row has it
  int64_t art_id = 0, blob_id = 0, last_used_at = 0;
  bool intact = false;  // size, SHA-256 and seal match
};
std::optional<BinaryRow> read_binary(Db& db, const ArtifactKey& key);
// Every artifact that has a binary, by key.
void each_binary(Db& db, const std::function<void(const BinaryRow&)>& visit);

enum class PutOutcome { kAdded, kAlreadyThere };
PutOutcome write_binary(Db& db, const ArtifactKey& key, const StoredBinary& binary, int64_t now);
// Takes a damaged blob out; its artifacts stay without one.
void remove_blob(Db& db, int64_t blob_id);
void touch_artifact(Db& db, int64_t art_id, int64_t now);

void write_measurement(Db& db, const Measurement& m, int64_t now);
std::vector<Measurement> read_measurements(Db& db, const MeasurementKey& key);
std::vector<std::string> read_policies(Db& db, const MeasurementKey& key);

// A pinned row yields only to a pinned one. True where the row was written.
bool write_selection(Db& db, const Selection& s, int64_t now);
std::optional<Selection> read_selection(Db& db, const MeasurementKey& key,
                                        const std::string& generator);
std::vector<Selection> read_selections(Db& db, const std::string& problem,
                                       const std::string& environment, const std::string& policy,
                                       const std::string& generator);

std::vector<Selection> read_selections_elsewhere(Db& db, const MeasurementKey& key,
                                                 const std::string& generator);

std::optional<EnvironmentLimits> read_limits(Db& db, const std::string& environment);
void write_limits(Db& db, const std::string& environment, const EnvironmentLimits& limits);

// Row ids of the parts of a key; created where `create`, else 0 where absent.
int64_t toolchain_id(Db& db, const std::string& name, int64_t now);
int64_t environment_id(Db& db, const std::string& json, bool create);
int64_t policy_id(Db& db, const std::string& json, bool create);
int64_t problem_id(Db& db, const std::string& json, int64_t tokens, bool create);

}  // namespace moejit::internal
