#include "cache/rows.h"

#include <chrono>

#include "base/hash.h"

namespace moejit::internal {
namespace {

#define MOEJIT_BINARY_SELECT                                                                \
  "SELECT a.art_id, b.blob_id, a.last_used_at, a.backend, a.arch, a.format, t.name,"        \
  " a.schedule, a.config, a.log, a.registers, a.spill_bytes, a.shared_bytes, a.compile_ms," \
  " b.sha256, b.raw_size, b.data, a.source, a.seal FROM artifact a"                         \
  " JOIN blob b ON b.blob_id = a.blob_id JOIN toolchain t ON t.tc_id = a.tc_id "

BinaryRow binary_at(const Query& query) {
  BinaryRow row;
  row.art_id = query.integer_at(0);
  row.blob_id = query.integer_at(1);
  row.last_used_at = query.integer_at(2);
  StoredBinary& b = row.binary;
  b.backend = query.text_at(3);
  b.arch = query.text_at(4);
  b.format = query.text_at(5);
  b.toolchain = query.text_at(6);
  b.schedule = query.text_at(7);
  b.config = query.text_at(8);
  b.compiler_log = query.text_at(9);
  b.registers = static_cast<int32_t>(query.integer_at(10));
  b.spill_bytes = static_cast<int32_t>(query.integer_at(11));
  b.shared_bytes = static_cast<int32_t>(query.integer_at(12));
  b.compile_ms = query.real_at(13);
  b.bytes = query.blob_at(16);
  row.key.toolchain = b.toolchain;
  Digest expected{}, seal{};
  row.intact = query.digest_at(14, expected.data()) && query.digest_at(18, seal.data()) &&
               query.digest_at(17, row.key.source.data()) &&
               query.integer_at(15) == static_cast<int64_t>(b.bytes.size()) &&
               sha256(b.bytes.data(), b.bytes.size()) == expected &&
               seal_of(row.key, expected, b) == seal;
  return row;
}

std::optional<BinaryRow> binary_of(Query& query, const ArtifactKey& key) {
  if (!query.row()) return std::nullopt;
  BinaryRow row = binary_at(query);
  row.intact = row.intact && row.key.source == key.source &&
               (key.toolchain.empty() || row.key.toolchain == key.toolchain);
  return row;
}

int64_t id_of(Query& query) {
  return query.row() ? query.integer_at(0) : 0;
}

}  // namespace

Digest artifact_digest(const ArtifactKey& key) {
  return Sha256()
      .field("moejit artifact 1")
      .update(key.source.data(), key.source.size())
      .field(key.toolchain)
      .finish();
}

Digest seal_of(const ArtifactKey& key, const Digest& bytes_hash, const StoredBinary& b) {
  const int32_t numbers[] = {b.registers, b.spill_bytes, b.shared_bytes};
  const Digest art_key = artifact_digest(key);
  Sha256 hash;
  hash.field("moejit seal 1").update(art_key.data(), 32).update(bytes_hash.data(), 32);
  hash.field(b.backend).field(b.arch).field(b.format).field(b.schedule).field(b.config);
  for (const int32_t n : numbers) hash.field(std::to_string(n));
  return hash.finish();
}

Digest text_digest(const std::string& json) {
  return sha256(json.data(), json.size());
}

int64_t unix_now() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int64_t toolchain_id(Db& db, const std::string& name, int64_t now) {
  const int64_t id = id_of(Query(db, "SELECT tc_id FROM toolchain WHERE name = ?1").text(name));
  if (id != 0 || db.error() != 0) return id;
  Query(db, "INSERT INTO toolchain(name, first_seen) VALUES(?1, ?2)").text(name).integer(now).run();
  return db.last_row_id();
}

int64_t environment_id(Db& db, const std::string& json, bool create) {
  const Digest hash = text_digest(json);
  const int64_t id =
      id_of(Query(db, "SELECT env_id FROM env WHERE env_hash = ?1").blob(hash.data(), 32));
  if (id != 0 || !create || db.error() != 0) return id;
  Query(db, "INSERT INTO env(env_hash, json) VALUES(?1, ?2)")
      .blob(hash.data(), 32)
      .text(json)
      .run();
  return db.last_row_id();
}

int64_t policy_id(Db& db, const std::string& json, bool create) {
  const Digest hash = text_digest(json);
  const int64_t id =
      id_of(Query(db, "SELECT policy_id FROM policy WHERE policy_hash = ?1").blob(hash.data(), 32));
  if (id != 0 || !create || db.error() != 0) return id;
  Query(db, "INSERT INTO policy(policy_hash, json) VALUES(?1, ?2)")
      .blob(hash.data(), 32)
      .text(json)
      .run();
  return db.last_row_id();
}

int64_t problem_id(Db& db, const std::string& json, int64_t tokens, bool create) {
  const Digest family = text_digest(json);
  const int64_t id =
      id_of(Query(db, "SELECT prob_id FROM problem WHERE family = ?1 AND tokens = ?2")
                .blob(family.data(), 32)
                .integer(tokens));
  if (id != 0 || !create || db.error() != 0) return id;
  Query(db, "INSERT INTO problem(family, tokens, json) VALUES(?1, ?2, ?3)")
      .blob(family.data(), 32)
      .integer(tokens)
      .text(json)
      .run();
  return db.last_row_id();
}

std::optional<BinaryRow> read_binary(Db& db, const ArtifactKey& key) {
  if (key.toolchain.empty()) {
    Query query(db, MOEJIT_BINARY_SELECT
                "WHERE a.source = ?1 AND a.blob_id IS NOT NULL"
                " ORDER BY a.created_at DESC, a.art_id DESC LIMIT 1");
    query.blob(key.source.data(), key.source.size());
    return binary_of(query, key);
  }
  const Digest art_key = artifact_digest(key);
  Query query(db, MOEJIT_BINARY_SELECT "WHERE a.art_key = ?1");
  query.blob(art_key.data(), art_key.size());
  return binary_of(query, key);
}

void each_binary(Db& db, const std::function<void(const BinaryRow&)>& visit) {
  Query query(db, MOEJIT_BINARY_SELECT "ORDER BY a.art_key");
  while (query.row()) visit(binary_at(query));
}

PutOutcome write_binary(Db& db, const ArtifactKey& key, const StoredBinary& b, int64_t now) {
  const Digest art_key = artifact_digest(key);
  const Digest hash = sha256(b.bytes.data(), b.bytes.size());
  const Digest seal = seal_of(key, hash, b);
  const int64_t tc_id = toolchain_id(db, key.toolchain, now);
  Query(db,
        "INSERT INTO blob(sha256, codec, raw_size, data) VALUES(?1, 0, ?2, ?3)"
        " ON CONFLICT(sha256) DO NOTHING")
      .blob(hash.data(), 32)
      .integer(static_cast<int64_t>(b.bytes.size()))
      .blob(b.bytes.data(), b.bytes.size())
      .run();
  const int64_t blob_id =
      id_of(Query(db, "SELECT blob_id FROM blob WHERE sha256 = ?1").blob(hash.data(), 32));
  // The first complete record of a key stays: its text and its bytes came from one compilation.
  Query(db,
        "INSERT INTO artifact(art_key, source, tc_id, backend, arch, format, schedule, config, log,"
        " registers, spill_bytes, shared_bytes, compile_ms, blob_id, seal, created_at,"
        " last_used_at)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?16)"
        " ON CONFLICT(art_key) DO UPDATE SET backend = excluded.backend, arch = excluded.arch,"
        " format = excluded.format, schedule = excluded.schedule, config = excluded.config,"
        " log = excluded.log, registers = excluded.registers, spill_bytes = excluded.spill_bytes,"
        " shared_bytes = excluded.shared_bytes, compile_ms = excluded.compile_ms,"
        " blob_id = excluded.blob_id, seal = excluded.seal, created_at = excluded.created_at,"
        " last_used_at = excluded.last_used_at WHERE artifact.blob_id IS NULL")
      .blob(art_key.data(), 32)
      .blob(key.source.data(), 32)
      .integer(tc_id)
      .text(b.backend)
      .text(b.arch)
      .text(b.format)
      .text(b.schedule)
      .text(b.config)
      .text(b.compiler_log)
      .integer(b.registers)
      .integer(b.spill_bytes)
      .integer(b.shared_bytes)
      .real(b.compile_ms)
      .integer(blob_id)
      .blob(seal.data(), 32)
      .integer(now)
      .run();
  if (db.changes() > 0) return PutOutcome::kAdded;
  // Another compilation's bytes are in place; ours may be an orphan now.
  Query(db,
        "DELETE FROM blob WHERE blob_id = ?1"
        " AND NOT EXISTS (SELECT 1 FROM artifact WHERE blob_id = ?1)")
      .integer(blob_id)
      .run();
  return PutOutcome::kAlreadyThere;
}

void remove_blob(Db& db, int64_t blob_id) {
  Query(db, "UPDATE artifact SET blob_id = NULL WHERE blob_id = ?1").integer(blob_id).run();
  Query(db, "DELETE FROM blob WHERE blob_id = ?1").integer(blob_id).run();
}

void touch_artifact(Db& db, int64_t art_id, int64_t now) {
  Query(db, "UPDATE artifact SET last_used_at = ?2 WHERE art_id = ?1 AND last_used_at < ?2")
      .integer(art_id)
      .integer(now)
      .run();
}

}  // namespace moejit::internal
