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
  MOEJIT_RETURN_IF_ERROR(internal::check_keeps(request, *store));
  return internal::run_tuning(request, **device, std::move(store));
}

Result<DeviceLimits> device_limits(const std::string& device_name, DType dtype, bool measure,
                                   const std::string& cache_path, int32_t num_threads) {
  auto device = internal::open_device(device_name, num_threads);
  if (!device.ok()) return device.status();
  const auto store = internal::open_store(cache_path);
  const DeviceLimits limits = internal::known_limits(**device, *store, dtype);
  return limits.measured || !measure ? limits : internal::renew_limits(**device, *store, dtype);
}

}  // namespace v1
}  // namespace moejit
