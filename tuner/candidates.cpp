#include "tuner/candidates.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "tuner/random.h"

namespace moejit::internal {
namespace {

class Chooser {
 public:
  Chooser(const std::vector<RankedSchedule>& ranked, const SessionOptions& options)
      : ranked_(ranked), options_(options), bad_(ranked.size()), known_(ranked.size()) {
    for (const KnownTrial& known : options.known) {
      const size_t r = find(known.schedule);
      if (r == ranked_.size()) continue;
      if (known.status == "ok") {
        known_[r] = &known;
      } else if (!bad_[r]) {
        bad_[r] = true;
        ++bad_count_;
      }
    }
  }

  void add(const Schedule& schedule, bool is_default, bool is_incumbent) {
    // A seed that is no longer legal is dropped: it came from another version or device.
    if (const size_t r = find(schedule); r < ranked_.size())
      add_ranked(r, is_default, is_incumbent);
  }

  void add_ranked(size_t r, bool is_default = false, bool is_incumbent = false) {
    if (bad_[r]) return;
    for (Candidate& c : list_) {
      if (c.rank == static_cast<int>(r) + 1) {
        c.is_default |= is_default;
        c.is_incumbent |= is_incumbent;
        return;
      }
    }
    Candidate added;
    added.schedule = ranked_[r].schedule;
    added.predicted_s = ranked_[r].predicted_s;
    added.rank = static_cast<int>(r) + 1;
    added.is_default = is_default;
    added.is_incumbent = is_incumbent;
    added.known = known_[r];
    list_.push_back(std::move(added));
  }

  // Whether a chosen one is of the same family and differs in one parameter at most: the model
  // cannot tell such twins apart, and one of them says most of what there is to learn.
  bool has_twin(size_t r) const {
    const Schedule& schedule = ranked_[r].schedule;
    return std::any_of(list_.begin(), list_.end(), [&](const Candidate& c) {
      if (c.schedule.family != schedule.family) return false;
      int different = 0;
      for (const auto& [name, value] : schedule.params) different += c.schedule.at(name) != value;
      return different <= 1;
    });
  }

  size_t size() const { return list_.size(); }
  int bad_count() const { return bad_count_; }
  std::vector<Candidate> take() { return std::move(list_); }

 private:
  size_t find(const Schedule& schedule) const {
    return static_cast<size_t>(
        std::find_if(ranked_.begin(), ranked_.end(),
                     [&](const RankedSchedule& r) { return r.schedule == schedule; }) -
        ranked_.begin());
  }

