// One HIP device, or a compile-only stand-in for an architecture.
#pragma once

#include "backends/backend.h"
#include "backends/hip/runtime.h"

namespace moejit::internal::hip {

class HipDevice : public Device {
 public:
  // Device `ordinal` of the runtime's numbering.
  static Result<std::unique_ptr<const HipDevice>> open(const Runtime& api, int ordinal);
  // Compiles for `arch` ("gfx942", features are left out) and can do nothing else.
  static Result<std::unique_ptr<const HipDevice>> compile_only(const std::string& arch);

  const DeviceInfo& info() const override { return info_; }
  // hiprtc on a device where ROCm has it, else Clang; the other way round to compile only.
  Result<std::string> compiler() const override;
  Result<Binary> compile(const KernelSource& source) const override;
  // Clang's assembly.
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

 private:
  Status need_device() const;

  const Runtime* api_ = nullptr;  // null: compile-only
  int ordinal_ = 0;
  DeviceInfo info_;
};

// Why `binary` cannot be loaded on `arch` as the code of `source`, or ok: format, architecture as
// stored and as the code object itself says, and every entry present.
Status check_binary(const Binary& binary, const KernelSource& source, const std::string& arch);

}  // namespace moejit::internal::hip
