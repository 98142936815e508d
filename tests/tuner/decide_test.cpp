// The choice among finalists: noise, drift and ties.
#include "tuner/decide.h"

#include <gtest/gtest.h>

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

// In how many of 400 tunes the first by name wins, of four schedules that differ by noise alone.
int first_wins(double noise, size_t rounds, double equal) {
  int wins = 0;
  for (uint64_t tune = 0; tune < 400; ++tune) {
    Random random(tune);
    std::vector<Finalist> list;
    for (const char* name : {"a", "b", "c", "d"}) {
      Finalist f{{}, false, false, name};
      for (size_t round = 0; round < rounds; ++round)
        f.seconds.push_back(1 + noise * random.normal());
      list.push_back(f);
    }
    wins += choose_winner(list, equal) == 0 ? 1 : 0;
  }
  return wins;
}

TEST(Decide, NoiseDoesNotDecide) {
  EXPECT_GE(first_wins(0.01, 12, kEqual), 390);
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

TEST(Decide, NoiseDoesNotDecideOnAGpu) {
  for (const size_t rounds : {6, 9, 24, 90})
    EXPECT_GE(first_wins(0.005, rounds, equal_on_gpu(600e-6, rounds)), 390) << rounds;
}

}  // namespace
}  // namespace moejit::internal
