#include "tuner/decide.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "tuner/estimator.h"

namespace moejit::internal {
namespace {

struct Scores {
  std::vector<double> slower;  // than the best, 0 for the best
  std::vector<double> noise;   // three standard errors of `slower`
};

// The least of each block of rounds: what disturbs a launch only adds time.
std::vector<double> block_minima(const std::vector<double>& seconds) {
  std::vector<double> minima;
  for (size_t r = 0; r < seconds.size(); ++r) {
    if (r % kBlock == 0) {
      minima.push_back(seconds[r]);
    } else {
      minima.back() = std::min(minima.back(), seconds[r]);
    }
  }
  // A block that was cut off has seen less than the others.
  if (seconds.size() > kBlock && seconds.size() % kBlock != 0) minima.pop_back();
  return minima;
}

// A block's pace is the geometric mean of its minima over finalists; a score is a median over
// blocks of minimum by pace.
Scores score(const std::vector<Finalist>& finalists) {
  std::vector<std::vector<double>> minima;
  for (const Finalist& f : finalists) minima.push_back(block_minima(f.seconds));
  const size_t blocks = minima[0].size();
  std::vector<double> pace(blocks, 0.0);
  for (const std::vector<double>& mine : minima) {
    for (size_t b = 0; b < blocks; ++b)
      pace[b] += std::log(mine[b]) / static_cast<double>(finalists.size());
  }
  Scores scores;
  for (std::vector<double>& mine : minima) {
    for (size_t b = 0; b < blocks; ++b) mine[b] /= std::exp(pace[b]);
    scores.slower.push_back(summarize(mine).median_s);
    scores.noise.push_back(relative_noise(std::move(mine)));
  }
  const double best = *std::min_element(scores.slower.begin(), scores.slower.end());
  for (double& slower : scores.slower) slower = slower / best - 1;
  return scores;
}

size_t choose(const std::vector<Finalist>& finalists, const std::vector<double>& slower,
              double equal) {
  const auto order = [&](size_t i) {
    const Finalist& f = finalists[i];
    return std::make_tuple(!f.is_incumbent, !f.is_default, !f.is_steady, f.distance,
                           std::cref(f.name));
  };
  size_t winner =
      static_cast<size_t>(std::min_element(slower.begin(), slower.end()) - slower.begin());
  for (size_t i = 0; i < finalists.size(); ++i) {
    if (slower[i] <= equal && order(i) < order(winner)) winner = i;
  }
  return winner;
}

}  // namespace

double equal_on_gpu(double seconds, size_t rounds) {
  constexpr double kClock_s = 0.3e-6;
  const double fewer = std::max(1.0, std::sqrt(24.0 / static_cast<double>(rounds)));
  return std::min(kEqual, 0.005 * fewer + kClock_s / seconds);
}

size_t choose_winner(const std::vector<Finalist>& finalists, double equal) {
  return choose(finalists, score(finalists).slower, equal);
}

bool is_clear(const std::vector<Finalist>& finalists, double equal) {
  const Scores scores = score(finalists);
  const size_t winner = choose(finalists, scores.slower, equal);
  for (size_t i = 0; i < finalists.size(); ++i) {
    // One that wavers at the edge matters where its being in or out makes another the winner.
    if (std::fabs(scores.slower[i] - equal) > scores.noise[i]) continue;
    std::vector<double> other = scores.slower;
    other[i] = other[i] > equal ? equal : 2 * equal;
    if (choose(finalists, other, equal) != winner) return false;
  }
  return true;
}

std::vector<bool> clearly_slower(const std::vector<Finalist>& finalists, double equal) {
  const Scores scores = score(finalists);
  std::vector<bool> slower(finalists.size());
  for (size_t i = 0; i < finalists.size(); ++i)
    slower[i] = scores.slower[i] > 2 * equal + scores.noise[i];
  return slower;
}

}  // namespace moejit::internal
