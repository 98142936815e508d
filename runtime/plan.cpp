#include "runtime/plan.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "cache/place.h"
#include "tuner/limits.h"
#include "tuner/roofline.h"

namespace moejit::internal {
namespace {

constexpr size_t kMaxModelSchedules = 3;
constexpr double kWorthAnotherCompile = 1.05;  // a further schedule must gain 5 % somewhere
constexpr double kTooLittle_s = 2e-6;          // and that much a launch
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
  nlohmann::json here = facts_of(device.info().identity);
  if (!here.is_object()) return found;
  here.erase("driver");
  for (Selection& s : store.selections_elsewhere(key, generator)) {
    nlohmann::json there = facts_of(s.key.environment);
    if (!there.is_object()) continue;
    there.erase("driver");
    if (there == here) {
      found.other_driver.push_back(std::move(s));
    } else if (there.value("arch", "") == device.info().target.arch &&
               there.value("backend", "") == here.value("backend", "?")) {
      found.same_arch.push_back(std::move(s));
    }
  }
  return found;
}

// The model's picks for the buckets in `open`, at most kMaxModelSchedules different ones.
void pick_by_model(const MoeConfig& config, const Target& target, const DeviceLimits& limits,
                   std::vector<PlannedBucket*> open) {
  const std::vector<Schedule> space = legal_schedules(config, target);
  std::vector<std::vector<double>> predicted(open.size(), std::vector<double>(space.size()));
  std::vector<double> best(open.size(), INFINITY);
  for (size_t b = 0; b < open.size(); ++b) {
    // Neighbours rank alike: every second bucket takes the order of the one before, which halves
    // what is most of the time of a get_kernel that finds its binaries in the cache.
    if (b % 2 == 1 && open[b]->tokens <= 2 * open[b - 1]->tokens) {
      predicted[b] = predicted[b - 1];
      best[b] = best[b - 1];
      continue;
    }
    const RowCounts rows = typical_rows(config, open[b]->tokens);
    for (size_t s = 0; s < space.size(); ++s) {
      predicted[b][s] = predict_seconds(
          find_family(space[s].family)->work(config, target, space[s], rows), limits);
      best[b] = std::min(best[b], predicted[b][s]);
    }
  }
  std::vector<size_t> chosen;
  std::vector<double> current(open.size(), INFINITY);
  while (chosen.size() < std::min(kMaxModelSchedules, space.size())) {
    bool enough = !chosen.empty();
    // Nor is a compilation of half a second worth microseconds of a tiny layer.
    for (size_t b = 0; b < open.size(); ++b) {
      enough &=
          current[b] <= kWorthAnotherCompile * best[b] || current[b] <= best[b] + kTooLittle_s;
    }
    if (enough) break;
    size_t pick = 0;
    double lowest = INFINITY;
    for (size_t s = 0; s < space.size(); ++s) {
      double regret = 0;
      for (size_t b = 0; b < open.size(); ++b)
        regret += std::log(std::min(current[b], predicted[b][s]) / best[b]);
      if (regret < lowest - 1e-12) {
        lowest = regret;
        pick = s;
      }
    }
    chosen.push_back(pick);
    for (size_t b = 0; b < open.size(); ++b) current[b] = std::min(current[b], predicted[b][pick]);
  }
  for (size_t b = 0; b < open.size(); ++b) {
    size_t pick = chosen[0];
    for (size_t s : chosen) {
      if (predicted[b][s] < predicted[b][pick]) pick = s;
    }
    open[b]->schedule = space[pick];
    open[b]->info.source = Source::kModel;
    open[b]->info.predicted_s = predict_seconds(config, target, space[pick], limits,
                                                {typical_rows(config, open[b]->tokens)});
    open[b]->info.reason =
        std::string("no tuned choice within a factor of two: the model's pick of ") +
        std::to_string(space.size()) + " legal schedules, from " +
        (limits.measured ? "measured" : "guessed") + " limits";
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
