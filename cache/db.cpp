#include "cache/db.h"

#include <sqlite3.h>

#include <cstring>

namespace moejit::internal {

Trouble classify(int extended_code) {
  switch (extended_code & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
      return Trouble::kNone;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
      return Trouble::kBusy;
    case SQLITE_FULL:
      return Trouble::kFull;
    case SQLITE_IOERR:
      return extended_code == SQLITE_IOERR_SHORT_READ || extended_code == SQLITE_IOERR_CORRUPTFS
                 ? Trouble::kCorrupt
                 : Trouble::kFull;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_ERROR:  // our statements are right, so a table or column is missing
      return Trouble::kCorrupt;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
      return Trouble::kReadOnly;
    default:
      return Trouble::kOther;
  }
}

std::unique_ptr<Db> Db::open(const std::string& name, int flags, int busy_ms, int* code,
                             std::string* message) {
  std::unique_ptr<Db> db(new Db);
  *code = sqlite3_open_v2(name.c_str(), &db->handle_, flags | SQLITE_OPEN_EXRESCODE, nullptr);
  if (*code != SQLITE_OK) {
    *message = db->handle_ != nullptr ? sqlite3_errmsg(db->handle_) : sqlite3_errstr(*code);
    return nullptr;
  }
  sqlite3_busy_timeout(db->handle_, busy_ms);
  // A damaged or hostile file shall give errors, not huge allocations or foreign functions.
  sqlite3_db_config(db->handle_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(db->handle_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_limit(db->handle_, SQLITE_LIMIT_LENGTH, 512 << 20);
  // A memory map would turn a truncated file into SIGBUS. Erased pages need no overwriting.
  db->exec(
      "PRAGMA cell_size_check=ON; PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;"
      "PRAGMA mmap_size=0; PRAGMA secure_delete=OFF");
  // The last one reads the file; what it meets is reported by the first real query.
  db->take_error();
  return db;
}

Db::~Db() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close_v2(handle_);
}

void Db::fail(int code, const std::string& message) {
  if (error_ != SQLITE_OK) return;
  error_ = code;
  message_ = message;
}

void Db::note(int code) {
  if (error_ == SQLITE_OK) fail(code, sqlite3_errmsg(handle_));
}

int Db::take_error() {
  const int code = error_;
  error_ = SQLITE_OK;
  message_.clear();
  return code;
}

bool Db::exec(const char* sql) {
  if (error_ != SQLITE_OK) return false;
  const int code = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) note(code);
  return code == SQLITE_OK;
}

int64_t Db::last_row_id() const {
  return sqlite3_last_insert_rowid(handle_);
}
int64_t Db::changes() const {
  return sqlite3_changes64(handle_);
}

Query::Query(Db& db, const char* literal_sql) : db_(db) {
  if (db.error_ != SQLITE_OK) return;
  const auto found = db.statements_.find(literal_sql);
  if (found != db.statements_.end() && !sqlite3_stmt_busy(found->second)) {
    statement_ = found->second;
    cached_ = true;
    return;
  }
  const int code = sqlite3_prepare_v3(db.handle_, literal_sql, -1, SQLITE_PREPARE_PERSISTENT,
                                      &statement_, nullptr);
  if (code != SQLITE_OK) {
    db.note(code);
    return;
  }
  if (found == db.statements_.end()) {
    db.statements_.emplace(literal_sql, statement_);
    cached_ = true;
  }
}

Query::~Query() {
  if (statement_ == nullptr) return;
  if (!cached_) {
    sqlite3_finalize(statement_);
    return;
  }
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

Query& Query::integer(int64_t value) {
  if (statement_ != nullptr) sqlite3_bind_int64(statement_, next_++, value);
  return *this;
}

Query& Query::real(double value) {
  if (statement_ != nullptr) sqlite3_bind_double(statement_, next_++, value);
  return *this;
}

Query& Query::text(std::string_view value) {
  if (statement_ == nullptr) return *this;
  const char* data = value.data() != nullptr ? value.data() : "";
  const int code =
      sqlite3_bind_text64(statement_, next_++, data, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  if (code != SQLITE_OK) db_.note(code);
  return *this;
}

Query& Query::blob(const void* data, size_t size) {
  if (statement_ == nullptr) return *this;
  // A null pointer would bind NULL instead of an empty blob.
  const int code =
      sqlite3_bind_blob64(statement_, next_++, data != nullptr ? data : "", size, SQLITE_STATIC);
  if (code != SQLITE_OK) db_.note(code);
  return *this;
}

Query& Query::null() {
  if (statement_ != nullptr) sqlite3_bind_null(statement_, next_++);
  return *this;
}

bool Query::row() {
  if (statement_ == nullptr || db_.error_ != SQLITE_OK) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) db_.note(code);
  return false;
}

int64_t Query::integer_at(int column) const {
  return sqlite3_column_int64(statement_, column);
}
double Query::real_at(int column) const {
  return sqlite3_column_double(statement_, column);
}

std::string Query::text_at(int column) const {
  const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  if (data == nullptr) return "";
  return std::string(data, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}

std::vector<uint8_t> Query::blob_at(int column) const {
  const auto* data = static_cast<const uint8_t*>(sqlite3_column_blob(statement_, column));
  if (data == nullptr) return {};
  return std::vector<uint8_t>(data, data + sqlite3_column_bytes(statement_, column));
}

bool Query::digest_at(int column, uint8_t* digest32) const {
  const void* data = sqlite3_column_blob(statement_, column);
  if (data == nullptr || sqlite3_column_bytes(statement_, column) != 32) return false;
  std::memcpy(digest32, data, 32);
  return true;
}

bool Query::null_at(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

Transaction::Transaction(Db& db, const char* begin) : db_(db), open_(db.exec(begin)) {}

Transaction::~Transaction() {
  if (!open_) return;
  // After SQLITE_FULL and the like SQLite has rolled back by itself.
  if (!sqlite3_get_autocommit(db_.handle())) {
    sqlite3_exec(db_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
}

bool Transaction::commit() {
  if (!open_ || db_.error() != SQLITE_OK) return false;
  if (!db_.exec("COMMIT")) return false;
  open_ = false;
  return true;
}

}  // namespace moejit::internal
