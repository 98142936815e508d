// What the store promises while nothing is wrong.
#include <sys/stat.h>

#include <atomic>
#include <limits>
#include <thread>

#include "base/fs.h"
#include "fixture.h"

namespace moejit::internal {
namespace {

using StoreTest = CacheTest;

Result<StoredBinary> must_not_compile() {
  ADD_FAILURE() << "compiled";
  return Status(StatusCode::kInternal, "compiled");
}

void put(Store& store, int n, size_t size = 5000) {
  const auto result = store.find_or_compile(
      key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n, size); });
  ASSERT_TRUE(result.ok());
}

TEST_F(StoreTest, KeepsEveryFieldOfABinaryAcrossOpens) {
  StoredBinary written = binary_of(3);
  written.spill_bytes = 16;
  written.shared_bytes = 49152;
  {
    const auto store = open();
    EXPECT_EQ(store->degraded(), "");
    EXPECT_EQ(store->path(), db());
    EXPECT_FALSE(store->find_binary(key_of(3)).has_value());
    const auto result =
        store->find_or_compile(key_of(3), [&]() -> Result<StoredBinary> { return written; });
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->bytes, written.bytes);
    EXPECT_EQ(counter(*store, "compile"), 1);
  }
  const auto store = open();
  const auto found = store->find_binary(key_of(3));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->backend, written.backend);
  EXPECT_EQ(found->arch, written.arch);
  EXPECT_EQ(found->format, written.format);
  EXPECT_EQ(found->toolchain, written.toolchain);
  EXPECT_EQ(found->schedule, written.schedule);
  EXPECT_EQ(found->config, written.config);
  EXPECT_EQ(found->compiler_log, written.compiler_log);
  EXPECT_EQ(found->registers, 3);
  EXPECT_EQ(found->spill_bytes, 16);
  EXPECT_EQ(found->shared_bytes, 49152);
  EXPECT_EQ(found->compile_ms, 12.5);
  EXPECT_EQ(found->bytes, written.bytes);
  EXPECT_EQ(counter(*store, "hit_user"), 1);
  EXPECT_TRUE(store->find_binary(key_of(3)).has_value());
  EXPECT_EQ(counter(*store, "hit_user"), 1);  // the second look-up asked no file
  EXPECT_EQ(counter(*store, "hit_memory"), 1);
  EXPECT_EQ(warnings(), 0);
}

