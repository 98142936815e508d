// One SQLite connection, its prepared statements and transactions. Errors stick to the connection
// until they are taken, so that a sequence of queries is checked once at its end.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct sqlite3;
struct sqlite3_stmt;

namespace moejit::internal {

// What an SQLite result code means for a cache.
enum class Trouble {
  kNone,
  kBusy,      // another process held the lock for longer than the busy time
  kFull,      // no space, quota, or the disk refused to write or read
  kCorrupt,   // the file is no database, a damaged one, or one without our tables
  kReadOnly,  // the file or directory cannot be written
  kOther,     // a constraint, out of memory
};
Trouble classify(int extended_code);

// Not thread-safe. Must not be used or destroyed in a forked child.
class Db {
 public:
  // `flags` as of sqlite3_open_v2. Null on failure, with the code and a sentence. The pragmas that
  // every connection needs are set; nothing was read from the file yet.
  static std::unique_ptr<Db> open(const std::string& name, int flags, int busy_ms, int* code,
                                  std::string* message);
  ~Db();
  Db(const Db&) = delete;
  Db& operator=(const Db&) = delete;

  // Statements without parameters and rows.
  bool exec(const char* sql);
  int64_t last_row_id() const;
  int64_t changes() const;  // rows that the last statement changed
  sqlite3* handle() const { return handle_; }

  // The first error since take_error(); 0 where there was none.
  int error() const { return error_; }
  const std::string& message() const { return message_; }
  int take_error();
  void fail(int code, const std::string& message);

 private:
  friend class Query;
  Db() = default;
  void note(int code);
  sqlite3* handle_ = nullptr;
  // By the address of the SQL text: callers pass literals.
  std::map<const char*, sqlite3_stmt*> statements_;
  int error_ = 0;
  std::string message_;
};

// One run of a statement. After an error on the connection it does nothing and yields no row.
class Query {
 public:
  Query(Db& db, const char* literal_sql);
  ~Query();
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  // Parameters in order. A blob must stay alive until the query is gone; text is copied.
  Query& integer(int64_t value);
  Query& real(double value);  // NaN becomes NULL
  Query& text(std::string_view value);
  Query& blob(const void* data, size_t size);
  Query& null();

  bool row();  // true: the next row is there
  void run() {
    while (row()) {
    }
  }

  // Columns of the row; 0 or empty where NULL.
  int64_t integer_at(int column) const;
  double real_at(int column) const;
  std::string text_at(int column) const;
  std::vector<uint8_t> blob_at(int column) const;
  bool digest_at(int column, uint8_t* digest32) const;  // false where it has not 32 bytes
  bool null_at(int column) const;

 private:
  Db& db_;
  sqlite3_stmt* statement_ = nullptr;
  bool cached_ = false;
  int next_ = 1;
};

// BEGIN IMMEDIATE, so that waiting for another writer obeys the busy time. Rolls back unless
// commit() succeeded.
class Transaction {
 public:
  explicit Transaction(Db& db, const char* begin = "BEGIN IMMEDIATE");
  ~Transaction();
  bool commit();

 private:
  Db& db_;
  bool open_ = false;
};

}  // namespace moejit::internal
