// A store whose place or file is not as it should be still has to serve.
#pragma once

#include <filesystem>

#include "fixture.h"

namespace moejit::internal {

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

}  // namespace moejit::internal
