#include "cache/place.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/schema.h"

namespace moejit::internal {

Result<std::unique_ptr<OpenPlace>> OpenPlace::open(const CachePlace& place, Access access,
                                                   bool create) {
  auto opened = std::make_unique<OpenPlace>();
  if (place.where.empty()) return invalid_argument("cache = \"\": must name a directory or a file");
  if (path_exists(place.where) && !is_directory(place.where)) {
    if (access == Access::kWrite) {
      return invalid_argument("cache = \"" + place.where + "\": must be a directory to be changed");
    }
    std::string why;
    opened->pack_ = open_read_only_db(place.where, place.allow_shared, &why);
    if (opened->pack_ == nullptr) return Status(StatusCode::kDataError, why);
    opened->path_ = place.where;
  } else {
    if (!create && !path_exists(join_path(place.where, kDatabaseName))) {
      return Status(StatusCode::kNotFound, "there is no cache in " + place.where);
    }
    UserDbOptions options;
    options.directory = place.where;
    options.read_only = access != Access::kWrite;
    options.allow_shared = place.allow_shared;
    options.allow_network = place.allow_network;
    opened->user_ = open_user_db(options);
    if (opened->user_.access == Access::kNone ||
        (access == Access::kWrite && opened->user_.access != Access::kWrite)) {
      return Status(opened->user_.damaged ? StatusCode::kDataError : StatusCode::kIoError,
                    opened->user_.why);
    }
    opened->path_ = opened->user_.path;
  }
  {
    Query query(opened->db(), "PRAGMA user_version");
    if (query.row()) opened->schema_ = query.integer_at(0);
  }
  if (Status status = opened->status("cannot be read"); !status.ok()) return status;
  return opened;
}

Status OpenPlace::status(const char* what) {
  if (db().error() == 0) return {};
  const std::string message = path_ + ": " + what + ": " + db().message();
  const Trouble trouble = classify(db().take_error());
  return {trouble == Trouble::kCorrupt ? StatusCode::kDataError : StatusCode::kIoError, message};
}

bool is_database_file(const std::string& path) {
  const std::string_view magic = "SQLite format 3";  // of the file format's 16 bytes, without the 0
  char begin[16] = {};
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  return file && ::read(file.get(), begin, sizeof begin) == sizeof begin &&
         std::string_view(begin, magic.size()) == magic;
}

bool key_matches(const std::string& key, const std::string& prefix) {
  if (prefix.size() > key.size()) return false;
  return std::equal(prefix.begin(), prefix.end(), key.begin(), [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == b;
  });
}

Status check_key_prefix(const std::string& prefix) {
  if (prefix.size() >= 4 && prefix.size() <= 64 &&
      prefix.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos) {
    return {};
  }
  return invalid_argument("key = \"" + prefix + "\": must be 4 to 64 hexadecimal digits");
}

std::string selection_key(const MeasurementKey& key, const std::string& generator) {
  const Digest digest = Sha256()
                            .field("moejit selection 1")
                            .field(key.problem)
                            .field(std::to_string(key.tokens))
                            .field(key.environment)
                            .field(key.policy)
                            .field(generator)
                            .finish();
  return to_hex(digest.data(), digest.size());
}

}  // namespace moejit::internal
