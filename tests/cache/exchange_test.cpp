// Packs: made, used in place as a layer, merged, compared.
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "base/fs.h"
#include "cache/inspect.h"
#include "fixture.h"

namespace moejit::internal {
namespace {

class ExchangeTest : public CacheTest {
 protected:
  void SetUp() override { pack_ = join_path(root_, "ship.moepack"); }

  // Keys 0..5 for the CPU, key 1 selected; key 100 is GPU code, selected for T = 64.
  void fill() {
    const auto store = open();
    for (int n = 0; n < 6; ++n) put(*store, n);
    StoredBinary gpu = binary_of(100);
    gpu.backend = "cuda";
    gpu.arch = "sm_90a";
    gpu.format = "cubin";
    ASSERT_TRUE(
        store->find_or_compile(key_of(100), [&]() -> Result<StoredBinary> { return gpu; }).ok());
    store->select(selection_of(8, "{\"n\":1}"));
    Selection s = selection_of(64, "{\"gpu\":1}");
    s.source = key_of(100).source;
    s.key.environment = "{\"gpu\":1}";
    store->select(s);
    store->record(measurement_of("{\"n\":1}", 1e-5));
    store->set_limits("{\"cpu\":1}", {"{\"bw\":1}", 5});
  }
  void put(Store& store, int n) {
    ASSERT_TRUE(
        store.find_or_compile(key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n); })
            .ok());
  }
  CachePlace place() const { return {directory_}; }
  CachePlace other() const { return {join_path(root_, "other")}; }
  std::shared_ptr<Store> open_other() const {
    StoreOptions o;
    o.directory = other().where;
    return Store::open(o);
  }
  std::shared_ptr<Store> with_layer(const std::string& path) const {
    StoreOptions o;
    o.directory = other().where;
    o.read_only = {path};
    return Store::open(o);
  }
  std::string pack_;
};

TEST_F(ExchangeTest, PackHoldsTheSelectedAndIsTheSameEveryTime) {
  fill();
  const auto report = pack_cache(place(), pack_);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->binaries, 2);
  EXPECT_EQ(report->selections, 2);
  EXPECT_EQ(report->measurements, 0);
  EXPECT_EQ(report->bytes, file_size(pack_));
  struct stat st;
  ASSERT_EQ(::stat(pack_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0444u);
  EXPECT_EQ(list_artifacts({pack_})->size(), 2u);
  EXPECT_EQ(list_selections({pack_})->size(), 2u);
  EXPECT_TRUE(verify_cache({pack_}, false)->ok());
  const auto again = pack_cache(place(), pack_ + "2");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->sha256, report->sha256);
  EXPECT_EQ(*read_file(pack_), *read_file(pack_ + "2"));
  EXPECT_EQ(read_file(pack_)->find(root_), std::string::npos);          // names no path
  EXPECT_EQ(read_file(pack_)->find("no warnings"), std::string::npos);  // nor a compiler's words
}

TEST_F(ExchangeTest, WhatAKilledPackLeftGoesAfterAnHour) {
  fill();
  const std::string old = pack_ + ".unfinished-1", fresh = pack_ + ".unfinished-2";
  std::ofstream(old) << "x";
  std::ofstream(fresh) << "x";
  const auto long_ago = std::filesystem::file_time_type::clock::now() - std::chrono::hours(2);
  std::filesystem::last_write_time(old, long_ago);
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  EXPECT_FALSE(path_exists(old));
  EXPECT_TRUE(path_exists(fresh));  // may be another process's, at work
}

TEST_F(ExchangeTest, PackOptionsChoose) {
  fill();
  PackOptions options;
  options.losers = true;
  options.measurements = true;
  auto report = pack_cache(place(), pack_, options);
  EXPECT_EQ(report->binaries, 7);
  EXPECT_EQ(report->measurements, 1);
  options = {};
  options.arch = "sm_90a";
  report = pack_cache(place(), pack_, options);
  EXPECT_EQ(report->binaries, 1);
  EXPECT_EQ(report->selections, 1);
  options = {};
  options.binaries = false;
  report = pack_cache(place(), pack_, options);
  EXPECT_EQ(report->binaries, 0);
  EXPECT_EQ(report->selections, 2);
  EXPECT_EQ(pack_cache(other(), pack_).status().code(), StatusCode::kNotFound);
  EXPECT_FALSE(pack_cache(place(), "/proc/moejit.pack").ok());
}

