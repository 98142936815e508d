// libamdhip64, opened at run time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/hip/hip_api.h"
#include "moejit/status.h"

namespace moejit::internal::hip {

struct Runtime {
#define MOEJIT_HIP_MEMBER(name, parameters) hipError_t(*name) parameters = nullptr;
  MOEJIT_HIP_FUNCTIONS(MOEJIT_HIP_MEMBER)
#undef MOEJIT_HIP_MEMBER
  const char* (*hipGetErrorName)(hipError_t) = nullptr;
  const char* (*hipGetErrorString)(hipError_t) = nullptr;
  // hipGetDevicePropertiesR0600, or the older hipGetDeviceProperties.
  hipError_t (*properties)(void*, int) = nullptr;
  int version = 0;  // as hipRuntimeGetVersion reports it
  std::string path;
};

// Opens and initialises the first of `paths` that the loader finds. kUnavailable with a sentence
// where there is none, where a function is missing, or where it finds no device.
Result<std::unique_ptr<const Runtime>> open_runtime(const std::vector<std::string>& paths);

// The runtime of this process, opened on the first call. Thread-safe.
const Result<const Runtime*>& runtime();

// Where libamdhip64 may be. First of all the one that this process has: frameworks bring their own,
// and their streams mean nothing to another. Then rocm_candidates().
std::vector<std::string> runtime_candidates();

// Where the libraries of ROCm may be: `names` beside the runtime that the process has, in
// ROCM_PATH, as the loader finds them, and in /opt/rocm.
std::vector<std::string> rocm_candidates(const std::vector<std::string>& names);

// Name and exact arch of a device ("AMD Instinct MI300X", "gfx942:sramecc+:xnack-"), found in the
// properties by their form: the structure's layout differs between versions.
struct DeviceName {
  std::string product;
  std::string arch;
};
DeviceName device_name(const Runtime& api, int ordinal);

// "gfx942:sramecc+:xnack-" -> "gfx942".
std::string base_arch(const std::string& arch);

// A failed call as a Status: `what` is the sentence's subject ("hipMalloc of 12 bytes").
Status failure(const Runtime& api, hipError_t result, const std::string& what);

// Makes `ordinal` the thread's device while the object lives.
class ScopedDevice {
 public:
  ScopedDevice(const Runtime& api, int ordinal);
  ~ScopedDevice();
  ScopedDevice(const ScopedDevice&) = delete;
  ScopedDevice& operator=(const ScopedDevice&) = delete;
  const Status& status() const { return status_; }

 private:
  const Runtime& api_;
  int before_ = -1;
  bool changed_ = false;
  Status status_;
};

}  // namespace moejit::internal::hip
