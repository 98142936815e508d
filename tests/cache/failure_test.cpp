// What the store does when its place or its file cannot be used: one warning, and normal work.
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "base/fs.h"
#include "fixture.h"

namespace moejit::internal {
namespace {

class FailureTest : public CacheTest {
 protected:
  // Whatever happened to the file, a store serves: it compiles, remembers, and never fails.
  void expect_serves(Store& store, int n = 77) {
    const auto compiled =
        store.find_or_compile(key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n); });
    ASSERT_TRUE(compiled.ok());
    EXPECT_EQ(compiled->bytes, binary_of(n).bytes);
    const auto again = store.find_or_compile(key_of(n), []() -> Result<StoredBinary> {
      return Status(StatusCode::kInternal, "compiled twice");
    });
    EXPECT_TRUE(again.ok());
    store.record(measurement_of("{\"serves\":1}", 1e-5));
    EXPECT_FALSE(store.measurements(measurement_key()).empty());
    store.select(selection_of(n, "{\"serves\":1}"));
    EXPECT_TRUE(store.find_selection(measurement_key(n), "generator-1").has_value());
    store.set_limits("{\"serves\":1}", {"{}", 1});
    EXPECT_TRUE(store.limits("{\"serves\":1}").has_value());
  }

  void expect_memory_only(const std::string& reason) {
    take_log();
    const auto store = open();
    EXPECT_NE(store->degraded().find(reason), std::string::npos) << store->degraded();
    EXPECT_EQ(store->path(), "");
    expect_serves(*store);
    EXPECT_EQ(warnings(), 1);
  }

  void fill(int count = 5) {
    const auto store = open();
    for (int n = 0; n < count; ++n) {
      ASSERT_TRUE(
          store->find_or_compile(key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n); })
              .ok());
    }
    store->select(selection_of(8, "{\"kept\":1}"));
    ASSERT_EQ(store->degraded(), "");
  }

  int64_t count_bad() const {
    int64_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      const std::string name = entry.path().filename();
      count += name.find(".bad-") != std::string::npos && name.find("-wal") == std::string::npos &&
               name.find("-shm") == std::string::npos;
    }
    return count;
  }
};

TEST_F(FailureTest, DirectoryThatOthersMayWriteIsRefused) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  for (const mode_t mode : {0777, 0770, 0722}) {
    ASSERT_EQ(::chmod(directory_.c_str(), mode), 0);
    const auto store = open();
    EXPECT_NE(store->degraded().find("lets others write"), std::string::npos);
    EXPECT_FALSE(path_exists(db()));
    expect_serves(*store);
  }
  StoreOptions o = options();
  o.allow_shared = true;
  EXPECT_EQ(Store::open(o)->degraded(), "");
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);  // others may read
  EXPECT_EQ(open()->degraded(), "");
}

TEST_F(FailureTest, DirectoryOfAnotherUserIsRefused) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  if (::geteuid() != 0 || ::chown(directory_.c_str(), 12345, 12345) != 0) {
    GTEST_SKIP() << "needs root to give a directory away";
  }
  expect_memory_only("belongs to user 12345");
}

TEST_F(FailureTest, LinkInPlaceOfTheDirectoryIsRefused) {
  ASSERT_EQ(::mkdir(join_path(root_, "real").c_str(), 0700), 0);
  ASSERT_EQ(::symlink("real", directory_.c_str()), 0);
  expect_memory_only("symbolic link");
}

TEST_F(FailureTest, LinkInPlaceOfTheFileIsRefused) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  std::ofstream(join_path(root_, "victim")) << "precious";
  ASSERT_EQ(::symlink("../victim", db().c_str()), 0);
  expect_memory_only("no regular file");
  EXPECT_EQ(*read_file(join_path(root_, "victim")), "precious");
}

TEST_F(FailureTest, FileInPlaceOfTheDirectoryIsRefused) {
  std::ofstream(directory_) << "x";
  expect_memory_only(directory_);
}

