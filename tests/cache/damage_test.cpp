// A file that is damaged: found, set aside or worked around, never served.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "base/fs.h"
#include "cache/inspect.h"
#include "failure.h"

namespace moejit::internal {
namespace {

using DamageTest = FailureTest;

TEST_F(DamageTest, FlippedBitInABinaryIsFoundAndCompiledAgain) {
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

TEST_F(DamageTest, IntactBytesOfAnotherKernelAreNotServed) {
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

TEST_F(DamageTest, CorruptHeaderIsSetAsideAndReplaced) {
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

TEST_F(DamageTest, CorruptFileIsLeftInPlaceWhileAnotherProcessHasIt) {
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

TEST_F(DamageTest, CorruptPageWhileOpenIsRecovered) {
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

TEST_F(DamageTest, WhatWasMeasuredSurvivesTheReplacementOfADamagedFile) {
  fill(40);
  {
    const auto store = open();
    store->record(measurement_of("{\"kept\":1}", 1e-5));
    store->set_limits("{\"cpu\":1}", {"{\"bw\":1}", 5});
  }
  sql(db(), "PRAGMA wal_checkpoint(TRUNCATE)");
  // One page in the midst of the binaries.
  const StoredBinary binary = binary_of(20);
  const size_t at =
      read_file(db())->find(std::string(binary.bytes.begin() + 99, binary.bytes.begin() + 140));
  ASSERT_NE(at, std::string::npos);
  overwrite(db(), static_cast<int64_t>(at / 8192 * 8192), std::string(8192, 'Z'));
  take_log();
  const auto store = open();
  for (int n = 0; n < 40; ++n) store->find_binary(key_of(n));
  EXPECT_EQ(count_bad(), 1);
  EXPECT_EQ(store->degraded(), "");
  const auto selection = store->find_selection(measurement_key(8), "generator-1");
  ASSERT_TRUE(selection.has_value());
  EXPECT_EQ(selection->schedule, "{\"kept\":1}");
  EXPECT_EQ(store->measurements(measurement_key()).size(), 1u);
  EXPECT_TRUE(store->limits("{\"cpu\":1}").has_value());
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM history"), "1");
  EXPECT_EQ(sql(db(), "PRAGMA integrity_check"), "ok");
  EXPECT_EQ(sql(db(), "PRAGMA foreign_key_check"), "");
  expect_serves(*store);
}

TEST_F(DamageTest, RandomDamageOfAPackIsALayerLeftOutOrAMiss) {
  fill(12);
  const std::string pack = join_path(root_, "pack"), other = join_path(root_, "other");
  PackOptions all;
  all.losers = true;
  ASSERT_TRUE(pack_cache({directory_}, pack, all).ok());
  const std::string intact = *read_file(pack);
  std::mt19937 random(8);
  const int rounds = test_level() >= 2 ? 1000 : 40;
  for (int round = 0; round < rounds; ++round) {
    std::string content = intact;
    for (int i = 0; i < 1 << (round % 9); ++i) {
      size_t at = random() % content.size();
      if (random() % 2) at = at / 8192 * 8192 + random() % 40;
      content[std::min(at, content.size() - 1)] = static_cast<char>(random());
    }
    ASSERT_TRUE(write_file(pack, content).ok());
    StoreOptions o;
    o.mode = StoreMode::kMemory;
    o.read_only = {pack};
    const auto store = Store::open(o);
    for (int n = 0; n < 12; ++n) {
      const auto found = store->find_binary(key_of(n));
      if (found.has_value()) {
        ASSERT_EQ(found->bytes, binary_of(n).bytes);
      }
    }
    store->find_selection(measurement_key(8), "generator-1");
    MergeOptions merge;
    merge.cpu_code = true;
    (void)merge_cache({other}, {pack}, merge);
    (void)verify_cache({pack}, false);
    (void)list_selections({pack});
  }
  if (path_exists(join_path(other, "moejit-v1.db"))) {
    const auto report = verify_cache({other}, false);
    ASSERT_TRUE(report.ok());
    EXPECT_TRUE(report->ok());
  }
}

TEST_F(DamageTest, TruncatedAndEmptyFilesAreReplaced) {
  for (const int64_t size : {0, 1, 100, 5000, 8192, 30000}) {
    fill();
    ASSERT_EQ(::truncate(db().c_str(), size), 0);
    const auto store = open();
    for (int n = 0; n < 5; ++n) store->find_binary(key_of(n));
    expect_serves(*store);
    EXPECT_EQ(store->degraded(), "") << size;
  }
}

TEST_F(DamageTest, LogOfADeletedFileIsNotTakenForTheNewOnes) {
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

TEST_F(DamageTest, RandomDamageNeverCrashesAndNeverServesWrongBytes) {
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
