// libcuda, opened at run time, and contexts.
#pragma once

#include <string>

#include "backends/cuda/driver_api.h"
#include "moejit/status.h"

namespace moejit::internal::cuda {

struct Driver {
#define MOEJIT_CUDA_MEMBER(name, symbol, parameters) CUresult(*name) parameters = nullptr;
  MOEJIT_CUDA_FUNCTIONS(MOEJIT_CUDA_MEMBER)
#undef MOEJIT_CUDA_MEMBER
  int version = 0;  // 13000 for CUDA 13.0
  std::string path;
};

// The driver, opened and initialised on the first call. kUnavailable with a sentence where there is
// no libcuda, no device, or the driver is older than CUDA 12. Thread-safe.
const Result<const Driver*>& driver();

// "13.0"
std::string version_text(int version);

// A failed call as a Status: `what` is the sentence's subject ("cuMemAlloc of 12 bytes").
Status failure(const Driver& api, CUresult result, const std::string& what);

// Makes sure that a context of `device` is current on this thread while the object lives: the
// thread's own one where it belongs to the device, else the device's primary context.
class ScopedContext {
 public:
  ScopedContext(const Driver& api, CUdevice device, CUcontext primary);
  ~ScopedContext();
  ScopedContext(const ScopedContext&) = delete;
  ScopedContext& operator=(const ScopedContext&) = delete;

  const Status& status() const { return status_; }
  CUcontext context() const { return context_; }

 private:
  const Driver& api_;
  CUcontext context_ = nullptr;
  bool pushed_ = false;
  Status status_;
};

// While it lives, this thread's allocations and module loads are allowed although another thread
// captures a graph in the driver's global mode, and do not end that capture.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const Driver& api) : api_(api) {
    api_.cuThreadExchangeStreamCaptureMode(&mode_);
  }
  ~RelaxedCapture() { api_.cuThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  const Driver& api_;
  int mode_ = kCaptureModeRelaxed;
};

}  // namespace moejit::internal::cuda