TEST_F(StoreTest, DirectoryAndFileArePrivate) {
  const auto store = open();
  struct stat st;
  ASSERT_EQ(::stat(directory_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
  ASSERT_EQ(::stat(db().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(StoreTest, AnotherToolchainIsAnotherBinary) {
  const auto store = open();
  put(*store, 1);
  EXPECT_FALSE(store->find_binary(key_of(1, "clang 20")).has_value());
}

TEST_F(StoreTest, EmptyToolchainFindsTheNewest) {
  {
    const auto store = open();
    for (const char* toolchain : {"old", "new"}) {
      StoredBinary b = binary_of(toolchain[0] == 'o' ? 10 : 11);
      b.toolchain = toolchain;
      ASSERT_TRUE(
          store->find_or_compile(key_of(1, toolchain), [&]() -> Result<StoredBinary> { return b; })
              .ok());
    }
    ASSERT_TRUE(store->find_binary(key_of(1, "")).has_value());
    EXPECT_EQ(store->find_binary(key_of(1, ""))->toolchain, "new");
  }
  const auto store = open();
  const auto found = store->find_binary(key_of(1, ""));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->toolchain, "new");
  EXPECT_EQ(found->bytes, binary_of(11).bytes);
  EXPECT_EQ(store->find_binary(key_of(1, "old"))->bytes, binary_of(10).bytes);
}

TEST_F(StoreTest, CompileFailureReachesTheCallerAndIsNotKept) {
  const auto store = open();
  const auto failed = store->find_or_compile(key_of(1), []() -> Result<StoredBinary> {
    return Status(StatusCode::kCompileError, "no such builtin", "line 3");
  });
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.status().code(), StatusCode::kCompileError);
  EXPECT_EQ(failed.status().log(), "line 3");
  put(*store, 1);
  const auto found = store->find_or_compile(key_of(1), must_not_compile);
  EXPECT_TRUE(found.ok());
}

TEST_F(StoreTest, CompileThatThrowsOrReturnsNothingIsAFailure) {
  const auto store = open();
  const auto threw = store->find_or_compile(
      key_of(1), []() -> Result<StoredBinary> { throw std::runtime_error("boom"); });
  ASSERT_FALSE(threw.ok());
  EXPECT_NE(threw.status().message().find("boom"), std::string::npos);
  const auto empty =
      store->find_or_compile(key_of(1), []() -> Result<StoredBinary> { return StoredBinary{}; });
  EXPECT_FALSE(empty.ok());
  EXPECT_FALSE(store->find_binary(key_of(1)).has_value());
}

TEST_F(StoreTest, EqualBytesAreStoredOnce) {
  const auto store = open();
  for (int n = 0; n < 3; ++n) {
    ASSERT_TRUE(
        store->find_or_compile(key_of(n), []() -> Result<StoredBinary> { return binary_of(7); })
            .ok());
  }
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM blob"), "1");
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM artifact"), "3");
  EXPECT_EQ(sql(db(), "SELECT n FROM total WHERE k='blob_bytes'"), "5000");
}

TEST_F(StoreTest, ThreadsCompileAKeyOnce) {
  const auto store = open();
  std::atomic<int> compiled{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int n = 0; n < 10; ++n) {
        const auto result = store->find_or_compile(key_of(n), [&]() -> Result<StoredBinary> {
          ++compiled;
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
          return binary_of(n);
        });
        ASSERT_TRUE(result.ok());
        EXPECT_EQ(result->bytes, binary_of(n).bytes);
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(compiled, 10);
}

TEST_F(StoreTest, ThreadsMayDoEverythingAtOnce) {
  StoreOptions o = options();
  o.max_bytes = 60000;  // evicting all the while
  const auto store = Store::open(o);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 60; ++i) {
        const int n = (i * 7 + t) % 40;
        const auto result = store->find_or_compile(
            key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n); });
        ASSERT_TRUE(result.ok());
        ASSERT_EQ(result->bytes, binary_of(n).bytes);
        store->record(measurement_of("{\"n\":" + std::to_string(n) + "}", 1e-6 * (n + 1)));
        store->select(selection_of(n, "{\"n\":" + std::to_string(n) + "}"));
        ASSERT_TRUE(store->find_selection(measurement_key(n), "generator-1").has_value());
        store->set_limits("{\"cpu\":" + std::to_string(n) + "}", {"{}", n});
        store->measurements(measurement_key());
        store->counters();
        ASSERT_EQ(store->degraded(), "");
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(warnings(), 0);
  EXPECT_EQ(store->measurements(measurement_key()).size(), 40u);
}

TEST_F(StoreTest, WaitingThreadsGetTheFailure) {
  const auto store = open();
  std::atomic<int> compiled{0}, failed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      const auto result = store->find_or_compile(key_of(1), [&]() -> Result<StoredBinary> {
        ++compiled;
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        return Status(StatusCode::kCompileError, "no");
      });
      failed += !result.ok() && result.status().code() == StatusCode::kCompileError;
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(failed, 4);
  EXPECT_LE(compiled, 4);
}

TEST_F(StoreTest, CompileMayAskForOtherKeysAndForItsOwn) {
  const auto store = open();
  ArtifactKey other = key_of(2);
  other.source[0] = key_of(1).source[0];
  const auto result = store->find_or_compile(key_of(1), [&]() -> Result<StoredBinary> {
    const auto inner =
        store->find_or_compile(other, []() -> Result<StoredBinary> { return binary_of(2); });
    EXPECT_TRUE(inner.ok());
    const auto own =
        store->find_or_compile(key_of(1), []() -> Result<StoredBinary> { return binary_of(1); });
    EXPECT_TRUE(own.ok());
    return binary_of(1);
  });
  EXPECT_TRUE(result.ok());
}

TEST_F(StoreTest, KeepsMeasurementsBestFirst) {
  {
    const auto store = open();
    store->record(measurement_of("{\"a\":1}", 3e-5));
    store->record(measurement_of("{\"a\":2}", 1e-5));
    Measurement failed = measurement_of("{\"a\":3}", 0);
    failed.status = "wrong";
    store->record(failed);
    Measurement again = measurement_of("{\"a\":1}", 2e-5);  // the same trial, measured again
    store->record(again);
  }
  const auto store = open();
  const auto found = store->measurements(measurement_key());
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].schedule, "{\"a\":2}");
  EXPECT_EQ(found[1].schedule, "{\"a\":1}");
  EXPECT_EQ(found[1].median_s, 2e-5);
  EXPECT_EQ(found[2].status, "wrong");
  const Measurement expected = measurement_of("{\"a\":2}", 1e-5);
  EXPECT_EQ(found[0].key.problem, expected.key.problem);
  EXPECT_EQ(found[0].session, expected.session);
  EXPECT_EQ(found[0].source, expected.source);
  EXPECT_EQ(found[0].toolchain, expected.toolchain);
  EXPECT_EQ(found[0].stage, "final");
  EXPECT_EQ(found[0].p20_s, expected.p20_s);
  EXPECT_EQ(found[0].p80_s, expected.p80_s);
  EXPECT_EQ(found[0].samples, 30);
  EXPECT_EQ(found[0].predicted_s, expected.predicted_s);
  EXPECT_EQ(found[0].floor_s, expected.floor_s);
  EXPECT_EQ(found[0].error, expected.error);
  EXPECT_EQ(found[0].note, "noted");
  EXPECT_TRUE(store->measurements(measurement_key(9)).empty());
  EXPECT_TRUE(store->measurements(measurement_key(8, "{\"cpu\":2}")).empty());
}

