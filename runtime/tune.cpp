#include "base/settings.h"
#include "moejit/tuning.h"
#include "runtime/library.h"
#include "runtime/tuning_run.h"
#include "tuner/limits.h"

namespace moejit {
inline namespace v1 {

Result<TuneReport> tune(const TuneRequest& request) {
  MOEJIT_RETURN_IF_ERROR(internal::check_tune_request(request));
  auto device = internal::open_device(request.device, request.num_threads);
  if (!device.ok()) return device.status();
  auto store = internal::open_store(request.cache_path);
  if (std::string why = store->degraded(); request.require_cache && !why.empty()) {
    const internal::Settings& settings = internal::settings();
    if (request.cache_path.empty() && settings.cache_dir.empty()) why = settings.cache_dir_reason;
    return Status(StatusCode::kIoError, "results could not be kept: " + why);
  }
  return internal::run_tuning(request, **device, std::move(store));
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
