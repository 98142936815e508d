// One CUDA device, or a compile-only stand-in for an architecture.
#pragma once

#include "backends/backend.h"
#include "backends/cuda/driver.h"

namespace moejit::internal::cuda {

class CudaDevice : public Device {
 public:
  // Device `ordinal` of the driver's numbering.
  static Result<std::unique_ptr<const CudaDevice>> open(const Driver& api, int ordinal);
  // Compiles for `arch` ("sm_90a") and can do nothing else.
  static Result<std::unique_ptr<const CudaDevice>> compile_only(const std::string& arch);

  const DeviceInfo& info() const override { return info_; }
  Result<std::string> compiler() const override;
  Result<Binary> compile(const KernelSource& source) const override;
  Result<std::string> assembly(const KernelSource& source) const override;
  Result<std::shared_ptr<const Module>> load(const Binary& binary,
                                             const KernelSource& source) const override;
  Result<std::shared_ptr<void>> allocate(size_t bytes) const override;
  Status copy_in(void* device, const void* host, size_t bytes) const override;
  Status copy_out(void* host, const void* device, size_t bytes) const override;
  Status synchronize() const override;
  Result<std::vector<double>> time(const std::function<Status(int, Stream)>& body,
                                   int repeats) const override;
  bool is_capturing(Stream stream) const override;
  Status check_pointer(const char* field, const void* pointer) const override;

 private:
  Status need_device() const;

  const Driver* api_ = nullptr;  // null: compile-only
  CUdevice device_ = 0;
  CUcontext primary_ = nullptr;
  bool pageable_ = false;  // reads any host memory, too
  DeviceInfo info_;
};

// Bytes of shared memory that one block may have on `arch`, or 0 where the arch is not known.
int64_t shared_bytes_of(const std::string& arch);

}  // namespace moejit::internal::cuda
