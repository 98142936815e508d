// Files of other versions and of other applications.
#include <sys/stat.h>

#include "cache/list.h"
#include "failure.h"

namespace moejit::internal {
namespace {

using VersionTest = FailureTest;

TEST_F(VersionTest, ForeignDatabaseIsNeitherUsedNorTouched) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  sql(db(), "PRAGMA application_id=1234; CREATE TABLE mine(x); INSERT INTO mine VALUES(42)");
  expect_memory_only("another application");
  EXPECT_NE(list_artifacts({directory_}).status().message().find("another application"),
            std::string::npos);
  EXPECT_EQ(sql(db(), "SELECT x FROM mine"), "42");
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM sqlite_schema"), "1");
}

TEST_F(VersionTest, NewerSchemaIsReadWhereItAllowsItAndElseLeftAlone) {
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

TEST_F(VersionTest, OlderSchemaIsMigrated) {
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

TEST_F(VersionTest, MissingTablesAreADamagedFile) {
  fill();
  sql(db(), "PRAGMA foreign_keys=OFF; DROP TABLE selection");
  const auto store = open();
  EXPECT_EQ(store->degraded(), "");
  expect_serves(*store);
  EXPECT_EQ(count_bad(), 1);
}

}  // namespace
}  // namespace moejit::internal
