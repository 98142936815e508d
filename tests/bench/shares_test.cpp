// `gpu_moe shares`: which rows count, against which limit, and the means.
#include "bench/gpu_moe/shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace moejit::gpu_bench {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string row(const std::string& layer, int tokens, double seconds, double bytes, double flops,
                double beside = 0, int routed = 1) {
  return R"({"kind":"perf","routed":)" + std::to_string(routed) +
         R"(,"routing":"uniform","layer":")" + layer + R"(","tokens":)" + std::to_string(tokens) +
         R"(,"median_s":)" + std::to_string(seconds) + R"(,"bytes":)" + std::to_string(bytes) +
         R"(,"flops":)" + std::to_string(flops) + R"(,"beside":)" + std::to_string(beside) + "}\n";
}

class Shares : public testing::Test {
 protected:
  Shares() {
    std::string name = (std::filesystem::temp_directory_path() / "moejit_shares_XXXXXX").string();
    close(mkstemp(name.data()));
    path_ = name;
  }
  ~Shares() override { std::filesystem::remove(path_); }

  // What is printed, errors last, with 1000 bytes/s and 100 FLOP/s as limits.
  std::string of(const std::string& rows, int status = 0) {
    std::ofstream(path_) << rows;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    EXPECT_EQ(run_shares(path_, 1000, 100), status);
    const std::string errors = testing::internal::GetCapturedStderr();
    return testing::internal::GetCapturedStdout() + errors;
  }

  std::string path_;
};

TEST_F(Shares, TheFastestOfAPointAndItsLargerLimit) {
  const std::string text =
      of(R"({"kind":"limits","read":1})"
         "\n" +
         row("a", 1, 5, 2000, 100) + row("a", 1, 4, 2000, 100) + row("a", 8, 10, 2000, 800));
  EXPECT_THAT(text, HasSubstr("4000000.0 us  0.50\n"));   // 2 s of bytes in 4 s
  EXPECT_THAT(text, HasSubstr("10000000.0 us  0.80\n"));  // 8 s of operations in 10 s
  EXPECT_THAT(text, Not(HasSubstr("5000000.0 us")));
  EXPECT_THAT(text, HasSubstr("2 points: geometric mean 0.632\n"));  // sqrt(0.5 * 0.8)
  EXPECT_THAT(text, Not(HasSubstr("in turns")));
}

TEST_F(Shares, InTurnsWithTheProductItsRateIsTheLimit) {
  const std::string text = of(row("a", 1, 4, 2000, 100) + row("a", 8, 10, 2000, 800) +
                              row("a", 8, 20, 2000, 800, 50) + row("b", 8, 20, 2000, 800, 50));
  EXPECT_THAT(text, HasSubstr("20000000.0 us  0.80 (of 0 TF)"));  // 16 s at the product's rate
  EXPECT_THAT(text, HasSubstr("2 points: geometric mean 0.632\n"));
  EXPECT_THAT(text, HasSubstr("geometric mean 0.632, 1 of them in turns with the product\n"));
  EXPECT_THAT(text, HasSubstr("1 points were timed in turns alone and are left out\n"));
}

TEST_F(Shares, WhatDoesNotCount) {
  EXPECT_THAT(of(row("a", 1, 4, 2000, 100, 0, 0), 2), HasSubstr("must have rows of perf"));
  EXPECT_THAT(of("", 2), HasSubstr("must have rows of perf"));
  EXPECT_THAT(of(row("a", 1, 4, 2000, 100) + R"({"kind":"perf","rou)"), HasSubstr("1 points"));
  EXPECT_THAT(
      of(row("a", 1, 4, 2000, 100) + R"({"kind":"perf","routed":1,"median_s":"slow"})" + "\n", 2),
      HasSubstr("line 2 must be as perf writes it"));
  EXPECT_THAT(of("garbage\n" + row("a", 1, 4, 2000, 100), 2), HasSubstr("line 1 must be"));
  std::filesystem::remove(path_);
  EXPECT_EQ(run_shares(path_, 1000, 100), 2);
}

}  // namespace
}  // namespace moejit::gpu_bench
