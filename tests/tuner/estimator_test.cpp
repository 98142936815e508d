#include "tuner/estimator.h"

#include <gtest/gtest.h>

namespace moejit::internal {
namespace {

TEST(Estimator, MedianAndQuantilesOfKnownSamples) {
  const TimingSummary s = summarize({5, 1, 4, 2, 3});
  EXPECT_DOUBLE_EQ(s.median_s, 3);
  EXPECT_DOUBLE_EQ(s.p20_s, 1.8);
  EXPECT_DOUBLE_EQ(s.p80_s, 4.2);
  EXPECT_EQ(s.samples, 5);
}

TEST(Estimator, EvenCountTakesTheMiddleOfTwo) {
  EXPECT_DOUBLE_EQ(summarize({1, 2, 3, 10}).median_s, 2.5);
}

TEST(Estimator, NoSamplesGiveZeros) {
  const TimingSummary s = summarize({});
  EXPECT_EQ(s.samples, 0);
  EXPECT_EQ(s.median_s, 0);
}

TEST(Estimator, OneOutlierMovesNeitherMedianNorNoiseMuch) {
  const std::vector<double> calm = {1.00, 1.01, 0.99, 1.00, 1.01, 0.99, 1.00, 1.01, 0.99};
  std::vector<double> burst = calm;
  burst.back() = 50;
  EXPECT_NEAR(summarize(burst).median_s, 1.0, 0.011);
  EXPECT_LT(relative_noise(burst), 0.05);
}

TEST(Estimator, NoiseGrowsWithSpreadAndIsTotalForFewSamples) {
  EXPECT_LT(relative_noise({1, 1.01, 0.99, 1, 1}), relative_noise({1, 1.5, 0.5, 1.2, 0.8}));
  EXPECT_EQ(relative_noise({1, 2}), 1.0);
}

}  // namespace
}  // namespace moejit::internal