TEST_F(ExchangeTest, PackServesAsALayerAlsoFromAReadOnlyPlace) {
  fill();
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  const auto store = with_layer(pack_);
  EXPECT_EQ(store->degraded(), "");
  const auto found = store->find_binary(key_of(1));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->bytes, binary_of(1).bytes);
  EXPECT_EQ(counter(*store, "hit_read_only"), 1);
  EXPECT_TRUE(store->find_binary(key_of(1, "")).has_value());
  EXPECT_EQ(store->find_selection(measurement_key(8), "generator-1")->schedule, "{\"n\":1}");
  EXPECT_TRUE(store->limits("{\"cpu\":1}").has_value());
  // The user's own choice comes first.
  store->select(selection_of(8, "{\"own\":1}"));
  EXPECT_EQ(store->find_selection(measurement_key(8), "generator-1")->schedule, "{\"own\":1}");
  const MeasurementKey k = measurement_key();
  const auto all = store->selections(k.problem, k.environment, k.policy, "generator-1");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].schedule, "{\"own\":1}");
  EXPECT_FALSE(path_exists(pack_ + "-wal"));
  EXPECT_EQ(warnings(), 0);
}

TEST_F(ExchangeTest, LayersAreAskedInOrderAndBadOnesAreLeftOut) {
  fill();
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  const std::string broken = join_path(root_, "broken");
  ASSERT_TRUE(write_file(broken, std::string(10000, 'Z')).ok());
  const std::string writable = join_path(root_, "writable");
  ASSERT_TRUE(write_file(writable, *read_file(pack_)).ok());
  ASSERT_EQ(::chmod(writable.c_str(), 0666), 0);
  StoreOptions o;
  o.directory = other().where;
  o.read_only = {join_path(root_, "absent"), broken, writable, pack_};
  const auto store = Store::open(o);
  EXPECT_EQ(warnings(), 3);
  EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
}

TEST_F(ExchangeTest, DamagedBinaryOfALayerIsAMiss) {
  fill();
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  const StoredBinary binary = binary_of(1);
  const std::string content = *read_file(pack_);
  const std::string part(binary.bytes.begin() + 99, binary.bytes.begin() + 140);
  size_t at = content.find(part);
  ASSERT_NE(at, std::string::npos);
  // A page that was used before may hold a stale copy as well.
  for (; at != std::string::npos; at = content.find(part, at + 1)) {
    overwrite(pack_, static_cast<int64_t>(at), std::string(1, static_cast<char>(content[at] ^ 1)));
  }
  const auto store = with_layer(pack_);
  EXPECT_FALSE(store->find_binary(key_of(1)).has_value());
  EXPECT_EQ(counter(*store, "bad_hash"), 1);
  EXPECT_TRUE(store->find_binary(key_of(100)).has_value());
  MergeOptions options;
  options.cpu_code = true;
  const auto merged = merge_cache(other(), {pack_}, options);
  ASSERT_TRUE(merged.ok());
  EXPECT_EQ(merged->binaries_damaged, 1);
  EXPECT_EQ(merged->binaries, 1);
}

TEST_F(ExchangeTest, LiveDatabaseIsNoLayer) {
  fill();
  const auto store = open();
  store->select(selection_of(9, "{}"));
  with_layer(db());
  EXPECT_EQ(warnings(), 1);
}

TEST_F(ExchangeTest, DirectoryServesAsALayer) {
  fill();
  EXPECT_TRUE(with_layer(directory_)->find_binary(key_of(1)).has_value());
}

