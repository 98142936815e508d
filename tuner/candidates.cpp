#include "tuner/candidates.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "tuner/limits.h"
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

  bool has(const std::string& family) const {
    return std::any_of(list_.begin(), list_.end(),
                       [&](const Candidate& c) { return c.schedule.family == family; });
  }

  size_t size() const { return list_.size(); }
  int bad_count() const { return bad_count_; }
  std::vector<Candidate>& list() { return list_; }
  std::vector<Candidate> take() { return std::move(list_); }

  // Chooses along `order` until `limit` are chosen: its best, then its best of each family in turn,
  // then of each kind. The model's error is larger than the distance between neighbours, and
  // families differ in what it does not know: the first of a family is worth a look among the
  // first `look`, others among the first `near`. Where that leaves room, along `order`.
  void fill(const std::vector<size_t>& order, size_t look, size_t near, size_t limit) {
    const auto room = [&] { return size() < limit; };
    if (room() && !order.empty()) add_ranked(order.front());
    constexpr int kOfEachFamily = 3;
    for (int turn = 0; turn < kOfEachFamily; ++turn) {
      std::set<std::string> served;
      for (size_t i = 0; i < (turn == 0 ? look : near) && room(); ++i) {
        const std::string& family = ranked_[order[i]].schedule.family;
        if (served.contains(family) || has_twin(order[i])) continue;
        if (i >= near && has(family)) continue;
        add_ranked(order[i]);
        served.insert(family);
      }
    }
    for (size_t i = 0; i < near && room(); ++i) {
      if (!has_twin(order[i])) add_ranked(order[i]);
    }
    for (size_t i = 0; i < order.size() && room(); ++i) add_ranked(order[i]);
  }

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

// Times the best prediction: what is worth a look as the first of its family, and what is near. On
// an H200 the model errs by 8 % at most in the median of a family.
constexpr double kWorthALook = 1.5, kNear = 1.15;

// Places in `ranked`, best first; the first `look` are worth a look, the first `near` are near.
struct Order {
  std::vector<size_t> places;
  size_t look = 0, near = 0;
};

// The model's order under limits that are guessed and not measured: the same in every tune,
// whatever the hour does to a device. What it cannot tell apart: near to the family's default
// first, then by name.
Order steady_order(const SessionProblem& problem, const std::vector<RankedSchedule>& ranked,
                   const std::vector<int>& distance) {
  constexpr double kCannotTell = 0.03;  // below the model's error on any device
  const DeviceLimits limits = guess_limits(problem.target, problem.config.dtype);
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
  Order order;
  for (const auto& place : places) {
    order.places.push_back(std::get<3>(place));
    order.look += predicted[order.places.back()] <= kWorthALook * best;
    order.near += predicted[order.places.back()] <= kNear * best;
  }
  return order;
}

Order measured_order(const std::vector<RankedSchedule>& ranked) {
  Order order;
  for (size_t r = 0; r < ranked.size(); ++r) {
    order.places.push_back(r);
    order.look += ranked[r].predicted_s <= kWorthALook * ranked.front().predicted_s;
    order.near += ranked[r].predicted_s <= kNear * ranked.front().predicted_s;
  }
  return order;
}

}  // namespace

std::vector<Candidate> choose_candidates(const SessionProblem& problem,
                                         const std::vector<RankedSchedule>& ranked,
                                         const SessionOptions& options, int* known_bad) {
  Chooser chooser(ranked, options);
  *known_bad = chooser.bad_count();
  const std::vector<int> distance = distances(problem, ranked);
  const Order steady = steady_order(problem, ranked, distance);
  const Family* first = find_family(ranked[steady.places.front()].schedule.family);
  chooser.add(first->default_schedule(problem.config, problem.target, problem.tokens), true, false);
  const size_t limit =
      options.exhaustive ? ranked.size() : static_cast<size_t>(std::max(options.max_candidates, 1));
  // Explorers from the whole space, wherever the model puts them: its blind spots show when one
  // wins.
  const size_t explorers = options.exhaustive || limit < 4 ? 0 : limit < 8 ? 1 : 2;
  // Half of the candidates are those of every tune, the rest follows the measured limits.
  chooser.fill(steady.places, steady.look, steady.near, (limit + 1) / 2);
  Random random(options.seed);
  for (size_t i = 0; i < explorers && chooser.size() < limit; ++i)
    chooser.add_ranked(steady.places[random.below(ranked.size())]);
  for (Candidate& c : chooser.list()) c.is_steady = true;
  if (options.incumbent) chooser.add(*options.incumbent, false, true);
  for (const Schedule& seed : options.seeds) chooser.add(seed, false, false);
  const Order measured = measured_order(ranked);
  chooser.fill(measured.places, measured.look, measured.near, limit);
  std::vector<Candidate> list = chooser.take();
  for (Candidate& c : list) c.distance = distance[static_cast<size_t>(c.rank) - 1];
  return list;
}

}  // namespace moejit::internal
