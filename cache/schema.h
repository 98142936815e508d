// The tables of the database, their version and how an older version becomes the current one.
// docs/cache_format.md is the description for people.
#pragma once

#include <cstdint>
#include <string>

#include "cache/db.h"

namespace moejit::internal {

inline constexpr const char* kDatabaseName = "moejit-v1.db";
inline constexpr int64_t kApplicationId = 0x4d6f4b43;  // "MoKC"
// PRAGMA user_version. A higher number adds to a lower one; what cannot be added to is another
// file name.
inline constexpr int64_t kSchemaVersion = 2;
// Written to meta: the oldest reader that understands the file.
inline constexpr int64_t kSchemaMinReader = 1;

enum class SchemaVerdict {
  kCurrent,
  kOlder,       // migrate() makes it current
  kNewerRead,   // newer than this library, which may read it
  kNewer,       // newer than this library
  kForeign,     // another application's database
  kIncomplete,  // ours by its number, but tables are missing; or an empty file
  kError,       // could not be read: see the connection's error
};
SchemaVerdict check_schema(Db& db, int64_t* version);

// Creates everything in an empty file, outside of a transaction. False: see the connection's error.
bool create_schema(Db& db);
// Takes an older database to kSchemaVersion in one transaction. Only under the init lock.
bool migrate_schema(Db& db, int64_t from);

// True where the file has exactly the tables, triggers and indices of that version, word for word:
// what is imported may hold nothing else that runs.
bool schema_is_ours(Db& db, int64_t version);

}  // namespace moejit::internal