TEST_F(FailureTest, NetworkFileSystemIsRefusedUnlessAllowed) {
  fill();
  set_file_system_magic_for_test(0x6969);
  expect_memory_only("network file system (nfs)");
  StoreOptions o = options();
  o.allow_network = true;
  {
    const auto store = Store::open(o);
    EXPECT_EQ(store->degraded(), "");
    EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
    expect_serves(*store);
  }
  EXPECT_EQ(sql(db(), "PRAGMA journal_mode"), "delete");  // never WAL there
  EXPECT_FALSE(path_exists(db() + "-shm"));
  set_file_system_magic_for_test(0);
  EXPECT_EQ(open()->degraded(), "");
  EXPECT_EQ(sql(db(), "PRAGMA journal_mode"), "wal");
}

TEST_F(FailureTest, ReadOnlyFileSystemIsReadAndNotWritten) {
  fill();
  if (::mount(directory_.c_str(), directory_.c_str(), nullptr, MS_BIND, nullptr) != 0 ||
      ::mount(nullptr, directory_.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) !=
          0) {
    ::umount2(directory_.c_str(), MNT_DETACH);
    GTEST_SKIP() << "mounting is not permitted here";
  }
  take_log();
  {
    const auto store = open();
    EXPECT_NE(store->degraded().find("cannot be written"), std::string::npos);
    EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
    EXPECT_EQ(store->find_selection(measurement_key(8), "generator-1")->schedule, "{\"kept\":1}");
    expect_serves(*store);
    EXPECT_EQ(warnings(), 1);
  }
  EXPECT_EQ(::umount2(directory_.c_str(), MNT_DETACH), 0);
  EXPECT_FALSE(open()->find_binary(key_of(77)).has_value());
}

TEST_F(FailureTest, DirectoryWithoutWritePermissionIsReadAndNotWritten) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become an ordinary user";
  ASSERT_EQ(::chmod(root_.c_str(), 0755), 0);
  const int result = in_child([&]() -> int {
    if (::mkdir(directory_.c_str(), 0700) != 0 || ::chown(directory_.c_str(), 12345, 12345) != 0 ||
        ::setgid(12345) != 0 || ::setuid(12345) != 0) {
      return 1;
    }
    {
      const auto store = open();
      store->select(selection_of(8, "{\"kept\":1}"));
      if (!store->degraded().empty()) return 2;
    }
    if (::chmod(directory_.c_str(), 0500) != 0) return 3;
    const auto store = open();
    if (store->degraded().find("cannot be written") == std::string::npos) return 4;
    if (!store->find_selection(measurement_key(8), "generator-1").has_value()) return 5;
    store->select(selection_of(9, "{\"lost\":1}"));
    if (!store->find_selection(measurement_key(9), "generator-1").has_value()) return 6;
    return 0;
  });
  EXPECT_EQ(result, 0);
}

TEST_F(FailureTest, ParentThatCannotBeWrittenMeansMemory) {
  StoreOptions o;
  o.directory = "/proc/moejit/cache";
  const auto store = Store::open(o);
  EXPECT_NE(store->degraded().find("/proc/moejit"), std::string::npos) << store->degraded();
  expect_serves(*store);
}

TEST_F(FailureTest, FullDiskKeepsWorkingAndStopsWriting) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  if (::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=1m,mode=0700") != 0) {
    GTEST_SKIP() << "mounting is not permitted here";
  }
  {
    const auto store = open();
    ASSERT_EQ(store->degraded(), "");
    take_log();
    for (int n = 0; n < 40; ++n) {
      const auto result = store->find_or_compile(
          key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n, 50000); });
      ASSERT_TRUE(result.ok());
      EXPECT_EQ(result->bytes, binary_of(n, 50000).bytes);
    }
    EXPECT_NE(store->degraded(), "");
    EXPECT_EQ(warnings(), 1);
    EXPECT_EQ(counter(*store, "db_fail"), 1);  // it did not try again
    expect_serves(*store);
    EXPECT_EQ(warnings(), 0);
    EXPECT_TRUE(store->find_binary(key_of(39)).has_value());
  }
  EXPECT_EQ(sql(db(), "PRAGMA integrity_check"), "ok");
  {
    const auto store = open();
    EXPECT_TRUE(store->find_binary(key_of(0)).has_value());
    EXPECT_FALSE(store->find_binary(key_of(39)).has_value());
  }
  // Not even room for an empty database.
  std::ofstream(file("filler")) << std::string(2 << 20, 'x');
  EXPECT_EQ(::umount2(directory_.c_str(), MNT_DETACH), 0);
  ASSERT_EQ(::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=16k,mode=0700"), 0);
  {
    const auto store = open();
    EXPECT_NE(store->degraded(), "");
    expect_serves(*store);
  }
  EXPECT_EQ(::umount2(directory_.c_str(), MNT_DETACH), 0);
}

