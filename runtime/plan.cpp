#include "runtime/plan.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "cache/place.h"
#include "tuner/limits.h"
#include "tuner/roofline.h"

namespace moejit::internal {
namespace {

constexpr size_t kMaxModelSchedules = 3;
constexpr double kWorthAnotherCompile = 1.05;  // a further schedule must gain 5 % somewhere
constexpr double kTooLittle_s = 2e-6;          // and that much a launch
constexpr size_t kAskedOfANeighbour = 32;      // schedules, an eighth of a small space
constexpr double kNearestWithin = 2.0;         // ratio of token counts
constexpr double kWorthTrusting = 1.25;        // predicted, against the default, of another device

std::string bucket_words(int64_t tokens) {
  return std::to_string(tokens) + (tokens == 1 ? " token" : " tokens");
}

// Memory decides below a layer's balance point, arithmetic above it. A schedule that is right on
// one side says nothing about the other.
bool memory_bound(const MoeConfig& config, const DeviceLimits& limits, int64_t tokens) {
  const Floor floor = layer_floor(config, typical_rows(config, tokens), tokens);
  return floor.bytes / limits.read_bytes_per_s >= floor.flops / limits.dot_flops_per_s;
}

// The kept choice for `tokens`, exact or nearest in ratio; null where none is near enough.
const Selection* nearest(const std::vector<Selection>& kept, const MoeConfig& config,
                         const DeviceLimits& limits, int64_t tokens) {
  const Selection* best = nullptr;
  double best_ratio = kNearestWithin + 1e-9;
  for (const Selection& s : kept) {
    if (s.key.tokens <= 0) continue;
    const double ratio = static_cast<double>(std::max(s.key.tokens, tokens)) /
                         static_cast<double>(std::min(s.key.tokens, tokens));
    if (ratio >= best_ratio) continue;
    if (s.key.tokens != tokens &&
        memory_bound(config, limits, s.key.tokens) != memory_bound(config, limits, tokens)) {
      continue;
    }
    best_ratio = ratio;
    best = &s;
  }
  return best;
}

// Choices of other environments, in the order of trust.
struct Elsewhere {
  std::vector<Selection> other_driver, same_arch;
};

Elsewhere choices_elsewhere(const Device& device, Store& store, const MeasurementKey& key,
                            const std::string& generator) {
  Elsewhere found;
  const auto facts_of = [](const std::string& identity) {
    return nlohmann::json::parse(identity, nullptr, false);
  };
  // Without the features of "gfx942:sramecc+:xnack-".
  const auto arch_of = [](const nlohmann::json& facts) {
    const auto arch = facts.find("arch");
    const std::string name =
        arch != facts.end() && arch->is_string() ? arch->get<std::string>() : "";
    return name.substr(0, name.find(':'));
  };
  nlohmann::json here = facts_of(device.info().identity);
  if (!here.is_object()) return found;
  here.erase("driver");
  for (Selection& s : store.selections_elsewhere(key, generator)) {
    nlohmann::json there = facts_of(s.key.environment);
    if (!there.is_object()) continue;
    there.erase("driver");
    if (there == here) {
      found.other_driver.push_back(std::move(s));
    } else if (arch_of(there) == device.info().target.arch && there.contains("backend") &&
               there["backend"] == here["backend"]) {
      found.same_arch.push_back(std::move(s));
    }
  }
  return found;
}

// The places of the least `n` of `values`.
std::vector<size_t> least(const std::vector<double>& values, size_t n) {
  std::vector<size_t> places(values.size());
  std::iota(places.begin(), places.end(), size_t{0});
  n = std::min(n, places.size());
  std::partial_sort(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(n), places.end(),
                    [&](size_t a, size_t b) { return values[a] < values[b]; });
  places.resize(n);
  return places;
}

// Predicted seconds of every schedule of `space` for every bucket of `open`.
std::vector<std::vector<double>> predict_all(const MoeConfig& config, const Target& target,
                                             const DeviceLimits& limits,
                                             const std::vector<PlannedBucket*>& open,
                                             const std::vector<Schedule>& space) {
  std::vector<std::vector<double>> predicted(open.size(), std::vector<double>(space.size()));
  // Neighbours rank mostly alike, and this is most of the time of a get_kernel that finds its
  // binaries in the cache: every second bucket asks for what is best on either side alone.
  const auto between = [&](size_t b) {
    return b % 2 == 1 && b + 1 < open.size() && open[b - 1]->tokens < open[b]->tokens &&
           open[b]->tokens < open[b + 1]->tokens && open[b + 1]->tokens <= 4 * open[b - 1]->tokens;
  };
  const size_t asked = std::min(kAskedOfANeighbour, space.size() / 8 + 1);
  for (const bool second : {false, true}) {
    for (size_t b = 0; b < open.size(); ++b) {
      if (between(b) != second) continue;
      const RowCounts rows = typical_rows(config, open[b]->tokens);
      const auto predict = [&](size_t s) {
        return predict_seconds(find_family(space[s].family)->work(config, target, space[s], rows),
                               limits);
      };
      if (!second) {
        for (size_t s = 0; s < space.size(); ++s) predicted[b][s] = predict(s);
        continue;
      }
      const std::vector<double>& before = predicted[b - 1];
      const size_t first = least(before, 1).front();
      const double scale = predict(first) / before[first];
      for (size_t s = 0; s < space.size(); ++s) predicted[b][s] = scale * before[s];
      for (const size_t s : least(before, asked)) predicted[b][s] = predict(s);
      for (const size_t s : least(predicted[b + 1], asked)) predicted[b][s] = predict(s);
    }
  }
  return predicted;
}

// The model's picks for the buckets in `open`, at most kMaxModelSchedules different ones.
void pick_by_model(const MoeConfig& config, const Target& target, const DeviceLimits& limits,
                   std::vector<PlannedBucket*> open) {
  const std::vector<Schedule> space = legal_schedules(config, target);
  const std::vector<std::vector<double>> predicted =
      predict_all(config, target, limits, open, space);
  std::vector<double> best(open.size());
  std::vector<std::vector<double>> regret = predicted;  // the logarithm of what is lost
  for (size_t b = 0; b < open.size(); ++b) {
    best[b] = *std::min_element(predicted[b].begin(), predicted[b].end());
    for (double& r : regret[b]) r = std::log(r / best[b]);
  }
  // What bucket b takes of `chosen`, without the one at place `without`.
  const auto taken = [&](size_t b, const std::vector<size_t>& chosen, size_t without = SIZE_MAX) {
    size_t pick = SIZE_MAX;
    for (size_t c = 0; c < chosen.size(); ++c) {
      if (c != without && (pick == SIZE_MAX || predicted[b][chosen[c]] < predicted[b][pick]))
        pick = chosen[c];
    }
    return pick;
  };
  // The schedule that loses least beside `chosen`, and what is lost then.
  const auto next = [&](const std::vector<size_t>& chosen, size_t without = SIZE_MAX) {
    std::vector<double> current(open.size(), INFINITY);
    for (size_t b = 0; b < open.size(); ++b) {
      const size_t pick = taken(b, chosen, without);
      if (pick != SIZE_MAX) current[b] = regret[b][pick];
    }
    std::pair<size_t, double> found{0, INFINITY};
    for (size_t s = 0; s < space.size(); ++s) {
      double all = 0;
      for (size_t b = 0; b < open.size(); ++b) all += std::min(current[b], regret[b][s]);
      if (all < found.second - 1e-12) found = {s, all};
    }
    return found;
  };
  // Nor is a compilation of half a second worth microseconds of a tiny layer.
  const auto near_best = [&](size_t b, double seconds) {
    return seconds <= kWorthAnotherCompile * best[b] || seconds <= best[b] + kTooLittle_s;
  };
  const auto enough = [&](const std::vector<size_t>& chosen) {
    for (size_t b = 0; b < open.size(); ++b) {
      if (!near_best(b, predicted[b][taken(b, chosen)])) return false;
    }
    return true;
  };
  std::vector<size_t> chosen;
  double lost = INFINITY;
  while (chosen.size() < std::min(kMaxModelSchedules, space.size()) &&
         (chosen.empty() || !enough(chosen))) {
    const auto [pick, all] = next(chosen);
    chosen.push_back(pick);
    lost = all;
  }
  // The first were chosen for everything before the others were there to take their part.
  for (size_t c = 0, kept = 0; kept < chosen.size() && !enough(chosen);
       c = (c + 1) % chosen.size()) {
    const auto [pick, all] = next(chosen, c);
    kept = all < lost - 1e-9 ? 0 : kept + 1;
    if (kept > 0) continue;
    chosen[c] = pick;
    lost = all;
  }
  for (size_t b = 0; b < open.size(); ++b) {
    const size_t pick = taken(b, chosen);
    open[b]->schedule = space[pick];
    open[b]->info.source = Source::kModel;
    open[b]->info.predicted_s = predict_seconds(config, target, space[pick], limits,
                                                {typical_rows(config, open[b]->tokens)});
    open[b]->info.reason =
        std::string("no tuned choice within a factor of two: the model's pick of ") +
        std::to_string(space.size()) + " legal schedules, from " +
        (limits.measured ? "measured" : "guessed") + " limits";
    if (!near_best(b, open[b]->info.predicted_s)) {
      open[b]->info.reason += ", among " + std::to_string(chosen.size()) +
                              " that are compiled for all token counts; tune compares more";
    }
  }
}

}  // namespace

std::vector<int64_t> default_token_ladder(int64_t max_tokens) {
  std::vector<int64_t> ladder;
  for (int64_t t = 1; t < max_tokens; t *= 2) ladder.push_back(t);
  ladder.push_back(std::max<int64_t>(max_tokens, 1));
  return ladder;
}

Result<std::vector<PlannedBucket>> plan_buckets(const MoeConfig& config, const Device& device,
                                                Store& store, const std::vector<int64_t>& tokens) {
  const Target& target = device.info().target;
  const auto why_not = refusals(config, target);
  if (why_not.size() == families().size()) {
    std::string all;
    for (const std::string& why : why_not) all += (all.empty() ? "" : "; ") + why;
    return Status(StatusCode::kUnsupported, "device " + device.info().name + " (" + target.arch +
                                                "): no kernel family can run this layer" +
                                                (all.empty() ? "" : ": " + all));
  }
  const DeviceLimits limits = known_limits(device, store, config.dtype);
  const MeasurementKey key = measurement_key(config, device, 0, kServingRouting);
  const std::string& generator = generator_digest(target);
  const auto kept = store.selections(key.problem, key.environment, key.policy, generator);
  std::optional<Elsewhere> elsewhere;  // asked for where it is needed

  // Follows `selection` where it can be followed.
  const auto take = [&](const Selection* selection, const std::string& level,
                        PlannedBucket* bucket) {
    if (selection == nullptr) return false;
    const auto schedule = Schedule::from_json(selection->schedule);
    const Family* family = schedule.ok() ? find_family(schedule->family) : nullptr;
    if (family == nullptr || family->why_not(config, target, *schedule)) return false;
    const RowCounts rows = typical_rows(config, bucket->tokens);
    const double predicted = predict_seconds(family->work(config, target, *schedule, rows), limits);
    if (level == "same arch") {
      const Schedule usual = family->default_schedule(config, target, bucket->tokens);
      if (predicted >
          kWorthTrusting * predict_seconds(family->work(config, target, usual, rows), limits))
        return false;
    }
    const bool same_tokens = selection->key.tokens == bucket->tokens;
    const bool exact = same_tokens && level.empty();
    bucket->schedule = *schedule;
    bucket->level = !level.empty() ? level : exact ? "exact" : "bucket";
    bucket->key = selection_key(selection->key, generator);
    bucket->info.source = exact ? Source::kExact : Source::kNearest;
    bucket->info.measured_s = exact ? selection->median_s : 0;
    bucket->info.predicted_s = predicted;
    std::string reason = same_tokens
                             ? std::string("tuned")
                             : "nearest tuned bucket, " + bucket_words(selection->key.tokens);
    if (level == "other driver") reason += " under another driver";
    if (level == "same arch") reason += " on another device of this architecture";
    bucket->info.reason =
        reason + ": best of " + std::to_string(selection->candidates) + " measured candidates";
    return true;
  };

  std::vector<PlannedBucket> plan;
  for (int64_t t : tokens) plan.push_back({.tokens = t, .schedule = {}, .info = {}});
  std::vector<PlannedBucket*> open;
  for (PlannedBucket& bucket : plan) {
    bucket.info.tokens = bucket.tokens;
    bucket.info.floor_s = floor_seconds(
        layer_floor(config, typical_rows(config, bucket.tokens), bucket.tokens), limits);
    bool taken = take(nearest(kept, config, limits, bucket.tokens), "", &bucket);
    if (!taken) {
      if (!elsewhere) elsewhere = choices_elsewhere(device, store, key, generator);
      taken =
          take(nearest(elsewhere->other_driver, config, limits, bucket.tokens), "other driver",
               &bucket) ||
          take(nearest(elsewhere->same_arch, config, limits, bucket.tokens), "same arch", &bucket);
    }
    if (taken) continue;
    bucket.level = "model";
    open.push_back(&bucket);
  }
  if (!open.empty()) pick_by_model(config, target, limits, open);
  for (PlannedBucket& bucket : plan) bucket.info.schedule = bucket.schedule.to_json();
  return plan;
}

}  // namespace moejit::internal
