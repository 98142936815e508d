// Opens a cache directory or a pack for the functions that people call.
#pragma once

#include <memory>
#include <string>

#include "cache/list.h"
#include "cache/rows.h"
#include "cache/user_db.h"

namespace moejit::internal {

class OpenPlace {
 public:
  // kRead takes either; kWrite needs a directory that may be written, with a database unless
  // `create`.
  static Result<std::unique_ptr<OpenPlace>> open(const CachePlace& place, Access access,
                                                 bool create = false);
  Db& db() { return user_.db != nullptr ? *user_.db : *pack_; }
  const std::string& path() const { return path_; }
  const std::string& directory() const { return user_.directory; }  // "" of a pack
  int64_t schema() const { return schema_; }
  UserDb& user() { return user_; }
  // The connection's error as a status, and takes it; ok where there was none.
  Status status(const char* what);

 private:
  const SqlUse use_;
  UserDb user_;
  std::unique_ptr<Db> pack_;
  std::string path_;
  int64_t schema_ = 0;
};

// True where a hexadecimal key begins with the prefix, in either case of letters.
bool key_matches(const std::string& key, const std::string& prefix);
// Ok, or kInvalidArgument where the text is no prefix of a key.
Status check_key_prefix(const std::string& prefix);
// The public name of a selection.
std::string selection_key(const MeasurementKey& key, const std::string& generator);

}  // namespace moejit::internal