TEST_F(FailureTest, FlippedBitInABinaryIsFoundAndCompiledAgain) {
  fill();
  const StoredBinary binary = binary_of(3);
  const std::string bytes(binary.bytes.begin() + 100, binary.bytes.begin() + 140);
  const std::string content = *read_file(db());
  const size_t at = content.find(bytes);
  ASSERT_NE(at, std::string::npos);
  overwrite(db(), static_cast<int64_t>(at), std::string(1, static_cast<char>(content[at] ^ 4)));
  EXPECT_EQ(sql(db(), "PRAGMA integrity_check"), "ok");  // SQLite does not see it
  {
    const auto store = open();
    take_log();
    EXPECT_TRUE(store->find_binary(key_of(2)).has_value());
    EXPECT_FALSE(store->find_binary(key_of(3)).has_value());
    EXPECT_EQ(counter(*store, "bad_hash"), 1);
    EXPECT_EQ(warnings(), 1);
    int compiled = 0;
    const auto again = store->find_or_compile(key_of(3), [&]() -> Result<StoredBinary> {
      ++compiled;
      return binary_of(3);
    });
    ASSERT_TRUE(again.ok());
    EXPECT_EQ(compiled, 1);
  }
  const auto found = open()->find_binary(key_of(3));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->bytes, binary_of(3).bytes);
}

TEST_F(FailureTest, IntactBytesOfAnotherKernelAreNotServed) {
  fill();
  // What a damaged page can do: the row of key 3 names the binary of key 4, whose bytes are whole.
  EXPECT_EQ(sql(db(),
                "UPDATE artifact SET blob_id = (SELECT blob_id FROM artifact WHERE registers = 4)"
                " WHERE registers = 3"),
            "");
  {
    const auto store = open();
    EXPECT_FALSE(store->find_binary(key_of(3)).has_value());
    EXPECT_EQ(counter(*store, "bad_hash"), 1);
  }
  fill();
  // Its description belongs to it as well.
  sql(db(), "UPDATE artifact SET arch = 'another' WHERE registers = 3");
  EXPECT_FALSE(open()->find_binary(key_of(3)).has_value());
}

TEST_F(FailureTest, CorruptHeaderIsSetAsideAndReplaced) {
  fill();
  overwrite(db(), 0, "this was a database once");
  take_log();
  {
    const auto store = open();
    EXPECT_EQ(store->degraded(), "");
    EXPECT_FALSE(store->find_binary(key_of(1)).has_value());
    expect_serves(*store);
    EXPECT_EQ(warnings(), 1);
  }
  EXPECT_EQ(count_bad(), 1);
  EXPECT_TRUE(open()->find_binary(key_of(77)).has_value());
  overwrite(db(), 0, "this was a database once");
  EXPECT_EQ(open()->degraded(), "");
  EXPECT_EQ(count_bad(), 1);  // the latest is kept, not all
}

