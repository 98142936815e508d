// Compiling side by side: order, cancelling, and that nothing waits for what was never begun.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tuner/compile_pool.h"

namespace moejit::internal {
namespace {

std::vector<Schedule> schedules(size_t count) {
  std::vector<Schedule> list(count);
  for (size_t i = 0; i < count; ++i) list[i].params["i"] = static_cast<int32_t>(i);
  return list;
}

TEST(CompilePool, AnswersEveryScheduleInItsPlace) {
  const Builder build = [](const Schedule& s) -> Result<BuiltKernel> {
    if (s.at("i") == 3) return Status(StatusCode::kCompileError, "three");
    BuiltKernel built;
    built.registers = s.at("i");
    return built;
  };
  CompilePool pool(build, schedules(8), 3, std::nullopt);
  EXPECT_TRUE(pool.wait_all([](size_t) { return true; }));
  for (size_t i = 0; i < 8; ++i) {
    const Result<BuiltKernel>* built = pool.get(i);
    ASSERT_NE(built, nullptr);
    EXPECT_EQ(built->ok(), i != 3);
    if (built->ok()) {
      EXPECT_EQ((**built).registers, static_cast<int>(i));
    }
  }
}

TEST(CompilePool, CancellingEndsAfterWhatIsRunning) {
  std::atomic<int> begun{0};
  const Builder build = [&](const Schedule&) -> Result<BuiltKernel> {
    ++begun;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return BuiltKernel{};
  };
  CompilePool pool(build, schedules(1000), 2, std::nullopt);
  int asked = 0;
  EXPECT_FALSE(pool.wait_all([&](size_t) { return ++asked < 2; }));
  EXPECT_EQ(asked, 2);
  EXPECT_LT(begun, 20) << "the rest of the thousand was not begun";
  EXPECT_EQ(pool.get(999), nullptr);
}

}  // namespace
}  // namespace moejit::internal
