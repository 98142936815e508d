#include "runtime/tuning_run.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>

#include "base/log.h"
#include "base/settings.h"
#include "runtime/library.h"
#include "runtime/plan.h"
#include "runtime/trial_process.h"
#include "runtime/tuning_record.h"
#include "tuner/roofline.h"
#include "tuner/session.h"

namespace moejit::internal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLaunchesOfABucket = 300;   // about: 14 candidates, finals included
constexpr int kLaunchesOfASlowOne = 110;  // the same where rounds of finals are few
constexpr const char* kCutShort = "cut short: ";
constexpr int kLaunchesAtLeast = 8;  // two checks, a warm-up, two samples, and some reserve

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(std::min(seconds, 1e9) * 1e9));
}

class Tuning {
 public:
  Tuning(const TuneRequest& request, const Device& device, std::shared_ptr<Store> store)
      : request_(request),
        device_(device),
        store_(std::move(store)),
        layers_(tune_layers(request)),
        items_(tune_items(layers_, request.tokens, request.shard_index, request.shard_count)),
        start_(Clock::now()) {}

  Result<TuneReport> run(RoutingSpec spec) {
    spec_ = std::move(spec);
    for (const MoeConfig& layer : layers_) {
      MOEJIT_RETURN_IF_ERROR(spec_.check(layer));
      const auto why = refusals(layer, device_.info().target);
      if (why.size() < families().size()) continue;
      std::string all;
      for (const std::string& reason : why) all += (all.empty() ? "" : "; ") + reason;
      return Status(StatusCode::kUnsupported, "device " + device_.info().name +
                                                  ": no kernel family can run this layer: " + all);
    }
    MOEJIT_RETURN_IF_ERROR(choose_isolation());
    report_.device = device_.info().name;
    keeps_ = store_->degraded().empty();
    // First whatever has no result; then what an earlier budget cut short.
    for (size_t i = 0; i < items_.size(); ++i) todo_.push_back(i);
    for (place_ = 0; place_ < todo_.size(); ++place_) {
      second_pass_ = place_ >= items_.size();
      if (!enter_layer()) return finish(true);
      if (!limits_known_) {
        Result<DeviceLimits> limits = known_limits(device_, *store_, config().dtype);
        if (request_.force || !limits->measured)
          limits = renew_limits(device_, *store_, config().dtype);
        if (!limits.ok()) return limits.status();
        report_.limits = *limits;
        limits_known_ = true;
        // The device's limits, measured once, are not of the budget.
        if (request_.budget_s > 0 && !deadline_)
          deadline_ = Clock::now() + nanoseconds(request_.budget_s);
      }
      if (Status status = one_bucket(); !status.ok()) {
        MOEJIT_RETURN_IF_ERROR(pass_over(status));
      }
      if (cancelled_) return finish(true);
      if (!keep(/*patiently=*/false)) return finish(false);
    }
    progress(TuneStage::kDone, {});
    if (!items_.empty() && report_.failures.size() == items_.size()) return first_failure_;
    return finish(false);
  }

 private:
  const TuneItem& item() const { return items_[todo_[place_]]; }
  const MoeConfig& config() const { return layers_[item().layer]; }
  int64_t tokens() const { return item().tokens; }
  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  double seconds_left() const {
    return deadline_ ? std::chrono::duration<double>(*deadline_ - Clock::now()).count() : 1e9;
  }

  // A token count whose candidates all fail does not take the others along.
  Status pass_over(const Status& status) {
    if (status.code() != StatusCode::kVerificationFailed &&
        status.code() != StatusCode::kOutOfMemory && status.code() != StatusCode::kUnsupported) {
      return status;
    }
    lab_.reset();  // and what it has allocated
    if (first_failure_.ok()) first_failure_ = status;
    report_.failures.push_back({config(), tokens(), status.message()});
    return {};
  }

  // False: the database takes no results any more, and what is measured would end with the process.
  // A writer who takes long is waited for at the end only.
  bool keep(bool patiently) {
    if (!keeps_ || !report_.not_kept.empty()) return !keeps_;
    Status status = store_->save();
    for (int i = 0; i < 6 && patiently && status.code() == StatusCode::kUnavailable; ++i)
      status = store_->save();
    if (status.ok() || (status.code() == StatusCode::kUnavailable && !patiently)) return true;
    report_.not_kept = status.message();
    return false;
  }