TEST_F(FailureTest, CorruptFileIsLeftInPlaceWhileAnotherProcessHasIt) {
  fill();
  int ready[2], stop[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(stop), 0);
  const pid_t other = ::fork();
  if (other == 0) {
    const auto store = open();
    char c = store->degraded().empty() ? 'y' : 'n';
    if (::write(ready[1], &c, 1) != 1 || ::read(stop[0], &c, 1) != 1) ::_exit(1);
    ::_exit(0);
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  ASSERT_EQ(c, 'y');
  overwrite(db(), 0, "this was a database once");
  expect_memory_only("while others have it open");
  EXPECT_EQ(count_bad(), 0);
  ASSERT_EQ(::write(stop[1], "x", 1), 1);
  EXPECT_EQ(wait_for(other), 0);
  EXPECT_EQ(open()->degraded(), "");
  EXPECT_EQ(count_bad(), 1);
  for (const int fd : {ready[0], ready[1], stop[0], stop[1]}) ::close(fd);
}

TEST_F(FailureTest, CorruptPageWhileOpenIsRecovered) {
  fill(40);
  sql(db(), "PRAGMA wal_checkpoint(TRUNCATE)");
  const auto store = open();
  EXPECT_TRUE(store->find_binary(key_of(0)).has_value());
  const int64_t size = file_size(db());
  for (int64_t page = 8192; page < size; page += 8192) overwrite(db(), page, std::string(64, 'Z'));
  take_log();
  for (int n = 1; n < 40; ++n) store->find_binary(key_of(n));
  EXPECT_GT(counter(*store, "db_fail"), 0);
  EXPECT_GE(warnings(), 1);
  EXPECT_EQ(store->degraded(), "");
  expect_serves(*store);
  EXPECT_EQ(count_bad(), 1);
}

TEST_F(FailureTest, TruncatedAndEmptyFilesAreReplaced) {
  for (const int64_t size : {0, 1, 100, 5000, 8192, 30000}) {
    fill();
    ASSERT_EQ(::truncate(db().c_str(), size), 0);
    const auto store = open();
    for (int n = 0; n < 5; ++n) store->find_binary(key_of(n));
    expect_serves(*store);
    EXPECT_EQ(store->degraded(), "") << size;
  }
}

TEST_F(FailureTest, LogOfADeletedFileIsNotTakenForTheNewOnes) {
  fill();
  {
    // A process that dies leaves its log behind; then somebody deletes the main file alone.
    in_child([&] {
      const auto store = open();
      store->select(selection_of(9, "{\"late\":1}"));
      ::_exit(0);
      return 0;
    });
    ASSERT_TRUE(path_exists(db() + "-wal"));
    ASSERT_EQ(::unlink(db().c_str()), 0);
  }
  {
    const auto store = open();
    EXPECT_EQ(store->degraded(), "");
    expect_serves(*store);
  }
  EXPECT_EQ(sql(db(), "PRAGMA integrity_check"), "ok");
}

TEST_F(FailureTest, ForeignDatabaseIsNeitherUsedNorTouched) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  sql(db(), "PRAGMA application_id=1234; CREATE TABLE mine(x); INSERT INTO mine VALUES(42)");
  expect_memory_only("another application");
  EXPECT_EQ(sql(db(), "SELECT x FROM mine"), "42");
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM sqlite_schema"), "1");
}

TEST_F(FailureTest, NewerSchemaIsReadWhereItAllowsItAndElseLeftAlone) {
  fill();
  sql(db(), "ALTER TABLE artifact ADD COLUMN future TEXT; PRAGMA user_version=99");
  {
    take_log();
    const auto store = open();
    EXPECT_NE(store->degraded().find("newer"), std::string::npos);
    EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
    expect_serves(*store);
    EXPECT_EQ(warnings(), 1);
  }
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM artifact"), "5");  // nothing was written
  sql(db(), "UPDATE meta SET v='99' WHERE k='schema_min_reader'");
  expect_memory_only("cannot read");
  EXPECT_EQ(sql(db(), "PRAGMA user_version"), "99");
}

TEST_F(FailureTest, OlderSchemaIsMigrated) {
  fill();
  sql(db(),
      "DROP TABLE history; DROP TRIGGER selection_added; DROP TRIGGER selection_changed;"
      "PRAGMA user_version=1");
  {
    StoreOptions o = options();  // reading needs no migration
    o.mode = StoreMode::kReadOnly;
    EXPECT_TRUE(Store::open(o)->find_binary(key_of(1)).has_value());
    EXPECT_EQ(sql(db(), "PRAGMA user_version"), "1");
  }
  {
    const auto store = open();
    EXPECT_EQ(store->degraded(), "");
    EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
    EXPECT_TRUE(store->find_selection(measurement_key(8), "generator-1").has_value());
    store->select(selection_of(8, "{\"next\":1}"));
  }
  EXPECT_EQ(sql(db(), "PRAGMA user_version"), "2");
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM history"), "2");
}

TEST_F(FailureTest, MissingTablesAreADamagedFile) {
  fill();
  sql(db(), "PRAGMA foreign_keys=OFF; DROP TABLE selection");
  const auto store = open();
  EXPECT_EQ(store->degraded(), "");
  expect_serves(*store);
  EXPECT_EQ(count_bad(), 1);
}