TEST_F(ExchangeTest, MergeTakesGpuCodeAndHostCodeOnlyWhenVouchedFor) {
  fill();
  const auto pack = pack_cache(place(), pack_);
  MergeOptions options;
  options.dry_run = true;
  open_other();
  auto report = merge_cache(other(), {pack_}, options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->binaries, 1);
  EXPECT_EQ(cache_stats(other())->binaries, 0);
  options.dry_run = false;
  report = merge_cache(other(), {pack_}, options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(report->binaries, 1);
  EXPECT_EQ(report->binaries_refused, 1);
  EXPECT_EQ(report->selections, 2);
  EXPECT_EQ(report->environments, 2);
  EXPECT_TRUE(open_other()->find_binary(key_of(100)).has_value());
  EXPECT_FALSE(open_other()->find_binary(key_of(1)).has_value());
  const auto selection = open_other()->find_selection(measurement_key(8), "generator-1");
  ASSERT_TRUE(selection.has_value());
  EXPECT_EQ(selection->how, "imported");
  EXPECT_TRUE(open_other()->limits("{\"cpu\":1}").has_value());
  options.sha256 = pack->sha256;
  report = merge_cache(other(), {pack_}, options);
  EXPECT_EQ(report->binaries, 1);
  EXPECT_EQ(report->binaries_known, 1);
  EXPECT_EQ(report->selections_kept, 2);
  EXPECT_TRUE(open_other()->find_binary(key_of(1)).has_value());
  options.sha256[0] = options.sha256[0] == '0' ? '1' : '0';
  EXPECT_EQ(merge_cache(other(), {pack_}, options).status().code(),
            StatusCode::kVerificationFailed);
}

TEST_F(ExchangeTest, MergeIntoNothingMakesACache) {
  fill();
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  ASSERT_TRUE(merge_cache(other(), {pack_}).ok());
  EXPECT_EQ(list_selections(other())->size(), 2u);
}

TEST_F(ExchangeTest, MergeKeepsTheBetterFoundedChoice) {
  struct Case {
    const char* ours;
    double our_time, their_time;
    bool replaced;
  };
  int64_t tokens = 0;
  for (const Case& c : {Case{"tuned", 10e-6, 9e-6, true}, Case{"tuned", 10e-6, 9.9e-6, false},
                        Case{"tuned", 10e-6, 12e-6, false}, Case{"pinned", 10e-6, 1e-6, false},
                        Case{"tuned", 10e-6, 0, false}, Case{"imported", 10e-6, 5e-6, true}}) {
    Selection s = selection_of(++tokens, "{\"ours\":1}");
    s.how = c.ours;
    s.median_s = c.our_time;
    open_other()->select(s);
    s.how = "tuned";
    s.schedule = "{\"theirs\":1}";
    s.median_s = c.their_time;
    open()->select(s);
  }
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  const auto report = merge_cache(other(), {pack_});
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->selections, 2);
  EXPECT_EQ(report->selections_kept, 3);
  EXPECT_EQ(report->selections_damaged, 1);  // the one without a time
  const auto store = open_other();
  for (tokens = 1; tokens <= 6; ++tokens) {
    const bool replaced = tokens == 1 || tokens == 6;
    EXPECT_EQ(store->find_selection(measurement_key(tokens), "generator-1")->schedule,
              replaced ? "{\"theirs\":1}" : "{\"ours\":1}")
        << tokens;
  }
}

TEST_F(ExchangeTest, AChoiceThatNoTuneCanHaveFoundIsNotTaken) {
  open()->select(selection_of(8, "{\"theirs\":1}"));
  const std::string wrong[] = {"median_s = 1e-300", "median_s = 9e999", "median_s = -1",
                               "median_s = NULL", "schedule = 'faster'"};
  for (const std::string& claim : wrong) {
    ASSERT_TRUE(pack_cache(place(), pack_).ok());
    ASSERT_EQ(::chmod(pack_.c_str(), 0600), 0);
    ASSERT_EQ(sql(pack_, "UPDATE selection SET " + claim), "");
    const auto report = merge_cache(other(), {pack_});
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(report->selections, 0) << claim;
    EXPECT_EQ(report->selections_damaged, 1) << claim;
  }
}

