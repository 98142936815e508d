#include <algorithm>
#include <cmath>

#include "moejit/tuning.h"
#include "runtime/library.h"
#include "runtime/state.h"
#include "tuner/check.h"
#include "tuner/limits.h"
#include "tuner/roofline.h"
#include "tuner/session.h"

namespace moejit {
inline namespace v1 {
namespace {

using internal::Device;
using internal::Workload;

std::vector<int64_t> or_default(std::vector<int64_t> tokens, std::vector<int64_t> fallback) {
  return tokens.empty() ? fallback : tokens;
}

Result<Kernel> kernel_for(const MoeConfig& config, const std::string& device, int32_t num_threads,
                          const std::string& cache_path, std::vector<int64_t> tokens) {
  Options options;
  options.device = device;
  options.num_threads = num_threads;
  options.cache_path = cache_path;
  tokens.erase(std::remove(tokens.begin(), tokens.end(), 0), tokens.end());
  options.tokens = tokens.empty() ? std::vector<int64_t>{1} : tokens;
  options.max_tokens = *std::max_element(options.tokens.begin(), options.tokens.end());
  return get_kernel(config, options);
}

bool go_on(const std::function<bool(int32_t, int32_t)>& progress, size_t done, size_t total) {
  return !progress || progress(static_cast<int32_t>(done), static_cast<int32_t>(total));
}

}  // namespace

Result<BenchReport> bench(const BenchRequest& request) {
  MOEJIT_RETURN_IF_ERROR(request.config.check());
  const std::vector<int64_t> tokens = or_default(request.tokens, {1, 8, 32, 128, 512});
  for (int64_t t : tokens) {
    if (t < 1) return invalid_argument("tokens: " + std::to_string(t) + " must be at least 1");
  }
  if (request.samples < 1)
    return invalid_argument("samples = " + std::to_string(request.samples) +
                            ": must be at least 1");
  auto device = internal::open_device(request.device, request.num_threads);
  if (!device.ok()) return device.status();
  auto spec = internal::RoutingSpec::parse(request.routing);
  if (!spec.ok()) return spec.status();
  MOEJIT_RETURN_IF_ERROR(spec->check(request.config));
  auto kernel =
      kernel_for(request.config, request.device, request.num_threads, request.cache_path, tokens);
  if (!kernel.ok()) return kernel.status();
  // The rates of these minutes, not of the day of the tune: shared machines change by the minute.
  auto limits = internal::probe_limits(**device, request.config.dtype);
  BenchReport report;
  report.device = (*device)->info().name;
  report.limits = limits.ok()
                      ? *limits
                      : internal::known_limits(**device, *internal::open_store(request.cache_path),
                                               request.config.dtype);
  const internal::Target& target = (*device)->info().target;
  auto weights = internal::Weights::make(request.config, **device,
                                         4 * std::max(target.l2_bytes, target.l3_bytes));
  if (!weights.ok()) return weights.status();
  for (int64_t t : tokens) {
    if (!go_on(request.progress, report.rows.size(), tokens.size())) break;
    const internal::LaunchPlan& plan = kernel->state()->plan_for(t);
    auto load = Workload::make(*weights, **device, *spec, t, internal::routings_for(t), 7);
    if (!load.ok()) return load.status();
    MOEJIT_RETURN_IF_ERROR(
        (*load)->reserve_workspace(**device, static_cast<int64_t>(kernel->workspace_size(t))));
    BenchRow row;
    row.tokens = t;
    row.routing = spec->name;
    row.schedule = plan.info.schedule;
    row.source = plan.info.source;
    if (request.check) {
      const auto check = internal::check_module(**device, *plan.module, **load, 0,
                                                internal::expected_rows(**load, 0, 2e9));
      if (!check.ok()) return check.status();
      row.error = check->error;
      if (!check->problem.empty()) {
        return Status(
            StatusCode::kVerificationFailed,
            "tokens = " + std::to_string(t) + ", schedule " + row.schedule + ": " + check->problem);
      }
    }
    auto samples = internal::measure(**device, *plan.module, **load, 1, 0, request.samples, 0);
    if (!samples.ok()) return samples.status();
    const auto summary = internal::summarize(*samples);
    row.median_s = summary.median_s;
    row.p20_s = summary.p20_s;
    row.p80_s = summary.p80_s;
    row.samples = summary.samples;
    const auto rows = (*load)->row_counts();
    const auto schedule = internal::Schedule::from_json(row.schedule);
    if (schedule.ok())
      row.predicted_s =
          internal::predict_seconds(request.config, target, *schedule, report.limits, rows);
    const auto floor = internal::mean_floor(request.config, report.limits, rows, t);
    row.floor_s = floor.seconds;
    row.bytes = floor.bytes;
    row.flops = floor.flops;
    row.share = row.median_s > 0 ? row.floor_s / row.median_s : 0;
    report.rows.push_back(std::move(row));
  }
  if (report.rows.empty()) return Status(StatusCode::kCancelled, "stopped before the first row");
  return report;
}

Result<std::vector<VerifyRow>> verify(const VerifyRequest& request) {
  MOEJIT_RETURN_IF_ERROR(request.config.check());
  const MoeConfig& config = request.config;
  std::vector<std::string> routings = request.routings;
  if (routings.empty()) routings = {"uniform", "zipf:1.2", "one", "skip"};
  auto device = internal::open_device(request.device, request.num_threads);
  if (!device.ok()) return device.status();
  const std::vector<int64_t> tokens = or_default(request.tokens, {0, 1, 2, 7, 32, 129});
  for (int64_t t : tokens) {
    if (t < 0) return invalid_argument("tokens: " + std::to_string(t) + " must not be negative");
  }
  std::vector<internal::RoutingSpec> specs;
  for (const std::string& name : routings) {
    auto spec = internal::RoutingSpec::parse(name);
    if (!spec.ok()) return spec.status();
    MOEJIT_RETURN_IF_ERROR(spec->check(config));
    specs.push_back(*std::move(spec));
  }
  auto kernel = kernel_for(config, request.device, request.num_threads, request.cache_path, tokens);
  if (!kernel.ok()) return kernel.status();
  auto weights = internal::Weights::make(config, **device, 0);
  if (!weights.ok()) return weights.status();
  const auto store = internal::open_store(request.cache_path);

  std::vector<VerifyRow> rows;
  const std::vector<internal::Schedule> schedules =
      request.all_schedules ? internal::legal_schedules(config, (*device)->info().target)
                            : std::vector<internal::Schedule>(1);
  const size_t total = specs.size() * tokens.size() * schedules.size();
  for (const internal::RoutingSpec& spec : specs) {
    for (int64_t t : tokens) {
      auto load = Workload::make(*weights, **device, spec, t, 1, 11 + static_cast<uint64_t>(t));
      if (!load.ok()) return load.status();
      const internal::Expected expected = internal::expected_rows(**load, 0, 1e9);
      const auto check_one = [&](const internal::Module& module,
                                 const std::vector<internal::WorkspaceRegion>& regions,
                                 const std::string& schedule) -> Status {
        MOEJIT_RETURN_IF_ERROR((*load)->reserve_workspace(
            **device, internal::workspace_offset(regions, regions.size(), t)));
        VerifyRow row;
        row.tokens = t;
        row.routing = spec.name;
        row.schedule = schedule;
        row.tolerance = internal::tolerance(config.dtype);
        const auto check = internal::check_module(**device, module, **load, 0, expected);
        row.note = check.ok() ? check->problem : check.status().message();
        row.error = check.ok() ? check->error : INFINITY;
        row.ok = check.ok() && row.note.empty();
        rows.push_back(std::move(row));
        return {};
      };
      const auto stopped = [&]() -> Result<std::vector<VerifyRow>> {
        if (rows.empty()) return Status(StatusCode::kCancelled, "stopped before the first check");
        return rows;
      };
      if (!request.all_schedules) {
        if (!go_on(request.progress, rows.size(), total)) return stopped();
        const internal::LaunchPlan& plan = kernel->state()->plan_for(t);
        MOEJIT_RETURN_IF_ERROR(check_one(*plan.module, plan.regions, plan.info.schedule));
        continue;
      }
      for (const internal::Schedule& schedule : schedules) {
        if (!go_on(request.progress, rows.size(), total)) return stopped();
        auto built =
            internal::build_kernel(**device, *store, config, schedule, internal::MayCompile::kYes);
        if (!built.ok()) return built.status();
        MOEJIT_RETURN_IF_ERROR(
            check_one(*built->module, built->source.workspace, schedule.to_json()));
      }
    }
  }
  return rows;
}

}  // namespace v1
}  // namespace moejit