TEST_F(FailureTest, WriterThatDoesNotEndIsWaitedForOnce) {
  fill();
  StoreOptions o = options();
  o.busy_ms = 50;
  const auto store = Store::open(o);
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(db().c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  take_log();
  expect_serves(*store);
  EXPECT_EQ(warnings(), 1);
  EXPECT_EQ(counter(*store, "db_fail"), 1);
  EXPECT_TRUE(store->find_binary(key_of(1)).has_value());  // reading goes on
  sqlite3_close(other);
}

TEST_F(FailureTest, ForkedChildUsesMemoryAndDoesNotDisturbItsParent) {
  fill();
  const auto store = open();
  EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
  const int result = in_child([&]() -> int {
    if (store->degraded().find("forked") == std::string::npos) return 1;
    if (store->find_binary(key_of(2)).has_value()) return 2;
    if (!store->find_or_compile(key_of(2), []() -> Result<StoredBinary> { return binary_of(2); })
             .ok()) {
      return 3;
    }
    if (!store->find_binary(key_of(2)).has_value()) return 4;
    store->select(selection_of(11, "{\"child\":1}"));
    if (!store->find_selection(measurement_key(11), "generator-1").has_value()) return 5;
    const auto second = open();  // another store of the same file is no way around
    return second->degraded().find("forked") != std::string::npos ? 0 : 6;
  });
  EXPECT_EQ(result, 0);
  EXPECT_EQ(store->degraded(), "");
  EXPECT_TRUE(store->find_binary(key_of(3)).has_value());
  store->select(selection_of(12, "{\"parent\":1}"));
  EXPECT_FALSE(store->find_selection(measurement_key(11), "generator-1").has_value());
}

TEST_F(FailureTest, ForkAmidOtherThreadsWorkLeavesTheChildUsable) {
  const auto store = open();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        store->find_binary(key_of(i % 50 + t));
        store->select(selection_of(i % 8, "{\"i\":" + std::to_string(i) + "}"));
        store->record(measurement_of("{\"t\":" + std::to_string(t) + "}", 1e-5));
      }
    });
  }
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(in_child([&]() -> int {
                ::alarm(30);  // a mutex that stays held would hang
                const auto result = store->find_or_compile(
                    key_of(1), []() -> Result<StoredBinary> { return binary_of(1); });
                store->select(selection_of(99, "{}"));
                return result.ok() && store->find_binary(key_of(1)).has_value() ? 0 : 1;
              }),
              0);
  }
  stop = true;
  for (auto& t : threads) t.join();
  EXPECT_EQ(store->degraded(), "");
}

TEST_F(FailureTest, ChildMayOpenWhatItsParentHasClosed) {
  fill();  // opens and closes
  EXPECT_EQ(in_child([&]() -> int {
              const auto store = open();
              return store->degraded().empty() && store->find_binary(key_of(1)).has_value() ? 0 : 1;
            }),
            0);
}

TEST_F(FailureTest, RandomDamageNeverCrashesAndNeverServesWrongBytes) {
  fill(12);
  const std::string intact = *read_file(db());
  std::mt19937 random(7);
  const int rounds = test_level() >= 2 ? 2000 : 60;
  for (int round = 0; round < rounds; ++round) {
    std::filesystem::remove_all(directory_);
    ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
    std::string content = intact;
    const int flips = 1 << (round % 10);
    for (int i = 0; i < flips; ++i) {
      // Half of the damage goes to the headers of pages, where the structure is.
      size_t at = random() % content.size();
      if (random() % 2) at = at / 8192 * 8192 + random() % 40;
      content[std::min(at, content.size() - 1)] = static_cast<char>(random());
    }
    ASSERT_TRUE(write_file(db(), content, 0600).ok());
    const auto store = open();
    for (int n = 0; n < 12; ++n) {
      const auto found = store->find_binary(key_of(n));
      if (found.has_value()) {
        ASSERT_EQ(found->bytes, binary_of(n).bytes);
      }
    }
    store->find_selection(measurement_key(8), "generator-1");
    store->measurements(measurement_key(8));
    const auto compiled =
        store->find_or_compile(key_of(99), []() -> Result<StoredBinary> { return binary_of(99); });
    ASSERT_TRUE(compiled.ok());
    store->record(measurement_of("{}", 1e-5));
    store->select(selection_of(3, "{}"));
  }
}

}  // namespace
}  // namespace moejit::internal
