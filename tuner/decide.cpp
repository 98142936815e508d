#include "tuner/decide.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "tuner/estimator.h"

namespace moejit::internal {

size_t choose_winner(const std::vector<Finalist>& finalists) {
  const size_t rounds = finalists[0].seconds.size();
  std::vector<double> pace(rounds, 0.0);  // log of the geometric mean of each round
  for (const Finalist& f : finalists) {
    for (size_t r = 0; r < rounds; ++r)
      pace[r] += std::log(f.seconds[r]) / static_cast<double>(finalists.size());
  }
  std::vector<double> score(finalists.size()), noise(finalists.size());
  for (size_t i = 0; i < finalists.size(); ++i) {
    std::vector<double> relative(rounds);
    for (size_t r = 0; r < rounds; ++r) relative[r] = finalists[i].seconds[r] / std::exp(pace[r]);
    score[i] = summarize(relative).median_s;
    noise[i] = relative_noise(std::move(relative));
  }
  const size_t best =
      static_cast<size_t>(std::min_element(score.begin(), score.end()) - score.begin());
  size_t winner = best;
  const auto order = [&](size_t i) {
    const Finalist& f = finalists[i];
    return std::make_tuple(!f.is_incumbent, !f.is_default, std::cref(f.name));
  };
  for (size_t i = 0; i < finalists.size(); ++i) {
    const double band = std::clamp(std::max(noise[i], noise[best]), 0.015, 0.03);
    if (score[i] <= score[best] * (1 + band) && order(i) < order(winner)) winner = i;
  }
  return winner;
}

}  // namespace moejit::internal