TEST_F(StoreTest, MeasurementOfAnotherSessionIsAnotherRowAndNewestFirstAmongEquals) {
  const auto store = open();
  Measurement m = measurement_of("{\"a\":1}", 1e-5);
  store->record(m);
  m.session = "another";
  store->record(m);
  const auto found = store->measurements(m.key);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].session, "another");
}

TEST_F(StoreTest, KeepsSelections) {
  {
    const auto store = open();
    store->select(selection_of(8, "{\"b\":8}"));
    store->select(selection_of(1, "{\"b\":1}"));
    store->select(selection_of(64, "{\"b\":64}"));
    store->select(selection_of(8, "{\"b\":9}"));
  }
  const auto store = open();
  const auto one = store->find_selection(measurement_key(8), "generator-1");
  ASSERT_TRUE(one.has_value());
  EXPECT_EQ(one->schedule, "{\"b\":9}");
  EXPECT_EQ(one->how, "tuned");
  EXPECT_EQ(one->median_s, 1e-5);
  EXPECT_EQ(one->predicted_s, 0.9e-5);
  EXPECT_EQ(one->floor_s, 0.8e-5);
  EXPECT_EQ(one->error, 1e-4);
  EXPECT_EQ(one->versus_default, 1.25);
  EXPECT_EQ(one->candidates, 16);
  EXPECT_EQ(one->note, "a note");
  EXPECT_EQ(one->source, key_of(1).source);
  EXPECT_EQ(one->toolchain, key_of(1).toolchain);
  EXPECT_GT(one->decided_at, 1600000000);
  EXPECT_FALSE(store->find_selection(measurement_key(8), "generator-2").has_value());
  EXPECT_FALSE(store->find_selection(measurement_key(7), "generator-1").has_value());
  const MeasurementKey k = measurement_key();
  const auto all = store->selections(k.problem, k.environment, k.policy, "generator-1");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].key.tokens, 1);
  EXPECT_EQ(all[1].key.tokens, 8);
  EXPECT_EQ(all[2].key.tokens, 64);
  EXPECT_TRUE(store->selections("{}", k.environment, k.policy, "generator-1").empty());
}

TEST_F(StoreTest, APinnedSelectionYieldsOnlyToAPinnedOne) {
  for (const StoreMode mode : {StoreMode::kReadWrite, StoreMode::kMemory}) {
    StoreOptions o = options();
    o.mode = mode;
    const auto store = Store::open(o);
    Selection pinned = selection_of(8, "{\"pinned\":1}");
    pinned.how = "pinned";
    store->select(pinned);
    store->select(selection_of(8, "{\"tuned\":1}"));
    EXPECT_EQ(store->find_selection(measurement_key(8), "generator-1")->schedule, "{\"pinned\":1}");
    pinned.schedule = "{\"pinned\":2}";
    store->select(pinned);
    EXPECT_EQ(store->find_selection(measurement_key(8), "generator-1")->schedule, "{\"pinned\":2}");
  }
}

