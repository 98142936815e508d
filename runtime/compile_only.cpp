#include <algorithm>
#include <chrono>
#include <map>
#include <thread>

#include "moejit/tuning.h"
#include "runtime/library.h"
#include "runtime/plan.h"
#include "tuner/compile_pool.h"
#include "tuner/roofline.h"

namespace moejit {
inline namespace v1 {
namespace {

constexpr int32_t kDefaultCandidates = 3;

// The schedules of one layer that are worth a binary, by the first bucket that wants each.
Result<std::vector<CompileRow>> wanted(const MoeConfig& config, const internal::Device& device,
                                       internal::Store& store, const std::vector<int64_t>& tokens,
                                       const TuneRequest& request) {
  auto plan = internal::plan_buckets(config, device, store, tokens);
  if (!plan.ok()) return plan.status();
  const internal::Target& target = device.info().target;
  const DeviceLimits limits = internal::known_limits(device, store, config.dtype);
  const size_t most = request.exhaustive           ? SIZE_MAX
                      : request.max_candidates > 0 ? static_cast<size_t>(request.max_candidates)
                                                   : size_t{kDefaultCandidates};
  std::vector<CompileRow> rows;
  std::map<std::string, size_t> known;
  const auto want = [&](std::string schedule, int64_t bucket, double predicted, bool planned) {
    const auto [at, added] = known.emplace(schedule, rows.size());
    if (added) {
      rows.emplace_back();
      rows.back().schedule = std::move(schedule);
      rows.back().predicted_s = predicted;
    }
    CompileRow& row = rows[at->second];
    row.planned |= planned;
    if (row.tokens.empty() || row.tokens.back() != bucket) row.tokens.push_back(bucket);
  };
  for (const internal::PlannedBucket& bucket : *plan) {
    want(bucket.info.schedule, bucket.tokens, bucket.info.predicted_s, true);
    const auto ranked = internal::rank_schedules(config, target, limits,
                                                 {internal::typical_rows(config, bucket.tokens)});
    for (size_t i = 0; i < std::min(most, ranked.size()); ++i)
      want(ranked[i].schedule.to_json(), bucket.tokens, ranked[i].predicted_s, false);
  }
  return rows;
}

}  // namespace

Result<CompileReport> compile_only(const TuneRequest& request) {
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  auto device = internal::open_device(request.device, request.num_threads);
  if (!device.ok()) return device.status();
  if (const auto compiler = (*device)->compiler(); !compiler.ok()) return compiler.status();
  const auto store = internal::open_store(request.cache_path);
  MOEJIT_RETURN_IF_ERROR(internal::check_keeps(request, *store));
  const std::vector<int64_t> tokens =
      request.tokens.empty() ? internal::default_token_ladder(8192) : request.tokens;
  for (int64_t t : tokens) {
    if (t < 1) return invalid_argument("tokens: " + std::to_string(t) + " must be at least 1");
  }
  std::vector<MoeConfig> layers = request.layers;
  if (layers.empty()) layers.push_back(request.config);
  const int jobs = request.jobs > 0
                       ? request.jobs
                       : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));

  CompileReport report;
  report.device = (*device)->info().name;
  for (size_t l = 0; l < layers.size() && !report.cancelled; ++l) {
    MOEJIT_RETURN_IF_ERROR(layers[l].check());
    auto rows = wanted(layers[l], **device, *store, tokens, request);
    if (!rows.ok()) return rows.status();
    std::vector<internal::Schedule> schedules;
    for (const CompileRow& row : *rows)
      schedules.push_back(*internal::Schedule::from_json(row.schedule));
    const internal::Builder build = [&](const internal::Schedule& schedule) {
      return internal::build_kernel(**device, *store, layers[l], schedule,
                                    internal::MayCompile::kYes, internal::MayLoad::kNo);
    };
    internal::CompilePool pool(build, schedules, jobs, std::nullopt);
    for (size_t i = 0; i < rows->size(); ++i) {
      if (request.progress) {
        TuneProgress p;
        p.stage = TuneStage::kCompile;
        p.layer = static_cast<int32_t>(l);
        p.num_layers = static_cast<int32_t>(layers.size());
        p.tokens = (*rows)[i].tokens.front();
        p.done = static_cast<int32_t>(i);
        p.total = static_cast<int32_t>(rows->size());
        p.elapsed_s = elapsed();
        p.remaining_s =
            i > 0 ? p.elapsed_s / static_cast<double>(i) * static_cast<double>(rows->size() - i)
                  : 0;
        p.schedule = (*rows)[i].schedule;
        if (!request.progress(p)) {
          report.cancelled = true;
          break;
        }
      }
      CompileRow& row = (*rows)[i];
      row.layer = static_cast<int32_t>(l);
      const Result<internal::BuiltKernel>* built = pool.get(i);
      row.ok = built != nullptr && built->ok();
      if (row.ok) {
        row.registers = (**built).registers;
        row.spill_bytes = (**built).spill_bytes;
        row.binary_bytes = static_cast<int64_t>((**built).binary->bytes.size());
      } else if (built != nullptr) {
        row.error = built->status().message();
      }
      report.rows.push_back(std::move(row));
    }
  }
  if (store->degraded().empty()) {
    Status saved = store->save();
    for (int i = 0; i < 6 && saved.code() == StatusCode::kUnavailable; ++i) saved = store->save();
    report.not_kept = saved.message();
  } else {
    report.not_kept = store->degraded();
  }
  report.seconds = elapsed();
  return report;
}

}  // namespace v1
}  // namespace moejit
