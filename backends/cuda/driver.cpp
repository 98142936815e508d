#include "backends/cuda/driver.h"

#include "base/dylib.h"

namespace moejit::internal::cuda {
namespace {

// cuLaunchKernelEx and cuTensorMapEncodeTiled are in every driver from here on.
constexpr int kOldestDriver = 12000;

Status unavailable(std::string message) {
  return {StatusCode::kUnavailable, std::move(message)};
}

Result<const Driver*> open_driver() {
  Result<Dylib> library = Dylib::open_first({"libcuda.so.1", "libcuda.so"});
  if (!library.ok()) {
    return unavailable("no CUDA device: libcuda.so.1 not found; install the NVIDIA driver");
  }
  auto* api = new Driver;  // lives as long as the process
  api->path = library->path();
  if (library->find("cuDriverGetVersion", api->cuDriverGetVersion))
    api->cuDriverGetVersion(&api->version);
  if (api->version < kOldestDriver) {
    return unavailable("no CUDA device: the driver supports CUDA " + version_text(api->version) +
                       "; needed is CUDA 12.0 or later");
  }
  std::string missing;
#define MOEJIT_CUDA_FIND(name, symbol, parameters) \
  if (!library->find(symbol, api->name)) missing = symbol;
  MOEJIT_CUDA_FUNCTIONS(MOEJIT_CUDA_FIND)
#undef MOEJIT_CUDA_FIND
  if (!missing.empty()) {
    return unavailable("no CUDA device: " + api->path + " has no function " + missing +
                       "; install a newer driver");
  }
  const CUresult result = api->cuInit(0);
  if (result == kErrorNoDevice) return unavailable("no CUDA device: the driver finds none");
  if (result != kSuccess)
    return unavailable("no CUDA device: " + failure(*api, result, "cuInit").message());
  return static_cast<const Driver*>(api);
}

}  // namespace

const Result<const Driver*>& driver() {
  static const auto* const kDriver = new Result<const Driver*>(open_driver());
  return *kDriver;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Status failure(const Driver& api, CUresult result, const std::string& what) {
  const char* name = nullptr;
  const char* text = nullptr;
  api.cuGetErrorName(result, &name);
  api.cuGetErrorString(result, &text);
  std::string message = what + ": " + (name != nullptr ? name : "error " + std::to_string(result));
  if (text != nullptr) message += std::string(" (") + text + ")";
  switch (result) {
    case kErrorOutOfMemory:
      return {StatusCode::kOutOfMemory, message};
    case kErrorIllegalAddress:
    case kErrorMisalignedAddress:
    case kErrorLaunchFailed:
      return {
          StatusCode::kDeviceError,
          message +
              "; a kernel of this process failed earlier, and its context cannot be used any more: "
              "check the pointers of the last launches, then restart the process"};
    case kErrorInvalidImage:
    case kErrorNoBinaryForGpu:
      return {StatusCode::kDataError, message + "; the binary was made for another GPU"};
    case kErrorLaunchOutOfResources:
      return {StatusCode::kDeviceError,
              message + "; the kernel needs more registers or shared memory than are free"};
    default:
      return {StatusCode::kDeviceError, message};
  }
}

ScopedContext::ScopedContext(const Driver& api, CUdevice device, CUcontext primary) : api_(api) {
  CUdevice current = -1;
  if (api.cuCtxGetCurrent(&context_) == kSuccess && context_ != nullptr &&
      api.cuCtxGetDevice(&current) == kSuccess && current == device) {
    return;
  }
  context_ = primary;
  const CUresult result = api.cuCtxPushCurrent(primary);
  pushed_ = result == kSuccess;
  if (!pushed_) status_ = failure(api, result, "making the device's primary context current");
}

ScopedContext::~ScopedContext() {
  CUcontext popped = nullptr;
  if (pushed_) api_.cuCtxPopCurrent(&popped);
}

}  // namespace moejit::internal::cuda
