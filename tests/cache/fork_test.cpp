// fork() with a store open.
#include <unistd.h>

#include <atomic>
#include <thread>

#include "failure.h"

namespace moejit::internal {
namespace {

using ForkTest = FailureTest;

TEST_F(ForkTest, ForkedChildUsesMemoryAndDoesNotDisturbItsParent) {
  fill();
  const auto store = open();
  EXPECT_TRUE(store->find_binary(key_of(1)).has_value());
  const int result = in_child([&]() -> int {
    if (store->degraded().find("forked") == std::string::npos) return 1;
    if (store->find_binary(key_of(2)).has_value()) return 2;
    if (!store->find_or_compile(key_of(2), []() -> Result<StoredBinary> { return binary_of(2); })
             .ok()) {
      return 3;
    }
    if (!store->find_binary(key_of(2)).has_value()) return 4;
    store->select(selection_of(11, "{\"child\":1}"));
    if (!store->find_selection(measurement_key(11), "generator-1").has_value()) return 5;
    const auto second = open();  // another store of the same file is no way around
    return second->degraded().find("forked") != std::string::npos ? 0 : 6;
  });
  EXPECT_EQ(result, 0);
  EXPECT_EQ(store->degraded(), "");
  EXPECT_TRUE(store->find_binary(key_of(3)).has_value());
  store->select(selection_of(12, "{\"parent\":1}"));
  EXPECT_FALSE(store->find_selection(measurement_key(11), "generator-1").has_value());
}

TEST_F(ForkTest, ForkAmidOtherThreadsWorkLeavesTheChildUsable) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "GCC 12's AddressSanitizer keeps the locks of its allocator over a fork";
#endif
  const auto store = open();
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        store->find_binary(key_of(i % 50 + t));
        store->select(selection_of(i % 8, "{\"i\":" + std::to_string(i) + "}"));
        store->record(measurement_of("{\"t\":" + std::to_string(t) + "}", 1e-5));
      }
    });
  }
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(in_child([&]() -> int {
                ::alarm(30);  // a mutex that stays held would hang
                const auto result = store->find_or_compile(
                    key_of(1), []() -> Result<StoredBinary> { return binary_of(1); });
                store->select(selection_of(99, "{}"));
                return result.ok() && store->find_binary(key_of(1)).has_value() ? 0 : 1;
              }),
              0);
  }
  stop = true;
  for (auto& t : threads) t.join();
  EXPECT_EQ(store->degraded(), "");
}

TEST_F(ForkTest, ChildMayOpenWhatItsParentHasClosed) {
  fill();  // opens and closes
  EXPECT_EQ(in_child([&]() -> int {
              const auto store = open();
              return store->degraded().empty() && store->find_binary(key_of(1)).has_value() ? 0 : 1;
            }),
            0);
}

}  // namespace
}  // namespace moejit::internal
