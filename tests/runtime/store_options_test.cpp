#include "runtime/store_options.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "backends/backend.h"

namespace moejit::internal {
namespace {

TEST(StoreOptions, FollowTheSettings) {
  Settings s;
  s.cache_dir = "/c";
  s.cache_path = {"/a", "/b"};
  s.cache_size = 123;
  s.cache_allow_shared = s.cache_allow_network = true;
  StoreOptions o = store_options(s, "");
  EXPECT_EQ(o.directory, "/c");
  EXPECT_EQ(o.mode, StoreMode::kReadWrite);
  EXPECT_EQ(o.read_only, s.cache_path);
  EXPECT_EQ(o.max_bytes, 123);
  EXPECT_TRUE(o.allow_shared && o.allow_network);
  EXPECT_EQ(store_options(s, "/mine").directory, "/mine");
  s.cache = CacheMode::kReadOnly;
  EXPECT_EQ(store_options(s, "").mode, StoreMode::kReadOnly);
  s.cache = CacheMode::kOff;
  o = store_options(s, "/mine");
  EXPECT_EQ(o.mode, StoreMode::kMemory);
  EXPECT_TRUE(o.read_only.empty());
}

TEST(StoreOptions, LiveInMemoryWithoutAnyDirectory) {
  Settings s;
  s.cache_dir_reason = "HOME is unset";
  EXPECT_EQ(store_options(s, "").mode, StoreMode::kMemory);
  EXPECT_EQ(store_options(s, "/mine").mode, StoreMode::kReadWrite);
}

TEST(DeviceSettingDeathTest, ReplacesAuto) {
  // Run again from the start of the program, where nobody has read the settings yet.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        setenv("MOEJIT_DEVICE", "abacus:1", 1);
        const Status status = open_device("auto").status();
        std::fprintf(stderr, "%s\n", status.message().c_str());
        std::exit(status.code() == StatusCode::kNotFound ? 3 : 4);
      },
      testing::ExitedWithCode(3), "device = \"abacus:1\"");
}

}  // namespace
}  // namespace moejit::internal