  TuneReport finish(bool cancelled) {
    forget_kernels();
    keep(/*patiently=*/true);
    report_.cancelled = cancelled;
    report_.seconds = elapsed();
    // What was put off and then not reached has its earlier result.
    for (auto& [place, row] : put_off_) rows_.emplace(place, std::move(row));
    for (auto& [place, row] : rows_) report_.rows.push_back(std::move(row));
    report_.missing = static_cast<int32_t>(items_.size() - report_.rows.size());
    return report_;
  }

  // False: asked to stop.
  bool enter_layer() {
    if (layer_ && *layer_ == item().layer) return true;
    const bool other_type = !layer_ || layers_[*layer_].dtype != config().dtype;
    layer_ = item().layer;
    lab_.reset();  // and its weights
    previous_winner_.reset();
    if (!other_type) return true;
    limits_known_ = false;
    return progress(TuneStage::kProbe, {});
  }

  Status choose_isolation() {
    const bool gpu = device_.info().target.backend == BackendKind::kCuda ||
                     device_.info().target.backend == BackendKind::kHip;
    if (request_.isolation == Isolation::kOff || (request_.isolation == Isolation::kAuto && !gpu))
      return {};
    helper_ = find_trial_helper(request_.helper);
    if (!helper_.empty()) return {};
    if (request_.isolation == Isolation::kOn || !request_.helper.empty()) {
      return {StatusCode::kUnavailable,
              "helper = \"" + request_.helper +
                  "\": isolation needs the moejit command, and it was not found there, beside "
                  "the library or in ../bin of it"};
    }
    log_once(LogLevel::kWarning, "tuner", "no helper",
             "the moejit command was not found beside the library: candidates run in this process");
    return {};
  }

  Lab& lab() {
    if (lab_ != nullptr) return *lab_;
    if (helper_.empty()) {
      lab_ = make_local_lab(device_, config(), spec_);
    } else {
      TrialProcessOptions options{.helper = helper_,
                                  .device = device_.info().name,
                                  .num_threads = request_.num_threads,
                                  .config = config(),
                                  .routing = request_.routing,
                                  .protocol = trial_protocol(device_)};
      if (request_.trial_timeout_s > 0) options.timeout_s = request_.trial_timeout_s;
      lab_ = make_process_lab(std::move(options));
    }
    lab_->set_deadline(deadline_);
    return *lab_;
  }

  // Seconds that the work at `place` will take, roughly: the unit in which the budget is shared out
  // and the rest is reckoned.
  double cost(size_t place) const {
    const TuneItem& item = items_[todo_[place]];
    const MoeConfig& layer = layers_[item.layer];
    const Floor work = layer_floor(layer, typical_rows(layer, item.tokens), item.tokens);
    const double floor =
        report_.limits.read_bytes_per_s > 0 ? floor_seconds(work, report_.limits) : 0;
    if (floor * kLaunchesAtLeast > seconds_left()) return 0;  // will be passed over
    double seconds = 0.5 + std::min(kLaunchesOfABucket * floor, 3 + kLaunchesOfASlowOne * floor);
    if (item.first) {
      const double bytes = static_cast<double>(layer.total_experts()) *
                           static_cast<double>(layer.w13_rows() + layer.intermediate_size) *
                           layer.hidden_size * size_of(layer.dtype);
      seconds += 3 + bytes / 1.5e9;  // compiling, and filling the weights
    }
    return seconds;
  }

  double cost_from(size_t place) const {
    double sum = 0;
    for (size_t i = place; i < todo_.size(); ++i) sum += cost(i);
    return sum;
  }

