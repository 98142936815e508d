// Which backends this build has, and device names.
#include "backends/backend.h"
#include "backends/cpu/cpu_backend.h"
#include "base/nearest.h"
#include "base/settings.h"

namespace moejit::internal {
namespace {

std::string existing_devices() {
  std::string list, none;
  for (const Backend* backend : backends()) {
    std::string why_none;
    const std::vector<DeviceListing> devices = backend->devices(&why_none);
    for (const DeviceListing& device : devices) list += (list.empty() ? "" : ", ") + device.name;
    if (devices.empty()) {
      none += "; no " + std::string(backend->name());
      if (!why_none.empty()) none += " (" + why_none + ")";
    }
  }
  return list + none;
}

}  // namespace

// GPUs come first, then the CPU; the simulator, which "auto" never takes, last.
const std::vector<const Backend*>& backends() {
  static const std::vector<const Backend*>* const kAll = new std::vector<const Backend*>{
#ifdef MOEJIT_HAS_CUDA_BACKEND
      cuda_backend(),
#endif
#ifdef MOEJIT_HAS_HIP_BACKEND
      hip_backend(),
#endif
      cpu_backend(),
#ifdef MOEJIT_HAS_SIM_BACKEND
      sim_backend(),
#endif
  };
  return *kAll;
}

Result<const Device*> open_device(const std::string& name, int num_threads) {
  if (num_threads < 0) {
    return invalid_argument("num_threads = " + std::to_string(num_threads) +
                            ": must be 0 (all) or more");
  }
  if (name == "auto") {
    const std::string& preferred = settings().device;
    if (preferred != "auto") {
      auto device = open_device(preferred, num_threads);
      if (device.ok()) return device;
      return Status(device.status().code(), "MOEJIT_DEVICE: " + device.status().message(),
                    device.status().log());
    }
    for (const Backend* backend : backends()) {
      if (backend == cpu_backend()) break;
      std::string why_none;
      const std::vector<DeviceListing> devices = backend->devices(&why_none);
      if (!devices.empty()) return open_device(devices.front().name, num_threads);
    }
    return open_cpu_device("", num_threads);
  }
  const size_t colon = name.find(':');
  const std::string kind = name.substr(0, colon);
  const std::string spec = colon == std::string::npos ? "" : name.substr(colon + 1);
  for (const Backend* backend : backends()) {
    if (kind != backend->name()) continue;
    return backend == cpu_backend() ? open_cpu_device(spec, num_threads) : backend->open(spec);
  }
  return Status(
      StatusCode::kNotFound,
      "device = " + in_quotes(name) + ": no such device; there are auto, " + existing_devices());
}

}  // namespace moejit::internal
