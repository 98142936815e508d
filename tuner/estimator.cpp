#include "tuner/estimator.h"

#include <algorithm>
#include <cmath>

namespace moejit::internal {
namespace {

double quantile(const std::vector<double>& sorted, double q) {
  const double position = q * static_cast<double>(sorted.size() - 1);
  const size_t low = static_cast<size_t>(position);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  const double fraction = position - static_cast<double>(low);
  return sorted[low] * (1 - fraction) + sorted[high] * fraction;
}

}  // namespace

TimingSummary summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {.median_s = quantile(samples, 0.5),
          .p20_s = quantile(samples, 0.2),
          .p80_s = quantile(samples, 0.8),
          .samples = static_cast<int>(samples.size())};
}

double relative_noise(std::vector<double> samples) {
  if (samples.size() < 3) return 1.0;
  const double median = summarize(samples).median_s;
  if (median <= 0) return 1.0;
  const double root = std::sqrt(static_cast<double>(samples.size()));
  for (double& sample : samples) sample = std::fabs(sample - median);
  return 3 * 1.4826 * summarize(std::move(samples)).median_s / root / median;
}

}  // namespace moejit::internal
