// Results that could not be written when they came, and databases that vanish under a process.
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/fs.h"
#include "failure.h"

namespace moejit::internal {
namespace {

class UnsavedTest : public FailureTest {
 protected:
  std::string rows(const std::string& table) { return sql(db(), "SELECT count(*) FROM " + table); }
  void give_three(Store& store) {
    store.record(measurement_of("{\"late\":1}", 1e-5));
    store.select(selection_of(8, "{\"late\":1}"));
    store.set_limits("{\"cpu\":1}", {"{\"read\":1}", 7});
    const auto compile = []() -> Result<StoredBinary> { return binary_of(900); };
    EXPECT_TRUE(store.find_or_compile(key_of(900), compile).ok());
  }
  void expect_three_kept() {
    EXPECT_EQ(rows("measurement"), "1");
    EXPECT_EQ(rows("selection"), "1");
    EXPECT_EQ(rows("history"), "1");
    const auto fresh = open();
    EXPECT_TRUE(fresh->find_binary(key_of(900)).has_value());
    ASSERT_TRUE(fresh->limits("{\"cpu\":1}").has_value());
    EXPECT_EQ(fresh->limits("{\"cpu\":1}")->measured_at, 7);
    const auto kept = fresh->find_selection(measurement_key(8), "generator-1");
    ASSERT_TRUE(kept.has_value());
    EXPECT_GT(kept->decided_at, 0);
  }
};

TEST_F(UnsavedTest, WhatAFullDiskTurnedAwayIsWrittenOnceThereIsRoom) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  if (::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=2m,mode=0700") != 0) {
    GTEST_SKIP() << "mounting is not permitted here";
  }
  {
    const auto store = open();
    EXPECT_TRUE(store->save().ok());  // nothing to save
    {
      std::ofstream filler(file("filler"));
      const std::string page(1 << 12, 'x');
      while (filler << page << std::flush) {
      }
    }
    give_three(*store);
    EXPECT_NE(store->degraded(), "");
    EXPECT_EQ(rows("measurement"), "0");
    EXPECT_EQ(store->save().code(), StatusCode::kIoError);
    EXPECT_NE(store->save().message().find("full"), std::string::npos) << store->save().message();
    // Served meanwhile all the same.
    EXPECT_TRUE(store->find_selection(measurement_key(8), "generator-1").has_value());
    std::filesystem::remove(file("filler"));
    EXPECT_TRUE(store->save().ok()) << store->save().message();
    EXPECT_EQ(store->degraded(), "");
    expect_three_kept();
    // And not a second time.
    store->record(measurement_of("{\"late\":2}", 1e-5));
    EXPECT_EQ(rows("measurement"), "2");
    EXPECT_EQ(rows("history"), "1");
  }
  EXPECT_EQ(::umount2(directory_.c_str(), MNT_DETACH), 0);
}

TEST_F(UnsavedTest, WhatABusyWriterTurnedAwayIsWrittenWhenItEnds) {
  StoreOptions o = options();
  o.busy_ms = 50;
  auto store = Store::open(o);
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(db().c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  give_three(*store);
  EXPECT_EQ(store->save().code(), StatusCode::kUnavailable);
  sqlite3_close(other);
  EXPECT_EQ(rows("selection"), "0");
  store.reset();  // the end of the process at the latest
  expect_three_kept();
}

TEST_F(UnsavedTest, MemoryModeHasNothingToSave) {
  StoreOptions o = options();
  o.mode = StoreMode::kMemory;
  const auto store = Store::open(o);
  give_three(*store);
  EXPECT_FALSE(store->save().ok());
  EXPECT_FALSE(path_exists(directory_));
}

TEST_F(UnsavedTest, ADatabaseThatIsDeletedUnderAProcessIsOpenedAnew) {
  const auto store = open();
  store->select(selection_of(8, "{\"gone\":1}"));
  take_log();
  std::filesystem::remove_all(directory_);
  give_three(*store);
  EXPECT_EQ(warnings(), 1);
  EXPECT_EQ(store->degraded(), "");
  expect_three_kept();
  // Replaced by another process's: that one is followed.
  std::filesystem::remove_all(directory_);
  {
    const auto other = open();
    store->record(measurement_of("{\"here\":1}", 1e-5));
    EXPECT_EQ(other->measurements(measurement_key()).size(), 1u);
  }
}

}  // namespace
}  // namespace moejit::internal