  bool progress(TuneStage stage, TuneProgress p) {
    if (!request_.progress) return true;
    p.stage = stage;
    if (!todo_.empty()) {
      const TuneItem& at = items_[todo_[std::min(place_, todo_.size() - 1)]];
      p.tokens = at.tokens;
      p.layer = static_cast<int32_t>(at.layer);
    }
    p.bucket = static_cast<int32_t>(std::min(place_, todo_.empty() ? 0 : todo_.size() - 1));
    p.num_buckets = static_cast<int32_t>(todo_.size());
    p.num_layers = static_cast<int32_t>(layers_.size());
    p.elapsed_s = elapsed();
    // From what the buckets so far took against what they were expected to.
    if (stage != TuneStage::kDone && limits_known_ && measured_cost_ > 0)
      p.remaining_s = measured_s_ / measured_cost_ * cost_from(place_);
    if (deadline_) {
      const double left = std::max(0.0, seconds_left());
      p.remaining_s = p.remaining_s > 0 ? std::min(left, p.remaining_s) : left;
    }
    return request_.progress(p);
  }

  Status one_bucket() {
    const MeasurementKey key = measurement_key(config(), device_, tokens(), spec_.name);
    const std::string& generator = generator_digest(device_.info().target);
    auto kept = store_->find_selection(key, generator);
    if (kept && !usable(*kept)) kept.reset();
    const auto rows = draw_rows();
    if (kept && !request_.force && !second_pass_) {
      publish(*kept);
      TuneRow row = cached_row(*kept, rows);
      if (unfinished(*kept, key)) {
        put_off_.emplace(todo_[place_], std::move(row));
        todo_.push_back(todo_[place_]);
      } else {
        rows_.emplace(todo_[place_], std::move(row));
      }
      return {};
    }
    const double floor =
        mean_floor(config(), report_.limits, rows, tokens()).seconds * kLaunchesAtLeast;
    if (seconds_left() <= 0 || floor > seconds_left()) {
      report_.out_of_budget = true;
      return {};
    }
    if (!progress(TuneStage::kPrepare, {})) {
      cancelled_ = true;
      return {};
    }
    const Clock::time_point begin = Clock::now();
    const double expected = cost(place_);
    SessionOptions options = session_options(key, kept, generator);
    const SessionProblem problem{.config = config(),
                                 .target = device_.info().target,
                                 .device = device_.info().name,
                                 .tokens = tokens(),
                                 .rows = rows,
                                 .limits = report_.limits};
    const Builder build = [this](const Schedule& schedule) {
      return build_kernel(device_, *store_, config(), schedule, MayCompile::kYes,
                          helper_.empty() ? MayLoad::kYes : MayLoad::kNo);
    };
    StoreSink sink(*store_, key, session_);
    auto result = tune_bucket(problem, lab(), build, &sink, options);
    if (!result.ok()) return result.status();
    measured_s_ += std::chrono::duration<double>(Clock::now() - begin).count();
    measured_cost_ += expected;
    cancelled_ = result->cancelled;
    if (result->found) {
      finish_bucket(key, generator, rows, *result);
    } else if (result->late || seconds_left() <= 0) {
      report_.out_of_budget = true;
    } else if (!result->cancelled) {
      return {StatusCode::kVerificationFailed,
              "tokens = " + std::to_string(tokens()) + ": none of " +
                  std::to_string(result->failed + result->measured) +
                  " candidates gave a right answer; see `moejit explain`"};
    }
    return {};
  }

  // What get_kernel would not follow, such as a damaged row or a bad import, is no result.
  bool usable(const Selection& kept) const {
    const auto schedule = Schedule::from_json(kept.schedule);
    const Family* family = schedule.ok() ? find_family(schedule->family) : nullptr;
    return family != nullptr && !family->why_not(config(), device_.info().target, *schedule);
  }

  // A search that was cut short, or is to be exhaustive now, goes on where it ended.
  bool unfinished(const Selection& kept, const MeasurementKey& key) const {
    if (kept.how == "pinned") return false;
    if (kept.note.starts_with(kCutShort)) return true;
    if (!request_.exhaustive) return false;
    std::set<std::string> tried;
    for (const Measurement& m : store_->measurements(key)) tried.insert(m.schedule);
    return tried.size() < legal_schedules(config(), device_.info().target).size();
  }

