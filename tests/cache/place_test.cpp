// A place that cannot be used: one warning, and normal work.
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "base/fs.h"
#include "failure.h"

namespace moejit::internal {
namespace {

using PlaceTest = FailureTest;

TEST_F(PlaceTest, DirectoryThatOthersMayWriteIsRefused) {
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

TEST_F(PlaceTest, DirectoryOfAnotherUserIsRefused) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  if (::geteuid() != 0 || ::chown(directory_.c_str(), 12345, 12345) != 0) {
    GTEST_SKIP() << "needs root to give a directory away";
  }
  expect_memory_only("belongs to user 12345");
}

TEST_F(PlaceTest, LinkInPlaceOfTheDirectoryIsRefused) {
  ASSERT_EQ(::mkdir(join_path(root_, "real").c_str(), 0700), 0);
  ASSERT_EQ(::symlink("real", directory_.c_str()), 0);
  expect_memory_only("symbolic link");
}

TEST_F(PlaceTest, LinkInPlaceOfTheFileIsRefused) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  std::ofstream(join_path(root_, "victim")) << "precious";
  ASSERT_EQ(::symlink("../victim", db().c_str()), 0);
  expect_memory_only("no regular file");
  EXPECT_EQ(*read_file(join_path(root_, "victim")), "precious");
}

TEST_F(PlaceTest, FileInPlaceOfTheDirectoryIsRefused) {
  std::ofstream(directory_) << "x";
  expect_memory_only(directory_);
}

TEST_F(PlaceTest, NetworkFileSystemIsRefusedUnlessAllowed) {
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

TEST_F(PlaceTest, ReadOnlyFileSystemIsReadAndNotWritten) {
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

TEST_F(PlaceTest, DirectoryWithoutWritePermissionIsReadAndNotWritten) {
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

TEST_F(PlaceTest, ParentThatCannotBeWrittenMeansMemory) {
  StoreOptions o;
  o.directory = "/proc/moejit/cache";
  const auto store = Store::open(o);
  EXPECT_NE(store->degraded().find("/proc/moejit"), std::string::npos) << store->degraded();
  expect_serves(*store);
}

TEST_F(PlaceTest, FullDiskKeepsWorkingAndStopsWriting) {
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

TEST_F(PlaceTest, WriterThatDoesNotEndIsWaitedForOnce) {
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

}  // namespace
}  // namespace moejit::internal
