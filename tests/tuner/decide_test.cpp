// The choice among finalists: noise, drift and ties.
#include "tuner/decide.h"

#include <gtest/gtest.h>

#include <map>

#include "tuner/random.h"

namespace moejit::internal {
namespace {

Finalist steady(const std::string& name, double seconds) {
  return {std::vector<double>(9, seconds), false, false, name};
}

TEST(Decide, TheFastestWinsWhenItIsClearlyFaster) {
  EXPECT_EQ(choose_winner({steady("a", 1.0), steady("b", 0.9), steady("c", 1.1)}), 1u);
}

TEST(Decide, AmongEqualsIncumbentThenDefaultThenName) {
  std::vector<Finalist> list = {steady("c", 1.0), steady("b", 1.01), steady("d", 1.012)};
  EXPECT_EQ(choose_winner(list), 1u);
  list[0].is_default = true;
  EXPECT_EQ(choose_winner(list), 0u);
  list[2].is_incumbent = true;
  EXPECT_EQ(choose_winner(list), 2u);
  list[2].seconds.assign(9, 1.05);  // no longer an equal
  EXPECT_EQ(choose_winner(list), 0u);
}

TEST(Decide, AMachineThatSlowsDownSlowsEverybody) {
  std::vector<Finalist> list = {steady("a", 1.0), steady("b", 0.95)};
  for (size_t round = 0; round < 9; ++round) {
    for (Finalist& f : list) f.seconds[round] *= round < 5 ? 1.0 : 2.5;
  }
  EXPECT_EQ(choose_winner(list), 1u);
}

TEST(Decide, OneSampleIsEnoughToDecide) {
  EXPECT_EQ(choose_winner({{{1.0}, false, false, "a"}, {{0.5}, false, false, "b"}}), 1u);
  EXPECT_EQ(choose_winner({{{1.0}, false, true, "a"}}), 0u);
}

// Schedules that differ by less than the noise: the same one is chosen in nearly every tune.
TEST(Decide, NoiseDoesNotDecide) {
  std::map<size_t, int> wins;
  for (uint64_t tune = 0; tune < 400; ++tune) {
    Random random(tune);
    std::vector<Finalist> list;
    for (const char* name : {"a", "b", "c", "d"}) {
      Finalist f{{}, false, false, name};
      for (int round = 0; round < 12; ++round) f.seconds.push_back(1 + 0.01 * random.normal());
      list.push_back(f);
    }
    ++wins[choose_winner(list)];
  }
  EXPECT_GE(wins[0], 390);
}

// Launches of a GPU vary less: one percent is a difference there, unless the clock's steps are as
// long as that.
TEST(Decide, TheBandIsNarrowerOnAGpu) {
  std::vector<Finalist> list = {steady("a", 1.0), steady("b", 1.01), steady("c", 1.004)};
  list[1].is_default = true;
  EXPECT_EQ(choose_winner(list), 1u);
  EXPECT_EQ(choose_winner(list, equal_on_gpu(600e-6, 24)), 0u);
  list[2].is_incumbent = true;
  EXPECT_EQ(choose_winner(list, equal_on_gpu(600e-6, 24)), 2u);
  EXPECT_EQ(choose_winner(list, equal_on_gpu(24e-6, 24)), 2u);
  list[2].is_incumbent = false;
  EXPECT_EQ(choose_winner(list, equal_on_gpu(24e-6, 24)), 1u);
  EXPECT_EQ(equal_on_gpu(1e-6, 24), kEqual);
  EXPECT_EQ(equal_on_gpu(600e-6, 1), kEqual);
}

// Noise of half a percent, in many rounds and in few.
TEST(Decide, NoiseDoesNotDecideOnAGpu) {
  for (const size_t rounds : {6, 9, 24, 90}) {
    std::map<size_t, int> wins;
    for (uint64_t tune = 0; tune < 400; ++tune) {
      Random random(tune);
      std::vector<Finalist> list;
      for (const char* name : {"a", "b", "c", "d"}) {
        Finalist f{{}, false, false, name};
        for (size_t round = 0; round < rounds; ++round)
          f.seconds.push_back(1 + 0.005 * random.normal());
        list.push_back(f);
      }
      ++wins[choose_winner(list, equal_on_gpu(600e-6, rounds))];
    }
    EXPECT_GE(wins[0], 390) << rounds;
  }
}

}  // namespace
}  // namespace moejit::internal
