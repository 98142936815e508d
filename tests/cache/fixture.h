// What the cache tests share: a fresh directory, captured log lines, sample records, workers.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cache/store.h"

namespace moejit::internal {

class CacheTest : public ::testing::Test {
 protected:
  CacheTest();
  ~CacheTest() override;

  StoreOptions options() const;
  std::shared_ptr<Store> open() const { return Store::open(options()); }
  std::string file(const std::string& name) const;
  std::string db() const { return file("moejit-v1.db"); }

  // Lines since the last call, as "2 cache: ...": the level first. Lines that the library says
  // once per process are told apart by their paths, which differ from test to test.
  std::vector<std::string> take_log();
  int warnings();  // how many of them are warnings or errors

  std::string root_;       // removed at the end
  std::string directory_;  // root_ + "/cache", not created
};

ArtifactKey key_of(int n, const std::string& toolchain = "clang 19.1.7 abcd");
StoredBinary binary_of(int n, size_t size = 5000);
MeasurementKey measurement_key(int64_t tokens = 8, const std::string& environment = "{\"cpu\":1}");
Measurement measurement_of(const std::string& schedule, double median_s);
Selection selection_of(int64_t tokens, const std::string& schedule);

int64_t counter(const Store& store, const std::string& name);
// One value of a query on the file; "" where there is no row. Opens and closes the file.
std::string sql(const std::string& path, const std::string& statement);

// Writes `bytes` at `offset` of a file, with no regard for who has it open.
void overwrite(const std::string& path, int64_t offset, const std::string& bytes);

// Starts the worker program; wait_for returns its exit status, or 1000 + the signal.
pid_t start_worker(const std::vector<std::string>& arguments);
int wait_for(pid_t pid);
// Runs `body` in a forked child and returns what it returned.
int in_child(const std::function<int()>& body);

// 1 unless MOEJIT_TEST_LEVEL says more.
int test_level();

}  // namespace moejit::internal
