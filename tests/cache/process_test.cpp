// Several processes on one cache, and processes that die.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <thread>

#include "base/file_lock.h"
#include "base/fs.h"
#include "cache/inspect.h"
#include "fixture.h"

namespace moejit::internal {
namespace {

class ProcessTest : public CacheTest {
 protected:
  // How often each key was compiled, from the log of the `cold` workers.
  std::map<std::string, int> compilations(const std::string& path) {
    std::map<std::string, int> count;
    const auto text = read_file(path);
    std::string line;
    for (const char c : text.ok() ? *text : std::string()) {
      if (c == '\n') {
        ++count[line];
        line.clear();
      } else {
        line += c;
      }
    }
    return count;
  }
};

TEST_F(ProcessTest, SixteenProcessesCompileTwentyColdKeysTwentyTimes) {
  const std::string log = join_path(root_, "log");
  std::vector<pid_t> workers;
  for (int i = 0; i < 16; ++i) workers.push_back(start_worker({"cold", directory_, "20", log}));
  for (const pid_t pid : workers) EXPECT_EQ(wait_for(pid), 0);
  const auto count = compilations(log);
  EXPECT_EQ(count.size(), 20u);
  for (const auto& [key, times] : count) EXPECT_EQ(times, 1) << "key " << key;
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM artifact WHERE blob_id IS NOT NULL"), "20");
  EXPECT_EQ(wait_for(start_worker({"check", directory_, "20"})), 0);
}

TEST_F(ProcessTest, ProcessesThatStartTogetherCreateOneDatabase) {
  const int rounds = test_level() >= 2 ? 50 : 8;
  for (int round = 0; round < rounds; ++round) {
    const std::string directory = join_path(root_, "race" + std::to_string(round));
    std::vector<pid_t> workers;
    for (int i = 0; i < 8; ++i) {
      workers.push_back(start_worker({"cold", directory, "1", join_path(root_, "log")}));
    }
    for (const pid_t pid : workers) EXPECT_EQ(wait_for(pid), 0);
    EXPECT_EQ(sql(join_path(directory, "moejit-v1.db"), "SELECT count(*) FROM artifact"), "1");
  }
}

TEST_F(ProcessTest, KilledAtAnyPointTheDatabaseOpensVerifiesAndServes) {
  const int kills = test_level() >= 2 ? 1000 : 40;
  std::mt19937 random(11);
  std::vector<pid_t> workers;
  unsigned seed = 0;
  int64_t binaries = 0;
  for (int killed = 0; killed < kills;) {
    while (workers.size() < 3) {
      workers.push_back(start_worker({"load", directory_, std::to_string(seed++)}));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(1000 + random() % 60000));
    const size_t victim = random() % workers.size();
    ASSERT_EQ(::kill(workers[victim], SIGKILL), 0);
    ASSERT_EQ(wait_for(workers[victim]), 1000 + SIGKILL) << "a worker ended by itself";
    workers.erase(workers.begin() + static_cast<long>(victim));
    ++killed;
    if (killed % 10 != 0) continue;
    // All of them at once, so that nobody recovers for the others.
    for (const pid_t pid : workers) ::kill(pid, SIGKILL);
    for (const pid_t pid : workers) wait_for(pid);
    killed += static_cast<int>(workers.size());
    workers.clear();
    const auto report = verify_cache({directory_}, false);
    ASSERT_TRUE(report.ok()) << report.status().to_string();
    EXPECT_TRUE(report->damaged.empty());
    EXPECT_TRUE(report->problems.empty()) << report->problems.front();
    EXPECT_GE(report->binaries, binaries);  // what was committed stays
    binaries = report->binaries;
    const auto store = open();
    EXPECT_EQ(store->degraded(), "");
    EXPECT_TRUE(store
                    ->find_or_compile(key_of(killed),
                                      [&]() -> Result<StoredBinary> { return binary_of(killed); })
                    .ok());
    ++binaries;
  }
  for (const pid_t pid : workers) ::kill(pid, SIGKILL);
  for (const pid_t pid : workers) wait_for(pid);
  EXPECT_GT(binaries, 20);
  int64_t bad = 0;
  for (const std::string& line : take_log()) bad += line.find("damaged") != std::string::npos;
  EXPECT_EQ(bad, 0);
}

TEST_F(ProcessTest, HungHolderOfAStripeDelaysAndDoesNotBlock) {
  StoreOptions o = options();
  o.lock_wait_s = 0.2;
  const auto store = Store::open(o);
  // The stripe of the key is not known here, so the other process takes all of them.
  ASSERT_TRUE(make_directories(file("locks"), 0700).ok());
  int ready[2], stop[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(stop), 0);
  const pid_t other = ::fork();
  if (other == 0) {
    std::vector<FileLock> held(256);
    char name[4], c = 'y';
    for (int i = 0; i < 256; ++i) {
      std::snprintf(name, sizeof name, "%02x", i);
      if (held[size_t(i)].acquire(file("locks/") + name, LockKind::kExclusive, 1) !=
          FileLock::Outcome::kHeld) {
        ::_exit(1);
      }
    }
    if (::write(ready[1], &c, 1) != 1 || ::read(stop[0], &c, 1) != 1) ::_exit(1);
    ::_exit(0);
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  take_log();
  EXPECT_TRUE(
      store->find_or_compile(key_of(1), []() -> Result<StoredBinary> { return binary_of(1); })
          .ok());
  EXPECT_EQ(counter(*store, "compile"), 1);
  EXPECT_GE(counter(*store, "wait_ms"), 190);
  EXPECT_EQ(warnings(), 1);
  EXPECT_TRUE(open()->find_binary(key_of(1)).has_value());  // and it was kept
  ASSERT_EQ(::write(stop[1], "x", 1), 1);
  EXPECT_EQ(wait_for(other), 0);
  for (const int fd : {ready[0], ready[1], stop[0], stop[1]}) ::close(fd);
}

TEST_F(ProcessTest, LockFilesAreNeverUnlinked) {
  const auto store = open();
  for (int n = 0; n < 20; ++n) {
    ASSERT_TRUE(
        store->find_or_compile(key_of(n), [&]() -> Result<StoredBinary> { return binary_of(n); })
            .ok());
  }
  EXPECT_TRUE(path_exists(file("cache.lock")));
  EXPECT_TRUE(path_exists(file("init.lock")));
  EXPECT_TRUE(is_directory(file("locks")));
}

TEST_F(ProcessTest, OtherProcessesSeeASelectionAtOnce) {
  const auto store = open();
  store->select(selection_of(8, "{\"seen\":1}"));
  store->record(measurement_of("{\"seen\":1}", 1e-5));
  EXPECT_EQ(sql(db(), "SELECT schedule FROM selection"), "{\"seen\":1}");
  EXPECT_EQ(sql(db(), "SELECT count(*) FROM measurement"), "1");
}

}  // namespace
}  // namespace moejit::internal