TEST_F(StoreTest, ADriverUpgradeDropsNoBinaryAndACompilerChangeNoMeasurement) {
  const auto store = open();
  put(*store, 1);
  store->record(measurement_of("{\"a\":1}", 1e-5));
  store->select(selection_of(8, "{\"a\":1}"));
  // Another driver is another environment: its selections are made anew, with these as seeds.
  const MeasurementKey upgraded = measurement_key(8, "{\"cpu\":1,\"driver\":2}");
  EXPECT_FALSE(store->find_selection(upgraded, "generator-1").has_value());
  EXPECT_EQ(store->selections_elsewhere(upgraded, "generator-1").size(), 1u);
  EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
  // Another compiler is another binary; what was measured and chosen still holds.
  EXPECT_FALSE(store->find_binary(key_of(1, "clang 20 efgh")).has_value());
  EXPECT_EQ(store->measurements(measurement_key()).size(), 1u);
  EXPECT_EQ(store->find_selection(measurement_key(8), "generator-1")->toolchain,
            key_of(1).toolchain);
}

TEST_F(StoreTest, SelectionsElsewhereAreThoseOfOtherEnvironments) {
  const auto store = open();
  store->select(selection_of(8, "{\"here\":1}"));
  Selection there = selection_of(8, "{\"there\":1}");
  there.key.environment = "{\"cpu\":2}";
  store->select(there);
  there.key.tokens = 16;
  store->select(there);
  const auto found = store->selections_elsewhere(measurement_key(8), "generator-1");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].schedule, "{\"there\":1}");
  EXPECT_EQ(found[0].key.environment, "{\"cpu\":2}");
}

TEST_F(StoreTest, KeepsLimits) {
  {
    const auto store = open();
    EXPECT_FALSE(store->limits("{\"cpu\":1}").has_value());
    store->set_limits("{\"cpu\":1}", {"{\"bw\":1}", 5});
    store->set_limits("{\"cpu\":1}", {"{\"bw\":2}", 6});
  }
  const auto store = open();
  const auto found = store->limits("{\"cpu\":1}");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->json, "{\"bw\":2}");
  EXPECT_EQ(found->measured_at, 6);
  EXPECT_FALSE(store->limits("{\"cpu\":2}").has_value());
}

TEST_F(StoreTest, TextWithQuotesNulAndManyBytesIsOnlyText) {
  const auto store = open();
  Selection s = selection_of(8, "'); DROP TABLE selection; --");
  s.note = std::string("a\0b\"'", 5) + std::string(100000, 'x');
  s.key.environment = "'; DELETE FROM env; --";
  store->select(s);
  const auto found = store->find_selection(s.key, s.generator);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->schedule, s.schedule);
  EXPECT_EQ(found->note, s.note);
}

TEST_F(StoreTest, NotANumberIsStoredAsZero) {
  for (const StoreMode mode : {StoreMode::kReadWrite, StoreMode::kMemory}) {
    StoreOptions o = options();
    o.mode = mode;
    const auto store = Store::open(o);
    Measurement m = measurement_of("{}", 1e-5);
    m.error = m.median_s = std::numeric_limits<double>::quiet_NaN();
    store->record(m);
    ASSERT_EQ(store->measurements(m.key).size(), 1u);
    EXPECT_EQ(store->measurements(m.key)[0].error, 0);
    EXPECT_EQ(store->measurements(m.key)[0].median_s, 0);
  }
}

TEST_F(StoreTest, TwoStoresOfOneProcessShareADirectory) {
  const auto a = open();
  const auto b = open();
  put(*a, 1);
  EXPECT_TRUE(b->find_or_compile(key_of(1), must_not_compile).ok());
  b->select(selection_of(8, "{\"b\":1}"));
  EXPECT_TRUE(a->find_selection(measurement_key(8), "generator-1").has_value());
  EXPECT_EQ(warnings(), 0);
}

TEST_F(StoreTest, MemoryModeKeepsEverythingForTheProcessAndTouchesNoFile) {
  StoreOptions o = options();
  o.mode = StoreMode::kMemory;
  const auto store = Store::open(o);
  EXPECT_NE(store->degraded(), "");
  EXPECT_EQ(store->path(), "");
  put(*store, 1);
  EXPECT_TRUE(store->find_or_compile(key_of(1), must_not_compile).ok());
  EXPECT_TRUE(store->find_binary(key_of(1, "")).has_value());
  store->record(measurement_of("{}", 1e-5));
  EXPECT_EQ(store->measurements(measurement_key()).size(), 1u);
  store->select(selection_of(8, "{\"b\":1}"));
  EXPECT_TRUE(store->find_selection(measurement_key(8), "generator-1").has_value());
  store->set_limits("{}", {"{\"bw\":1}", 5});
  EXPECT_TRUE(store->limits("{}").has_value());
  EXPECT_FALSE(path_exists(directory_));
}