  SessionOptions session_options(const MeasurementKey& key, const std::optional<Selection>& kept,
                                 const std::string& generator) {
    SessionOptions options;
    if (request_.max_candidates > 0) options.max_candidates = request_.max_candidates;
    options.exhaustive = request_.exhaustive;
    options.jobs = compile_jobs(request_.jobs);
    if (deadline_) {
      // Its part of what is left, generously: what a bucket saves, the next ones may use.
      const double others = static_cast<double>(std::min<size_t>(todo_.size() - place_ - 1, 5));
      const double share =
          std::min(1.5 * cost(place_) / cost_from(place_), 1 - 0.1 * others) * seconds_left();
      options.deadline = std::min(*deadline_, Clock::now() + nanoseconds(share));
      options.check_operations = std::clamp(seconds_left() * 2e7, 1e7, 1e9);
    }
    const auto schedule_of = [](const Selection& selection) -> std::optional<Schedule> {
      auto schedule = Schedule::from_json(selection.schedule);
      return schedule.ok() ? std::optional(*schedule) : std::nullopt;
    };
    if (kept) options.incumbent = schedule_of(*kept);
    if (previous_winner_) options.seeds.push_back(*previous_winner_);
    // Choices of other devices are worth a measurement here, no more.
    const auto elsewhere = store_->selections_elsewhere(key, generator);
    for (size_t i = 0; i < elsewhere.size() && i < 3; ++i) {
      if (auto schedule = schedule_of(elsewhere[i])) options.seeds.push_back(*schedule);
    }
    if (!request_.force) options.known = known_trials(config(), device_, *store_, key);
    options.progress = [this](const TuneProgress& p) { return progress(p.stage, p); };
    return options;
  }

  std::vector<RowCounts> draw_rows() const {
    std::vector<RowCounts> rows;
    for (int i = 0; i < routings_for(tokens()); ++i)
      rows.push_back(draw_routing(spec_, config(), tokens(), 1 + static_cast<uint64_t>(i)).rows);
    return rows;
  }

  void finish_bucket(const MeasurementKey& key, const std::string& generator,
                     const std::vector<RowCounts>& rows, const SessionResult& result) {
    Selection selection;
    selection.key = key;
    selection.generator = generator;
    selection.schedule = result.winner.schedule.to_json();
    selection.source = result.winner.digest;
    selection.toolchain = result.winner.toolchain;
    selection.how = "tuned";
    selection.median_s = result.winner.timing.median_s;
    selection.predicted_s = result.predicted_s;
    selection.floor_s = result.floor_s;
    selection.error = result.winner.error;
    selection.versus_default = result.versus_default;
    selection.candidates = result.measured;
    if (result.left_out > 0) {
      selection.note = kCutShort + std::to_string(result.left_out) +
                       " candidates were left out for lack of time";
    }
    store_->select(selection);
    publish(selection);
    previous_winner_ = result.winner.schedule;

    TuneRow row = row_of(selection, rows);
    row.p20_s = result.winner.timing.p20_s;
    row.p80_s = result.winner.timing.p80_s;
    row.samples = result.winner.timing.samples;
    row.failed = result.failed;
    row.model_rank = result.model_rank;
    if (result.left_out > 0) {
      row.advice += "; " + std::to_string(result.left_out) +
                    " candidates were left out for lack of time: the same call goes on with them";
    }
    put_off_.erase(todo_[place_]);
    rows_.emplace(todo_[place_], std::move(row));
  }

  // get_kernel asks for the most recent tune of any routing.
  void publish(Selection selection) {
    selection.key.policy = policy_of(kServingRouting);
    store_->select(selection);
  }

  TuneRow cached_row(const Selection& selection, const std::vector<RowCounts>& rows) {
    TuneRow row = row_of(selection, rows);
    row.from_cache = true;
    if (auto schedule = Schedule::from_json(selection.schedule); schedule.ok())
      previous_winner_ = *schedule;
    return row;
  }

