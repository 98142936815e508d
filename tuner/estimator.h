// Statistics of timings. Observations behind the choice of the median: noise on a shared machine
// only adds time, arrives in bursts longer than a sample, and the minimum is unreliable where
// clocks boost; a median over samples that are interleaved between candidates suffers least from
// all three.
#pragma once

#include <vector>

namespace moejit::internal {

struct TimingSummary {
  double median_s = 0, p20_s = 0, p80_s = 0;
  int samples = 0;
};

TimingSummary summarize(std::vector<double> samples);

// Half-width of the noise band of the median: 3 * 1.4826 * MAD / sqrt(n), relative to the median.
double relative_noise(std::vector<double> samples);

}  // namespace moejit::internal