TEST_F(StoreTest, NoDirectoryMeansMemory) {
  StoreOptions o;
  const auto store = Store::open(o);
  EXPECT_NE(store->degraded(), "");
  put(*store, 1);
  EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
}

TEST_F(StoreTest, OldBinariesLeaveMemoryAndThenTheDatabase) {
  StoreOptions o = options();
  o.max_bytes = 100000;
  const auto store = Store::open(o);
  store->select(selection_of(8, "{}"));  // names key 1
  for (int n = 1; n <= 30; ++n) put(*store, n, 10000);
  EXPECT_LE(std::stoll(sql(db(), "SELECT sum(raw_size) FROM blob")), 100000);
  EXPECT_EQ(sql(db(), "SELECT n FROM total"), sql(db(), "SELECT sum(raw_size) FROM blob"));
  EXPECT_GT(counter(*store, "evict"), 0);
  const auto fresh = open();
  EXPECT_TRUE(fresh->find_binary(key_of(1)).has_value());  // selected, hence kept
  EXPECT_FALSE(fresh->find_binary(key_of(2)).has_value());
  EXPECT_TRUE(fresh->find_binary(key_of(30)).has_value());
}

TEST_F(StoreTest, ALookUpAfterAnHourRenewsTheTimeStamp) {
  put(*open(), 1);
  sql(db(), "UPDATE artifact SET last_used_at = 1000");
  { EXPECT_TRUE(open()->find_binary(key_of(1)).has_value()); }
  EXPECT_GT(std::stoll(sql(db(), "SELECT last_used_at FROM artifact")), 1600000000);
}

TEST_F(StoreTest, AnyCompilerThatWasAskedForIsKeptUnderItsName) {
  const auto store = open();
  StoredBinary b = binary_of(3);
  ASSERT_TRUE(
      store->find_or_compile(key_of(3, ""), [&]() -> Result<StoredBinary> { return b; }).ok());
  EXPECT_TRUE(store->find_binary(key_of(3, b.toolchain)).has_value());
  EXPECT_TRUE(store->find_binary(key_of(3, "")).has_value());
  EXPECT_EQ(sql(db(), "SELECT t.name FROM artifact a JOIN toolchain t USING (tc_id)"), b.toolchain);
}

TEST_F(StoreTest, PoliciesOfAKeyAreThoseItWasMeasuredUnder) {
  StoreOptions memory;
  memory.mode = StoreMode::kMemory;
  for (const auto& store : {open(), Store::open(memory)}) {
    for (const char* policy : {"{\"routing\":\"zipf:1.2\"}", "{\"routing\":\"uniform\"}"}) {
      Measurement m = measurement_of("{\"a\":1}", 1e-5);
      m.key.policy = policy;
      store->record(m);
    }
    const auto found = store->policies(measurement_key());
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0], "{\"routing\":\"uniform\"}");
    EXPECT_TRUE(store->policies(measurement_key(9)).empty());
    MeasurementKey key = measurement_key();
    key.policy = found[0];
    EXPECT_GT(store->measurements(key)[0].at, 1600000000);
  }
}

TEST_F(StoreTest, SelectionsElsewhereOfEveryTokenCount) {
  StoreOptions memory;
  memory.mode = StoreMode::kMemory;
  for (const auto& store : {open(), Store::open(memory)}) {
    for (const int64_t tokens : {1, 8}) {
      Selection s = selection_of(tokens, "{\"x\":1}");
      s.key.environment = "{\"other\":1}";
      store->select(s);
    }
    MeasurementKey key = selection_of(8, "").key;
    const std::string generator = selection_of(8, "").generator;
    EXPECT_EQ(store->selections_elsewhere(key, generator).size(), 1u);
    key.tokens = 0;
    EXPECT_EQ(store->selections_elsewhere(key, generator).size(), 2u);
  }
}

}  // namespace
}  // namespace moejit::internal