  const std::vector<RankedSchedule>& ranked_;
  const SessionOptions& options_;
  std::vector<bool> bad_;
  std::vector<const KnownTrial*> known_;
  std::vector<Candidate> list_;
  int bad_count_ = 0;
};

// In how many parameters each schedule differs from its family's default.
std::vector<int> distances(const SessionProblem& problem,
                           const std::vector<RankedSchedule>& ranked) {
  std::map<std::string, Schedule> defaults;
  std::vector<int> list;
  for (const RankedSchedule& r : ranked) {
    const std::string& family = r.schedule.family;
    if (!defaults.contains(family)) {
      defaults[family] =
          find_family(family)->default_schedule(problem.config, problem.target, problem.tokens);
    }
    int different = 0;
    for (const auto& [name, value] : defaults[family].params)
      different += r.schedule.at(name) != value;
    list.push_back(different);
  }
  return list;
}

// The nearest power of `step`.
double rounded(double value, double step) {
  return value > 0 ? std::pow(step, std::round(std::log(value) / std::log(step))) : value;
}

// Limits so coarse that two measurements of one device seldom differ. What is tried, and with it
// what may win, then does not follow the hour; the error is that of the model.
DeviceLimits coarse(DeviceLimits limits) {
  constexpr double kRate = 1.26, kLaunch = 2;
  limits.read_bytes_per_s = rounded(limits.read_bytes_per_s, kRate);
  limits.dot_flops_per_s = rounded(limits.dot_flops_per_s, kRate);
  limits.vector_flops_per_s = rounded(limits.vector_flops_per_s, kRate);
  limits.l2_bytes_per_s = rounded(limits.l2_bytes_per_s, kRate);
  limits.launch_s = rounded(limits.launch_s, kLaunch);
  return limits;
}

// Places in `ranked` in the model's order under coarse limits. What it cannot tell apart: near to
// the family's default first, then by name.
std::vector<size_t> stable_order(const SessionProblem& problem,
                                 const std::vector<RankedSchedule>& ranked,
                                 const std::vector<int>& distance) {
  constexpr double kCannotTell = 0.03;  // below the model's error on any device
  const DeviceLimits limits = coarse(problem.limits);
  std::vector<double> predicted;
  for (const RankedSchedule& r : ranked) {
    predicted.push_back(
        predict_seconds(problem.config, problem.target, r.schedule, limits, problem.rows));
  }
  const double best = std::max(*std::min_element(predicted.begin(), predicted.end()), 1e-12);
  std::vector<std::tuple<int, int, std::string, size_t>> places;
  for (size_t r = 0; r < ranked.size(); ++r) {
    places.emplace_back(static_cast<int>(std::log(predicted[r] / best) / std::log1p(kCannotTell)),
                        distance[r], ranked[r].schedule.to_json(), r);
  }
  std::sort(places.begin(), places.end());
  std::vector<size_t> order;
  for (const auto& place : places) order.push_back(std::get<3>(place));
  return order;
}

}  // namespace

std::vector<Candidate> choose_candidates(const SessionProblem& problem,
                                         const std::vector<RankedSchedule>& ranked,
                                         const SessionOptions& options, int* known_bad) {
  Chooser chooser(ranked, options);
  *known_bad = chooser.bad_count();
  const std::vector<int> distance = distances(problem, ranked);
  const std::vector<size_t> order = stable_order(problem, ranked, distance);
  const Family* first = find_family(ranked[order.front()].schedule.family);
  chooser.add(first->default_schedule(problem.config, problem.target, problem.tokens), true, false);
  for (size_t i = 0; i < options.seeds.size(); ++i) chooser.add(options.seeds[i], false, i == 0);
  const size_t limit =
      options.exhaustive ? ranked.size() : static_cast<size_t>(std::max(options.max_candidates, 1));
  // Explorers from the whole space, wherever the model puts them: its blind spots show when one
  // wins.
  const size_t explorers = options.exhaustive || limit < 4 ? 0 : limit < 8 ? 1 : 2;
  // The model's best, then its best of each family in turn, then of each kind: its error is larger
  // than the distance between neighbours, and families differ in what it does not know.
  constexpr double kWorthALook = 1.5;  // times the best prediction
  constexpr int kOfEachFamily = 3;
  size_t look = 0;
  while (look < ranked.size() &&
         ranked[look].predicted_s <= kWorthALook * ranked.front().predicted_s)
    ++look;
  const auto room = [&] { return chooser.size() + explorers < limit; };
  if (room()) chooser.add_ranked(0);
  for (int turn = 0; turn < kOfEachFamily; ++turn) {
    std::set<std::string> served;
    for (size_t i = 0; i < look && room(); ++i) {
      const size_t r = order[i];
      const std::string& family = ranked[r].schedule.family;
      if (served.contains(family) || chooser.has_twin(r)) continue;
      chooser.add_ranked(r);
      served.insert(family);
    }
  }
  for (size_t i = 0; i < look && room(); ++i) {
    if (!chooser.has_twin(order[i])) chooser.add_ranked(order[i]);
  }
  for (size_t i = 0; i < order.size() && room(); ++i) chooser.add_ranked(order[i]);
  Random random(options.seed);
  for (size_t i = 0; i < explorers; ++i) {
    const size_t r = random.below(ranked.size());
    if (chooser.size() < limit) chooser.add_ranked(r);
  }
  std::vector<Candidate> list = chooser.take();
  for (Candidate& c : list) c.distance = distance[static_cast<size_t>(c.rank) - 1];
  return list;
}

}  // namespace moejit::internal