  TuneRow row_of(const Selection& selection, const std::vector<RowCounts>& rows) const {
    TuneRow row;
    row.config = config();
    row.tokens = tokens();
    row.routing = spec_.name;
    row.schedule = selection.schedule;
    row.source = Source::kExact;
    row.median_s = selection.median_s;
    row.predicted_s = selection.predicted_s;
    row.error = selection.error;
    row.versus_default = selection.versus_default;
    row.candidates = selection.candidates;
    const auto floor = mean_floor(config(), report_.limits, rows, tokens());
    row.floor_s = floor.seconds;
    row.bytes = floor.bytes;
    row.flops = floor.flops;
    row.share = row.median_s > 0 ? row.floor_s / row.median_s : 0;
    row.advice = advice_for(row, report_.limits);
    return row;
  }

  const TuneRequest& request_;
  const Device& device_;
  std::shared_ptr<Store> store_;
  const std::vector<MoeConfig> layers_;
  const std::vector<TuneItem> items_;
  const Clock::time_point start_;
  std::optional<Clock::time_point> deadline_;
  const std::string session_ = new_session_id();
  RoutingSpec spec_;
  std::string helper_;  // "": candidates run here
  std::unique_ptr<Lab> lab_;
  std::optional<Schedule> previous_winner_;
  TuneReport report_;
  std::map<size_t, TuneRow> rows_, put_off_;  // by index into items_
  bool limits_known_ = false, cancelled_ = false, second_pass_ = false;
  bool keeps_ = false;  // results were to end in a file
  Status first_failure_;
  double measured_s_ = 0, measured_cost_ = 0;
  std::vector<size_t> todo_;  // indices into items_
  size_t place_ = 0;          // in todo_
  std::optional<size_t> layer_;
};

}  // namespace

Status check_tune_request(const TuneRequest& request) {
  if (request.shard_count < 1 || request.shard_index < 0 ||
      request.shard_index >= request.shard_count) {
    return invalid_argument("shard_index = " + std::to_string(request.shard_index) +
                            ": must be from 0 to shard_count - 1 (" +
                            std::to_string(request.shard_count - 1) + ")");
  }
  if (!(request.budget_s >= 0)) return invalid_argument("budget_s: must be 0 or more");
  if (!(request.trial_timeout_s >= 0)) {
    return invalid_argument("trial_timeout_s: must be 0 or more");
  }
  for (int64_t t : request.tokens) {
    if (t < 1) return invalid_argument("tokens: " + std::to_string(t) + " must be at least 1");
  }
  if (request.layers.empty()) return request.config.check();
  for (const MoeConfig& layer : request.layers) MOEJIT_RETURN_IF_ERROR(layer.check());
  return {};
}

std::vector<MoeConfig> tune_layers(const TuneRequest& request) {
  if (request.layers.empty()) return {request.config};
  std::vector<MoeConfig> layers;
  for (const MoeConfig& layer : request.layers) {
    if (std::find(layers.begin(), layers.end(), layer) == layers.end()) layers.push_back(layer);
  }
  return layers;
}

std::vector<TuneItem> tune_items(const std::vector<MoeConfig>& layers, std::vector<int64_t> tokens,
                                 int32_t shard_index, int32_t shard_count) {
  if (tokens.empty()) tokens = default_token_ladder(8192);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  std::vector<TuneItem> items;
  int64_t number = 0;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    bool first = true;
    for (const int64_t t : tokens) {
      if (number++ % shard_count != shard_index) continue;
      items.push_back({layer, t, first});
      first = false;
    }
  }
  return items;
}

std::string advice_for(const TuneRow& row, const DeviceLimits& limits) {
  if (row.share >= 0.92) return "at the limit";
  const bool memory = row.bytes / limits.read_bytes_per_s >= row.flops / limits.dot_flops_per_s;
  if (memory)
    return "memory-bound: only fewer bytes (a narrower dtype, fewer touched experts) can help much";
  if (row.share >= 0.8) return "near the arithmetic limit";
  return "between the limits: rows per expert are few; a larger batch raises the rate";
}

Result<TuneReport> run_tuning(const TuneRequest& request, const Device& device,
                              std::shared_ptr<Store> store) {
  auto spec = RoutingSpec::parse(request.routing);
  if (!spec.ok()) return spec.status();
  return Tuning(request, device, std::move(store)).run(*std::move(spec));
}

}  // namespace moejit::internal
