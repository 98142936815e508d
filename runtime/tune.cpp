#include <algorithm>
#include <chrono>
#include <random>

#include "base/hash.h"
#include "base/log.h"
#include "base/settings.h"
#include "moejit/tuning.h"
#include "runtime/library.h"
#include "runtime/plan.h"
#include "tuner/limits.h"
#include "tuner/roofline.h"
#include "tuner/session.h"

namespace moejit {
inline namespace v1 {
namespace {

using internal::BuiltKernel;
using internal::Device;
using internal::MeasurementKey;
using internal::Schedule;
using internal::Selection;
using internal::SessionResult;
using internal::Store;
using internal::Trial;
using Clock = std::chrono::steady_clock;

std::string new_session_id() {
  std::random_device entropy;
  uint32_t words[4];
  for (uint32_t& word : words) word = entropy();
  return internal::to_hex(reinterpret_cast<const uint8_t*>(words), sizeof words);
}

// Every trial becomes a committed row before the next begins.
class StoreSink : public internal::TrialSink {
 public:
  StoreSink(Store& store, MeasurementKey key, std::string session)
      : store_(store), key_(std::move(key)), session_(std::move(session)) {}

  void on_trial(const Trial& trial) override {
    internal::Measurement m;
    m.key = key_;
    m.session = session_;
    m.schedule = trial.schedule.to_json();
    m.source = trial.digest;
    m.toolchain = trial.toolchain;
    m.stage = trial.stage;
    m.status = trial.status;
    m.median_s = trial.timing.median_s;
    m.p20_s = trial.timing.p20_s;
    m.p80_s = trial.timing.p80_s;
    m.samples = trial.timing.samples;
    m.predicted_s = trial.predicted_s;
    m.floor_s = trial.floor_s;
    m.error = trial.error;
    m.note = trial.note;
    store_.record(m);
  }

 private:
  Store& store_;
  MeasurementKey key_;
  std::string session_;
};

std::string advice_for(const TuneRow& row, const DeviceLimits& limits) {
  if (row.share >= 0.92) return "at the limit";
  const bool memory = row.bytes / limits.read_bytes_per_s >= row.flops / limits.dot_flops_per_s;
  if (memory)
    return "memory-bound: only fewer bytes (a narrower dtype, fewer touched experts) can help much";
  if (row.share >= 0.8) return "near the arithmetic limit";
  return "between the limits: rows per expert are few; a larger batch raises the rate";
}

class Tuning {
 public:
  Tuning(const TuneRequest& request, const Device& device, std::shared_ptr<Store> store)
      : request_(request), device_(device), store_(std::move(store)), start_(Clock::now()) {}

  Result<TuneReport> run(internal::RoutingSpec spec) {
    spec_ = std::move(spec);
    const auto why = internal::refusals(request_.config, device_.info().target);
    if (why.size() == internal::families().size()) {
      std::string all;
      for (const std::string& reason : why) all += (all.empty() ? "" : "; ") + reason;
      return Status(StatusCode::kUnsupported, "device " + device_.info().name +
                                                  ": no kernel family can run this layer: " + all);
    }
    std::vector<int64_t> tokens =
        request_.tokens.empty() ? internal::default_token_ladder(8192) : request_.tokens;
    std::sort(tokens.begin(), tokens.end());
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    for (int64_t t : tokens) {
      if (t < 1) return invalid_argument("tokens: " + std::to_string(t) + " must be at least 1");
    }
    num_buckets_ = static_cast<int32_t>(tokens.size());
    report_.device = device_.info().name;
    if (!progress(TuneStage::kProbe, {})) return cancelled();
    auto limits = device_limits(request_.device, request_.config.dtype, true, request_.cache_path,
                                request_.num_threads);
    if (!limits.ok()) return limits.status();
    report_.limits = *limits;
    for (bucket_ = 0; bucket_ < num_buckets_; ++bucket_) {
      tokens_ = tokens[static_cast<size_t>(bucket_)];
      const Status status = one_bucket();
      if (!status.ok()) return status;
      if (report_.cancelled) return cancelled();
    }
    internal::forget_kernels();
    report_.seconds = elapsed();
    progress(TuneStage::kDone, {});
    return report_;
  }

 private:
  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  Result<TuneReport> cancelled() {
    internal::forget_kernels();
    report_.cancelled = true;
    report_.seconds = elapsed();
    report_.missing = num_buckets_ - static_cast<int32_t>(report_.rows.size());
    return report_;
  }

  bool progress(TuneStage stage, TuneProgress p) {
    if (!request_.progress) return true;
    p.stage = stage;
    p.tokens = tokens_;
    p.bucket = bucket_;
    p.num_buckets = num_buckets_;
    p.elapsed_s = elapsed();
    if (request_.budget_s > 0) {
      p.remaining_s = std::max(0.0, request_.budget_s - p.elapsed_s);
    } else if (bucket_ > 0) {
      p.remaining_s = p.elapsed_s / bucket_ * (num_buckets_ - bucket_);
    }
    return request_.progress(p);
  }

  Status one_bucket() {
    const MeasurementKey key =
        internal::measurement_key(request_.config, device_, tokens_, spec_.name);
    const std::string& generator = internal::generator_digest(device_.info().target);
    const auto kept = store_->find_selection(key, generator);
    if (kept && !request_.force) {
      if (auto row = cached_row(*kept)) {
        publish(*kept);
        report_.rows.push_back(*std::move(row));
        return {};
      }
    }
    if (!progress(TuneStage::kPrepare, {})) {
      report_.cancelled = true;
      return {};
    }
    MOEJIT_RETURN_IF_ERROR(prepare_weights());
    auto load = internal::Workload::make(weights_, device_, spec_, tokens_,
                                         internal::routings_for(tokens_), 1);
    if (!load.ok()) return load.status();

    internal::SessionOptions options;
    if (request_.max_candidates > 0) options.max_candidates = request_.max_candidates;
    options.exhaustive = request_.exhaustive;
    options.jobs = internal::compile_jobs(request_.jobs);
    if (request_.budget_s > 0) {
      // What is left is shared by the buckets that are left.
      options.seconds = std::max(0.5, (request_.budget_s - elapsed()) / (num_buckets_ - bucket_));
    }
    if (kept) {
      if (auto schedule = Schedule::from_json(kept->schedule); schedule.ok())
        options.seeds.push_back(*schedule);
    }
    if (previous_winner_) options.seeds.push_back(*previous_winner_);
    options.progress = [this](const TuneProgress& p) { return progress(p.stage, p); };
    const auto build = [this](const Schedule& schedule) {
      return internal::build_kernel(device_, *store_, request_.config, schedule,
                                    internal::MayCompile::kYes);
    };
    StoreSink sink(*store_, key, session_);
    auto result = internal::tune_bucket(device_, **load, report_.limits, build, &sink, options);
    if (!result.ok()) return result.status();
    report_.cancelled = result->cancelled;
    if (!result->found) {
      if (result->cancelled) return {};
      return {StatusCode::kVerificationFailed,
              "tokens = " + std::to_string(tokens_) + ": none of " +
                  std::to_string(result->failed + result->measured) +
                  " candidates gave a right answer; see `moejit explain`"};
    }
    finish(key, generator, **load, *result);
    return {};
  }

  void finish(const MeasurementKey& key, const std::string& generator, internal::Workload& load,
              const SessionResult& result) {
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
    store_->select(selection);
    publish(selection);
    previous_winner_ = result.winner.schedule;

    TuneRow row;
    fill(&row, selection);
    row.p20_s = result.winner.timing.p20_s;
    row.p80_s = result.winner.timing.p80_s;
    row.samples = result.winner.timing.samples;
    row.candidates = result.measured;
    row.failed = result.failed;
    row.model_rank = result.model_rank;
    set_work(&row, load.row_counts());
    report_.rows.push_back(std::move(row));
  }

  // get_kernel asks for the most recent tune of any routing.
  void publish(Selection selection) {
    selection.key.policy =
        internal::measurement_key(request_.config, device_, tokens_, internal::kServingRouting)
            .policy;
    store_->select(selection);
  }

  void fill(TuneRow* row, const Selection& selection) {
    row->config = request_.config;
    row->tokens = tokens_;
    row->routing = spec_.name;
    row->schedule = selection.schedule;
    row->source = Source::kExact;
    row->median_s = selection.median_s;
    row->predicted_s = selection.predicted_s;
    row->error = selection.error;
    row->versus_default = selection.versus_default;
    row->candidates = selection.candidates;
  }

  void set_work(TuneRow* row, const std::vector<internal::RowCounts>& rows) {
    const auto floor = internal::mean_floor(request_.config, report_.limits, rows, tokens_);
    row->floor_s = floor.seconds;
    row->bytes = floor.bytes;
    row->flops = floor.flops;
    row->share = row->median_s > 0 ? row->floor_s / row->median_s : 0;
    row->advice = advice_for(*row, report_.limits);
  }

  std::optional<TuneRow> cached_row(const Selection& selection) {
    TuneRow row;
    fill(&row, selection);
    row.from_cache = true;
    std::vector<internal::RowCounts> rows;
    for (int i = 0; i < internal::routings_for(tokens_); ++i) {
      rows.push_back(
          internal::draw_routing(spec_, request_.config, tokens_, 1 + static_cast<uint64_t>(i))
              .rows);
    }
    set_work(&row, rows);
    if (auto schedule = Schedule::from_json(selection.schedule); schedule.ok())
      previous_winner_ = *schedule;
    return row;
  }

  Status prepare_weights() {
    if (weights_ != nullptr) return {};
    const internal::Target& target = device_.info().target;
    // Cold weights: at least four times the last-level cache between two uses of the same bytes.
    auto weights = internal::Weights::make(request_.config, device_,
                                           4 * std::max(target.l2_bytes, target.l3_bytes));
    if (!weights.ok()) return weights.status();
    weights_ = *weights;
    return {};
  }

  const TuneRequest& request_;
  const Device& device_;
  std::shared_ptr<Store> store_;
  const Clock::time_point start_;
  const std::string session_ = new_session_id();
  internal::RoutingSpec spec_;
  std::shared_ptr<const internal::Weights> weights_;
  std::optional<Schedule> previous_winner_;
  TuneReport report_;
  int64_t tokens_ = 0;
  int32_t bucket_ = 0, num_buckets_ = 0;
};

}  // namespace

Result<TuneReport> tune(const TuneRequest& request) {
  if (request.shard_count < 1 || request.shard_index < 0 ||
      request.shard_index >= request.shard_count) {
    return invalid_argument("shard_index = " + std::to_string(request.shard_index) +
                            ": must be from 0 to shard_count - 1 (" +
                            std::to_string(request.shard_count - 1) + ")");
  }
  MOEJIT_RETURN_IF_ERROR(request.config.check());
  auto device = internal::open_device(request.device, request.num_threads);
  if (!device.ok()) return device.status();
  auto spec = internal::RoutingSpec::parse(request.routing);
  if (!spec.ok()) return spec.status();
  return Tuning(request, **device, internal::open_store(request.cache_path)).run(*std::move(spec));
}

Result<DeviceLimits> device_limits(const std::string& device_name, DType dtype, bool measure,
                                   const std::string& cache_path, int32_t num_threads) {
  auto device = internal::open_device(device_name, num_threads);
  if (!device.ok()) return device.status();
  const auto store = internal::open_store(cache_path);
  DeviceLimits limits = internal::known_limits(**device, *store, dtype);
  if (limits.measured || !measure) return limits;
  auto probed = internal::probe_limits(**device, dtype);
  if (!probed.ok()) {
    if (probed.status().code() == StatusCode::kUnsupported) return limits;
    return probed.status();
  }
  const std::string& environment = (*device)->info().identity;
  const auto kept = store->limits(environment);
  store->set_limits(environment,
                    {.json = internal::add_limits_to_json(kept ? kept->json : "", dtype, *probed),
                     .measured_at = 0});
  return probed;
}

}  // namespace v1
}  // namespace moejit