// A layer that fits an L1, tuned while others keep the memory busy, is far below its floor.
TEST_F(ExchangeTest, AChoiceFarBelowAFloorThatWasProbedUnderLoadIsTaken) {
  open()->select(selection_of(8, "{\"theirs\":1}"));
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  ASSERT_EQ(::chmod(pack_.c_str(), 0600), 0);
  ASSERT_EQ(sql(pack_, "UPDATE selection SET floor_s = 200 * median_s"), "");
  const auto report = merge_cache(other(), {pack_});
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_EQ(report->selections, 1);
  EXPECT_EQ(report->selections_damaged, 0);
}

TEST_F(ExchangeTest, ShardsMergeIntoWhatOneMachineWouldHave) {
  for (const auto& directory : {std::string("shard0"), std::string("shard1")}) {
    StoreOptions o;
    o.directory = join_path(root_, directory);
    const auto store = Store::open(o);
    for (int n = directory.back() - '0'; n < 10; n += 2) {
      put(*store, n);
      Measurement m = measurement_of("{\"n\":" + std::to_string(n) + "}", 1e-6 * (n + 1));
      m.session = directory;
      store->record(m);
      store->select(selection_of(n + 1, "{\"n\":" + std::to_string(n) + "}"));
    }
  }
  MergeOptions options;
  options.cpu_code = true;
  for (const char* shard : {"shard0", "shard1", "shard0"}) {
    const auto report = merge_cache(place(), {join_path(root_, shard)}, options);
    ASSERT_TRUE(report.ok()) << report.status().to_string();
  }
  const auto stats = cache_stats(place());
  EXPECT_EQ(stats->binaries, 10);
  EXPECT_EQ(stats->measurements, 10);
  EXPECT_EQ(stats->selections, 10);
  EXPECT_TRUE(verify_cache(place(), false)->ok());
}

TEST_F(ExchangeTest, MergeRefusesWhatIsNotAPack) {
  fill();
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  ASSERT_EQ(::chmod(pack_.c_str(), 0644), 0);
  EXPECT_FALSE(merge_cache(other(), {join_path(root_, "absent")}).ok());
  ASSERT_TRUE(write_file(join_path(root_, "text"), "text").ok());
  EXPECT_EQ(merge_cache(other(), {join_path(root_, "text")}).status().code(),
            StatusCode::kDataError);
  // Something that would run when we write.
  sql(pack_, "CREATE TRIGGER evil AFTER INSERT ON blob BEGIN DELETE FROM selection; END");
  EXPECT_EQ(merge_cache(other(), {pack_}).status().code(), StatusCode::kDataError);
  sql(pack_, "DROP TRIGGER evil");
  EXPECT_TRUE(merge_cache(other(), {pack_}).ok());
  sql(pack_, "PRAGMA user_version=99");
  EXPECT_EQ(merge_cache(other(), {pack_}).status().code(), StatusCode::kDataError);
}

TEST_F(ExchangeTest, DiffNamesBothSides) {
  fill();
  ASSERT_TRUE(pack_cache(place(), pack_).ok());
  open()->select(selection_of(8, "{\"n\":4}"));
  open()->select(selection_of(9, "{\"n\":9}"));
  const auto lines = diff_caches(place(), {pack_});
  ASSERT_TRUE(lines.ok());
  int only_first = 0, only_second = 0, different = 0;
  for (const DiffLine& line : *lines) {
    only_first += line.side == '<';
    only_second += line.side == '>';
    different += line.side == '!';
    if (line.side == '!') {
      EXPECT_EQ(line.kind, "selection");
      EXPECT_EQ(line.first, "{\"n\":4}");
      EXPECT_EQ(line.second, "{\"n\":1}");
      EXPECT_EQ(line.what.substr(0, 4), "T=8 ");
    }
  }
  EXPECT_EQ(only_first, 6);  // five losers and T = 9
  EXPECT_EQ(only_second, 0);
  EXPECT_EQ(different, 1);
  EXPECT_TRUE(diff_caches(place(), place())->empty());
}

}  // namespace
}  // namespace moejit::internal
