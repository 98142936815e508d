// Looking at a cache and keeping it in order.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/fs.h"
#include "cache/inspect.h"
#include "fixture.h"

namespace moejit::internal {
namespace {

class MaintainTest : public CacheTest {
 protected:
  void fill(int count = 6) {
    const auto store = open();
    for (int n = 0; n < count; ++n) {
      ASSERT_TRUE(
          store->find_or_compile(key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n); })
              .ok());
    }
    store->select(selection_of(8, "{\"n\":1}"));  // of key 1
    store->select(selection_of(1, "{\"n\":1}"));
    store->record(measurement_of("{\"n\":1}", 1e-5));
    Measurement loser = measurement_of("{\"n\":2}", 2e-5);
    loser.source = key_of(2).source;
    store->record(loser);
  }
  CachePlace place() const { return {directory_}; }
};

TEST_F(MaintainTest, AbsentCacheIsNotFoundAndNotMade) {
  EXPECT_EQ(list_artifacts(place()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(cache_stats(place()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(verify_cache(place(), true).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(clear_cache(place()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(gc_cache(place(), {}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(list_artifacts({""}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(path_exists(directory_));
}

TEST_F(MaintainTest, ListsWhatIsThere) {
  fill();
  const auto all = list_artifacts(place());
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 6u);
  const ArtifactInfo* first = nullptr;
  for (const auto& a : *all) {
    if (a.schedule == "{\"n\":1}") first = &a;
  }
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(first->key.size(), 64u);
  EXPECT_EQ(first->toolchain, key_of(1).toolchain);
  EXPECT_EQ(first->arch, "x86-64-avx512");
  EXPECT_EQ(first->bytes, 5000);
  EXPECT_EQ(first->sha256.size(), 64u);
  EXPECT_EQ(first->measurements, 1);
  EXPECT_TRUE(first->selected);
  EXPECT_EQ(first->log, "no warnings");

  CacheFilter filter;
  filter.arch = "sm_90a";
  EXPECT_EQ(list_artifacts(place(), filter)->size(), 0u);
  filter = {};
  filter.limit = 2;
  EXPECT_EQ(list_artifacts(place(), filter)->size(), 2u);
  filter = {};
  filter.key = first->key.substr(0, 12);
  EXPECT_EQ(list_artifacts(place(), filter)->size(), 1u);

  const auto selections = list_selections(place());
  ASSERT_TRUE(selections.ok());
  ASSERT_EQ(selections->size(), 2u);
  EXPECT_EQ((*selections)[0].tokens, 1);
  EXPECT_EQ((*selections)[1].tokens, 8);
  EXPECT_EQ((*selections)[1].environment, "{\"cpu\":1}");
  EXPECT_EQ((*selections)[1].generator, "generator-1");
  EXPECT_TRUE((*selections)[1].has_binary);
  EXPECT_NE((*selections)[0].key, (*selections)[1].key);
}

TEST_F(MaintainTest, ShowTakesAPrefixAndSaysWhatIsWrongWithIt) {
  fill();
  const std::string artifact = list_artifacts(place())->front().key;
  const std::string selection = list_selections(place())->front().key;
  const auto a = show_entry(place(), artifact.substr(0, 10));
  ASSERT_TRUE(a.ok());
  ASSERT_EQ(a->artifact.size(), 1u);
  EXPECT_EQ(a->artifact[0].key, artifact);
  const auto s = show_entry(place(), selection);
  ASSERT_TRUE(s.ok());
  EXPECT_EQ(s->selection.size(), 1u);
  EXPECT_EQ(show_entry(place(), "abc").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(show_entry(place(), "not hexadecimal").status().code(), StatusCode::kInvalidArgument);
  std::string other = artifact;
  for (char& c : other) c = c == '0' ? '1' : '0';
  EXPECT_EQ(show_entry(place(), other).status().code(), StatusCode::kNotFound);
}

TEST_F(MaintainTest, AmbiguousPrefixNamesTheCandidates) {
  fill();
  EXPECT_EQ(sql(db(),
                "UPDATE artifact SET art_key = CAST(x'aabbccdd' || substr(art_key, 5) AS BLOB)"
                " WHERE art_id <= 2"),
            "");
  const auto found = show_entry(place(), "AABB");
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(found.status().message().find("2 keys begin so: aabbccdd"), std::string::npos);
}

TEST_F(MaintainTest, StatsCount) {
  fill();
  const auto store = open();  // also while somebody is connected
  const auto s = cache_stats(place());
  ASSERT_TRUE(s.ok());
  EXPECT_EQ(s->path, db());
  EXPECT_EQ(s->schema, 2);
  EXPECT_EQ(s->artifacts, 6);
  EXPECT_EQ(s->binaries, 6);
  EXPECT_EQ(s->binary_bytes, 30000);
  EXPECT_GE(s->file_bytes, 30000);
  EXPECT_EQ(s->selections, 2);
  EXPECT_EQ(s->pinned, 0);
  EXPECT_EQ(s->measurements, 2);
  EXPECT_EQ(s->problems, 1);
  EXPECT_EQ(s->sessions, 1);
  EXPECT_EQ(s->decisions, 2);
  ASSERT_EQ(s->by_arch.size(), 1u);
  EXPECT_EQ(s->by_arch[0].name, "cpu x86-64-avx512");
  EXPECT_EQ(s->by_arch[0].bytes, 30000);
  ASSERT_EQ(s->by_toolchain.size(), 1u);
}

TEST_F(MaintainTest, HistoryKeepsEveryDecisionNewestFirst) {
  fill();
  open()->select(selection_of(8, "{\"n\":3}"));
  const auto all = selection_history(place());
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->size(), 3u);
  std::string key;
  const auto selections = list_selections(place());
  for (const auto& s : *selections) {
    if (s.tokens == 8) key = s.key;
  }
  const auto one = selection_history(place(), key.substr(0, 8));
  ASSERT_TRUE(one.ok());
  ASSERT_EQ(one->size(), 2u);
  EXPECT_EQ((*one)[0].selection.schedule, "{\"n\":3}");
  EXPECT_TRUE((*one)[0].current);
  EXPECT_EQ((*one)[1].selection.schedule, "{\"n\":1}");
  EXPECT_FALSE((*one)[1].current);
}

constexpr const char* kServing = "{\"routing\":\"serving\"}";

TEST_F(MaintainTest, APinnedSelectionIsTheOneThatIsServed) {
  fill();
  const std::string key = list_selections(place())->back().key;
  Selection other = selection_of(8, "{\"n\":3}");
  other.key.policy = kServing;
  open()->select(other);
  ASSERT_TRUE(pin_selection(place(), key, true, kServing).ok());
  const auto served = open()->find_selection(other.key, "generator-1");
  EXPECT_EQ(served->schedule, "{\"n\":1}");
  EXPECT_EQ(served->how, "pinned");
  open()->select(other);
  EXPECT_EQ(open()->find_selection(other.key, "generator-1")->schedule, "{\"n\":1}");
  ASSERT_TRUE(pin_selection(place(), key, false, kServing).ok());
  EXPECT_EQ(open()->find_selection(other.key, "generator-1")->how, "tuned");
}

TEST_F(MaintainTest, PinHoldsASelectionUntilItIsUnpinned) {
  fill();
  const std::string key = list_selections(place())->back().key;
  const auto pinned = pin_selection(place(), key.substr(0, 8), true, kServing);
  ASSERT_TRUE(pinned.ok()) << pinned.status().to_string();
  EXPECT_EQ(pinned->how, "pinned");
  open()->select(selection_of(8, "{\"n\":3}"));
  EXPECT_EQ(open()->find_selection(measurement_key(8), "generator-1")->schedule, "{\"n\":1}");
  ASSERT_TRUE(pin_selection(place(), key, false, kServing).ok());
  open()->select(selection_of(8, "{\"n\":3}"));
  EXPECT_EQ(open()->find_selection(measurement_key(8), "generator-1")->schedule, "{\"n\":3}");
  EXPECT_EQ(pin_selection(place(), "0123456789", true, kServing).status().code(),
            StatusCode::kNotFound);
}

TEST_F(MaintainTest, VerifyFindsAndRepairDropsADamagedBinary) {
  fill();
  EXPECT_TRUE(verify_cache(place(), false)->ok());
  EXPECT_EQ(verify_cache(place(), false)->binaries, 6);
  sql(db(), "UPDATE blob SET data = zeroblob(5000) WHERE blob_id = 2");
  const auto found = verify_cache(place(), false);
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found->damaged.size(), 1u);
  EXPECT_EQ(found->damaged[0].size(), 64u);
  EXPECT_TRUE(found->problems.empty());
  const auto repaired = verify_cache(place(), true);
  ASSERT_TRUE(repaired.ok());
  EXPECT_EQ(repaired->dropped, 1);
  EXPECT_FALSE(repaired->rebuilt);
  const auto clean = verify_cache(place(), false);
  EXPECT_TRUE(clean->ok());
  EXPECT_EQ(clean->binaries, 5);
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM artifact"), "6");  // its figures stay
}

TEST_F(MaintainTest, VerifyFindsAWrongTotalAndDanglingRows) {
  fill();
  sql(db(), "UPDATE total SET n = 7");
  EXPECT_EQ(verify_cache(place(), false)->problems.size(), 1u);
  EXPECT_FALSE(verify_cache(place(), true)->rebuilt);
  EXPECT_TRUE(verify_cache(place(), false)->ok());
  sql(db(), "PRAGMA foreign_keys=OFF; DELETE FROM session");
  ASSERT_EQ(verify_cache(place(), false)->problems.size(), 1u);
  EXPECT_NE(verify_cache(place(), false)->problems[0].find("measurement"), std::string::npos);
  const auto repaired = verify_cache(place(), true);
  ASSERT_TRUE(repaired.ok()) << repaired.status().to_string();
  EXPECT_TRUE(repaired->rebuilt);
  EXPECT_TRUE(verify_cache(place(), false)->ok());
  EXPECT_EQ(list_selections(place())->size(), 2u);
  EXPECT_EQ(list_artifacts(place())->size(), 6u);
}

TEST_F(MaintainTest, RepairRescuesWhatADamagedFileStillHolds) {
  fill(40);
  sql(db(), "PRAGMA wal_checkpoint(TRUNCATE)");
  // The page of one binary becomes garbage: the rows before and behind it can be read.
  const StoredBinary binary = binary_of(20);
  const std::string content = *read_file(db());
  const size_t at =
      content.find(std::string(binary.bytes.begin() + 64, binary.bytes.begin() + 128));
  ASSERT_NE(at, std::string::npos);
  overwrite(db(), static_cast<int64_t>(at / 8192 * 8192), std::string(8192, 'Z'));
  ASSERT_FALSE(verify_cache(place(), false)->ok());
  {
    const auto store = open();  // somebody is connected: nothing may move
    EXPECT_FALSE(verify_cache(place(), true).ok());
  }
  const auto repaired = verify_cache(place(), true);
  ASSERT_TRUE(repaired.ok()) << repaired.status().to_string();
  EXPECT_TRUE(repaired->rebuilt);
  EXPECT_TRUE(path_exists(repaired->kept_as));
  const auto clean = verify_cache(place(), false);
  ASSERT_TRUE(clean.ok());
  EXPECT_TRUE(clean->ok()) << (clean->problems.empty() ? "" : clean->problems[0]);
  EXPECT_GE(clean->binaries, 35);
  EXPECT_EQ(list_selections(place())->size(), 2u);
  EXPECT_EQ(selection_history(place())->size(), 2u);
  EXPECT_EQ(open()->measurements(measurement_key()).size(), 2u);
}

TEST_F(MaintainTest, RepairOfAFileThatIsNoDatabaseStartsAnew) {
  fill();
  overwrite(db(), 0, "no database at all");
  EXPECT_EQ(verify_cache(place(), false).status().code(), StatusCode::kDataError);
  const auto repaired = verify_cache(place(), true);
  ASSERT_TRUE(repaired.ok()) << repaired.status().to_string();
  EXPECT_TRUE(repaired->rebuilt);
  EXPECT_TRUE(verify_cache(place(), false)->ok());
}

TEST_F(MaintainTest, RepairLeavesAForeignOrNewerDatabaseAlone) {
  fill();
  sql(db(), "PRAGMA user_version=99; UPDATE meta SET v='99' WHERE k='schema_min_reader'");
  EXPECT_FALSE(verify_cache(place(), true).ok());
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM artifact"), "6");
  sql(db(), "PRAGMA application_id=5");
  EXPECT_FALSE(verify_cache(place(), true).ok());
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM artifact"), "6");
}

TEST_F(MaintainTest, ClearRemovesTheFileOrItsRows) {
  fill();
  {
    const auto store = open();
    const auto report = clear_cache(place());
    ASSERT_TRUE(report.ok());
    EXPECT_FALSE(report->removed);
    EXPECT_GT(report->bytes, 0);
    EXPECT_TRUE(path_exists(db()));
    EXPECT_FALSE(store->find_binary(key_of(0)).has_value());
    EXPECT_EQ(sql(db(), "SELECT n FROM total"), "0");
    EXPECT_EQ(store->degraded(), "");
  }
  fill();
  const auto report = clear_cache(place());
  ASSERT_TRUE(report.ok());
  EXPECT_TRUE(report->removed);
  EXPECT_FALSE(path_exists(db()));
  EXPECT_EQ(open()->degraded(), "");
}

TEST_F(MaintainTest, GcDropsTheLeastRecentlyUsedAndKeepsTheSelected) {
  fill();
  for (int n = 0; n < 6; ++n) {
    sql(db(), "UPDATE artifact SET last_used_at = " + std::to_string(1000 + n) +
                  " WHERE schedule = '{\"n\":" + std::to_string(n) + "}'");
  }
  GcOptions options;
  options.max_bytes = 15000;
  options.dry_run = true;
  const auto planned = gc_cache(place(), options);
  ASSERT_TRUE(planned.ok());
  EXPECT_EQ(planned->binaries, 3);
  EXPECT_EQ(cache_stats(place())->binaries, 6);
  options.dry_run = false;
  const auto done = gc_cache(place(), options);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(done->binaries, 3);
  EXPECT_EQ(done->bytes, 15000);
  EXPECT_EQ(done->kept_bytes, 15000);
  EXPECT_GT(done->returned_bytes, 0);
  const auto store = open();
  EXPECT_FALSE(store->find_binary(key_of(0)).has_value());
  EXPECT_TRUE(store->find_binary(key_of(1)).has_value());  // older than 2 and 3, but selected
  EXPECT_FALSE(store->find_binary(key_of(2)).has_value());
  EXPECT_FALSE(store->find_binary(key_of(3)).has_value());
  EXPECT_TRUE(store->find_binary(key_of(5)).has_value());
  EXPECT_EQ(store->measurements(measurement_key()).size(), 2u);  // what was measured stays known
}

TEST_F(MaintainTest, GcByAgeLosersAndOrphans) {
  fill();
  GcOptions options;
  options.losers = true;
  EXPECT_EQ(gc_cache(place(), options)->binaries, 1);  // key 2: measured, not selected
  options.losers = false;
  options.unused_days = 30;
  EXPECT_EQ(gc_cache(place(), options)->binaries, 0);
  sql(db(), "UPDATE artifact SET last_used_at = 1000");
  EXPECT_EQ(gc_cache(place(), options)->binaries, 4);
  EXPECT_EQ(cache_stats(place())->binaries, 1);
  sql(db(), "PRAGMA foreign_keys=OFF; DELETE FROM artifact");
  EXPECT_EQ(gc_cache(place(), {})->binaries, 1);
}

TEST_F(MaintainTest, GcKeepsFiftyDecisionsOfAKey) {
  {
    const auto store = open();
    for (int n = 0; n < 60; ++n)
      store->select(selection_of(8, "{\"n\":" + std::to_string(n) + "}"));
  }
  EXPECT_EQ(selection_history(place())->size(), 60u);
  EXPECT_EQ(gc_cache(place(), {})->history, 10);
  const auto history = selection_history(place());
  ASSERT_EQ(history->size(), 50u);
  EXPECT_EQ(history->front().selection.schedule, "{\"n\":59}");
}

}  // namespace
}  // namespace moejit::internal
