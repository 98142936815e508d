#include "backends/hip/runtime.h"

#include <cstdlib>
#include <cstring>

#include "base/dylib.h"

namespace moejit::internal::hip {
namespace {

constexpr const char* kRuntime = "libamdhip64.so";

Status unavailable(const std::string& message) {
  return {StatusCode::kUnavailable, "no HIP device: " + message};
}

}  // namespace

std::vector<std::string> rocm_candidates(const std::vector<std::string>& names) {
  std::vector<std::string> paths;
  const std::string loaded = loaded_library(kRuntime);
  if (const size_t slash = loaded.rfind('/'); slash != std::string::npos) {
    for (const std::string& name : names) paths.push_back(loaded.substr(0, slash + 1) + name);
  }
  const char* root = std::getenv("ROCM_PATH");
  if (root != nullptr && *root != '\0') {
    for (const std::string& name : names) paths.push_back(std::string(root) + "/lib/" + name);
  }
  paths.insert(paths.end(), names.begin(), names.end());
  for (const std::string& name : names) paths.push_back("/opt/rocm/lib/" + name);
  return paths;
}

std::vector<std::string> runtime_candidates() {
  std::vector<std::string> paths = rocm_candidates(
      {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"});
  if (const std::string loaded = loaded_library(kRuntime); !loaded.empty())
    paths.insert(paths.begin(), loaded);
  return paths;
}

Result<std::unique_ptr<const Runtime>> open_runtime(const std::vector<std::string>& paths) {
  Result<Dylib> library = Dylib::open_first(paths);
  if (!library.ok()) {
    return Status(StatusCode::kUnavailable,
                  "no HIP device: libamdhip64.so not found (looked for versions 7, 6 and 5); "
                  "install ROCm, or set ROCM_PATH to its directory",
                  library.status().message());
  }
  auto api = std::make_unique<Runtime>();
  api->path = library->path();
  std::string missing;
#define MOEJIT_HIP_FIND(name, parameters) \
  if (!library->find(#name, api->name) && missing.empty()) missing = #name;
  MOEJIT_HIP_FUNCTIONS(MOEJIT_HIP_FIND)
#undef MOEJIT_HIP_FIND
  if (!library->find("hipGetErrorName", api->hipGetErrorName)) missing = "hipGetErrorName";
  if (!library->find("hipGetErrorString", api->hipGetErrorString)) missing = "hipGetErrorString";
  if (!library->find("hipGetDevicePropertiesR0600", api->properties) &&
      !library->find("hipGetDeviceProperties", api->properties)) {
    missing = "hipGetDeviceProperties";
  }
  if (!missing.empty()) {
    return unavailable(api->path + " has no function " + missing + "; install ROCm 5.2 or later");
  }
  int count = 0;
  hipError_t result = api->hipInit(0);
  if (result == kSuccess) result = api->hipGetDeviceCount(&count);
  if (result == kErrorNoDevice || result == kErrorInvalidDevice ||
      (result == kSuccess && count == 0)) {
    return unavailable("ROCm at " + api->path +
                       " finds none; the amdgpu driver must be loaded and /dev/kfd readable");
  }
  if (result != kSuccess) return unavailable(failure(*api, result, "hipInit").message());
  api->hipRuntimeGetVersion(&api->version);
  return std::unique_ptr<const Runtime>(std::move(api));
}

const Result<const Runtime*>& runtime() {
  static const auto* const kOpened = [] {
    auto opened = open_runtime(runtime_candidates());
    return opened.ok() ? new Result<const Runtime*>(opened->release())
                       : new Result<const Runtime*>(opened.status());
  }();
  return *kOpened;
}

DeviceName device_name(const Runtime& api, int ordinal) {
  // 5.2's structure has about 800 bytes, 6.0's about 1500.
  std::vector<char> properties(16 << 10, '\0');
  DeviceName name;
  if (api.properties(properties.data(), ordinal) != kSuccess) return name;
  name.product.assign(properties.data(), strnlen(properties.data(), 256));
  for (size_t i = 256; i + 8 < properties.size(); ++i) {
    if (std::memcmp(&properties[i], "gfx", 3) != 0) continue;
    const size_t length = strnlen(&properties[i], 128);
    if (length < 6) continue;
    name.arch.assign(&properties[i], length);
    break;
  }
  return name;
}

std::string base_arch(const std::string& arch) {
  return arch.substr(0, arch.find(':'));
}

Status failure(const Runtime& api, hipError_t result, const std::string& what) {
  const char* name = api.hipGetErrorName(result);
  const char* text = api.hipGetErrorString(result);
  std::string message = what + ": " + (name != nullptr ? name : "error " + std::to_string(result));
  if (text != nullptr) message += std::string(" (") + text + ")";
  switch (result) {
    case kErrorOutOfMemory:
      return {StatusCode::kOutOfMemory, message};
    case kErrorIllegalAddress:
    case kErrorLaunchFailure:
      return {StatusCode::kDeviceError,
              message +
                  "; a kernel of this process failed earlier: check the pointers of the last "
                  "launches, then restart the process"};
    case kErrorInvalidImage:
    case kErrorNoBinaryForGpu:
      return {StatusCode::kDataError, message + "; the code object was made for another GPU"};
    case kErrorLaunchOutOfResources:
      return {StatusCode::kDeviceError,
              message + "; the kernel needs more registers or LDS than are free"};
    default:
      return {StatusCode::kDeviceError, message};
  }
}

ScopedDevice::ScopedDevice(const Runtime& api, int ordinal) : api_(api) {
  if (api.hipGetDevice(&before_) == kSuccess && before_ == ordinal) return;
  const hipError_t result = api.hipSetDevice(ordinal);
  changed_ = result == kSuccess;
  if (!changed_) status_ = failure(api, result, "hipSetDevice(" + std::to_string(ordinal) + ")");
}

ScopedDevice::~ScopedDevice() {
  if (changed_ && before_ >= 0) api_.hipSetDevice(before_);
}

}  // namespace moejit::internal::hip
