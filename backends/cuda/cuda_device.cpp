#include "backends/cuda/cuda_device.h"

#include <algorithm>
#include <cstdio>

#include "backends/cuda/cuda_module.h"
#include "backends/cuda/nvrtc.h"
#include "backends/dump.h"

namespace moejit::internal::cuda {
namespace {

constexpr const char* kFormat = "cubin";

// From compute capability 9.0 on, the instructions that only that generation has need the suffix.
std::string arch_name(int major, int minor) {
  return "sm_" + std::to_string(major * 10 + minor) + (major >= 9 ? "a" : "");
}

// What the compute capability alone fixes; nominal sizes for compile-only use.
struct ArchFacts {
  const char* arch;
  int num_units;
  int64_t shared_bytes, l2_bytes;
};
constexpr ArchFacts kArchs[] = {
    {"sm_80", 108, 166912, int64_t{40} << 20},    {"sm_86", 84, 101376, int64_t{6} << 20},
    {"sm_87", 16, 166912, int64_t{4} << 20},      {"sm_89", 128, 101376, int64_t{64} << 20},
    {"sm_90a", 132, 232448, int64_t{50} << 20},   {"sm_100a", 148, 232448, int64_t{126} << 20},
    {"sm_103a", 148, 232448, int64_t{126} << 20}, {"sm_110a", 20, 232448, int64_t{32} << 20},
    {"sm_120a", 170, 101376, int64_t{96} << 20},  {"sm_121a", 48, 101376, int64_t{24} << 20},
};
const ArchFacts* find_arch(const std::string& arch) {
  for (const ArchFacts& facts : kArchs) {
    if (arch == facts.arch) return &facts;
  }
  return nullptr;
}

}  // namespace

int64_t shared_bytes_of(const std::string& arch) {
  const ArchFacts* facts = find_arch(arch);
  return facts == nullptr ? 0 : facts->shared_bytes;
}

Result<std::unique_ptr<const CudaDevice>> CudaDevice::open(const Driver& api, int ordinal) {
  auto device = std::make_unique<CudaDevice>();
  device->api_ = &api;
  if (const CUresult r = api.cuDeviceGet(&device->device_, ordinal); r != kSuccess) {
    return failure(api, r, "cuda:" + std::to_string(ordinal));
  }
  const auto attribute = [&](int id) {
    int value = 0;
    api.cuDeviceGetAttribute(&value, id, device->device_);
    return value;
  };
  const int major = attribute(kAttrComputeMajor), minor = attribute(kAttrComputeMinor);
  if (major < 8) {
    return Status(StatusCode::kUnsupported, "cuda:" + std::to_string(ordinal) +
                                                ": compute capability " + std::to_string(major) +
                                                "." + std::to_string(minor) +
                                                "; needed is 8.0 or later");
  }
  DeviceInfo& info = device->info_;
  info.name = "cuda:" + std::to_string(ordinal);
  char product[256] = {};
  api.cuDeviceGetName(product, sizeof product - 1, device->device_);
  info.product = product;
  size_t memory = 0;
  api.cuDeviceTotalMem(&memory, device->device_);
  info.memory_bytes = static_cast<int64_t>(memory);
  info.driver = version_text(api.version);
  Target& target = info.target;
  target.backend = BackendKind::kCuda;
  target.arch = arch_name(major, minor);
  target.num_units = attribute(kAttrMultiprocessorCount);
  target.l1_bytes = 0;
  target.l2_bytes = attribute(kAttrL2Bytes);
  target.shared_bytes = attribute(kAttrSharedPerBlockOptin);
  target.registers = attribute(kAttrRegistersPerMultiprocessor);
  device->pageable_ = attribute(kAttrPageableMemoryAccess) != 0;
  // Silicon facts only: products that differ in none of these behave alike.
  info.identity =
      "{\"arch\":\"" + target.arch +
      "\",\"backend\":\"cuda\",\"bus_bits\":" + std::to_string(attribute(kAttrMemoryBusWidth)) +
      ",\"clock_khz\":" + std::to_string(attribute(kAttrClockRate)) + ",\"driver\":\"" +
      info.driver + "\",\"l2\":" + std::to_string(target.l2_bytes) +
      ",\"memory_clock_khz\":" + std::to_string(attribute(kAttrMemoryClockRate)) +
      ",\"memory_gib\":" + std::to_string((info.memory_bytes + (int64_t{1} << 29)) >> 30) +
      ",\"shared\":" + std::to_string(target.shared_bytes) +
      ",\"units\":" + std::to_string(target.num_units) + "}";
  if (const CUresult r = api.cuDevicePrimaryCtxRetain(&device->primary_, device->device_);
      r != kSuccess) {
    return failure(api, r, info.name + ": primary context");
  }
  return std::unique_ptr<const CudaDevice>(std::move(device));
}

Result<std::unique_ptr<const CudaDevice>> CudaDevice::compile_only(const std::string& arch) {
  const ArchFacts* facts = find_arch(arch);
  if (facts == nullptr) {
    std::string list;
    for (const ArchFacts& f : kArchs) list += (list.empty() ? "" : ", ") + std::string(f.arch);
    return Status(StatusCode::kNotFound,
                  "cuda:" + arch + ": no such architecture; there are " + list);
  }
  auto device = std::make_unique<CudaDevice>();
  DeviceInfo& info = device->info_;
  info.name = "cuda:" + arch;
  info.product = "compile only";
  info.target = {.backend = BackendKind::kCuda,
                 .arch = arch,
                 .num_units = facts->num_units,
                 .l1_bytes = 0,
                 .l2_bytes = facts->l2_bytes,
                 .l3_bytes = 0,
                 .shared_bytes = facts->shared_bytes,
                 .registers = 65536};
  info.identity = "{\"arch\":\"" + arch + "\",\"backend\":\"cuda\",\"compile_only\":true}";
  return std::unique_ptr<const CudaDevice>(std::move(device));
}

Status CudaDevice::need_device() const {
  if (api_ != nullptr) return {};
  return {StatusCode::kUnsupported,
          info_.name + " compiles only; loading and running need a device such as cuda:0"};
}

Result<std::string> CudaDevice::compiler() const {
  const auto& nvrtc = Nvrtc::get();
  if (!nvrtc.ok()) return nvrtc.status();
  if (std::string why = (*nvrtc)->why_not(info_.target.arch); !why.empty()) {
    return Status(StatusCode::kUnavailable, std::move(why));
  }
  return (*nvrtc)->identity();
}

Result<Binary> CudaDevice::compile(const KernelSource& source) const {
  const auto& nvrtc = Nvrtc::get();
  if (!nvrtc.ok()) return nvrtc.status();
  if (dump_requested()) dump_source(source);
  Result<CompileOutput> output =
      (*nvrtc)->compile(source.name, source.text, source.arch, source.options, false);
  if (!output.ok()) {
    const Status& status = output.status();
    if (status.code() != StatusCode::kCompileError || dump_requested()) return status;
    const std::string path = dump_source(source);
    return Status(status.code(), status.message() + (path.empty() ? "" : "; source: " + path),
                  status.log());
  }
  Binary binary;
  binary.format = kFormat;
  binary.arch = source.arch;
  binary.compiler = (*nvrtc)->identity();
  binary.bytes = std::move(output->cubin);
  const PtxasReport report = parse_ptxas_report(output->log);
  binary.registers = report.registers;
  binary.spill_bytes = report.spill_bytes;
  for (const Entry& entry : source.entries) {
    binary.shared_bytes =
        std::max(binary.shared_bytes, entry.shared_bytes + std::max(report.shared_bytes, 0));
  }
  binary.compile_ms = output->milliseconds;
  binary.log = std::move(output->log);
  return binary;
}

Result<std::string> CudaDevice::assembly(const KernelSource& source) const {
  const auto& nvrtc = Nvrtc::get();
  if (!nvrtc.ok()) return nvrtc.status();
  Result<CompileOutput> output =
      (*nvrtc)->compile(source.name, source.text, source.arch, source.options, true);
  if (!output.ok()) return output.status();
  return "/* ptxas\n" + output->log + "*/\n" + output->ptx;
}

Result<std::shared_ptr<const Module>> CudaDevice::load(const Binary& binary,
                                                       const KernelSource& source) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  if (binary.format != kFormat || binary.arch != info_.target.arch) {
    return Status(StatusCode::kDataError, source.name + ": the binary is " + binary.format +
                                              " for " + binary.arch + ", and " + info_.name +
                                              " takes " + kFormat + " for " + info_.target.arch);
  }
  if (binary.bytes.empty())
    return Status(StatusCode::kDataError, source.name + ": the binary is empty");
  return CudaModule::load(*api_, device_, primary_, info_.target.num_units, binary, source);
}

Result<std::shared_ptr<void>> CudaDevice::allocate(size_t bytes) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  ScopedContext scope(*api_, device_, primary_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  const RelaxedCapture relaxed(*api_);
  CUdeviceptr pointer = 0;
  if (const CUresult r = api_->cuMemAlloc(&pointer, std::max<size_t>(bytes, 1)); r != kSuccess) {
    return failure(*api_, r, info_.name + ": allocating " + std::to_string(bytes) + " bytes");
  }
  const Driver* api = api_;
  const CUdevice device = device_;
  const CUcontext primary = primary_;
  return std::shared_ptr<void>(reinterpret_cast<void*>(pointer), [api, device, primary](void* p) {
    ScopedContext freeing(*api, device, primary);
    api->cuMemFree(reinterpret_cast<CUdeviceptr>(p));
  });
}

Status CudaDevice::copy_in(void* device, const void* host, size_t bytes) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  if (bytes == 0) return {};
  ScopedContext scope(*api_, device_, primary_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  const CUresult r = api_->cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(device), host, bytes);
  return r == kSuccess ? Status() : failure(*api_, r, info_.name + ": copying to the device");
}

Status CudaDevice::copy_out(void* host, const void* device, size_t bytes) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  if (bytes == 0) return {};
  ScopedContext scope(*api_, device_, primary_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  const CUresult r = api_->cuMemcpyDtoH(host, reinterpret_cast<CUdeviceptr>(device), bytes);
  return r == kSuccess ? Status() : failure(*api_, r, info_.name + ": copying from the device");
}

Status CudaDevice::synchronize() const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  ScopedContext scope(*api_, device_, primary_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  const CUresult r = api_->cuCtxSynchronize();
  return r == kSuccess ? Status() : failure(*api_, r, info_.name + ": waiting for the device");
}

bool CudaDevice::is_capturing(Stream stream) const {
  if (api_ == nullptr) return false;
  ScopedContext scope(*api_, device_, primary_);
  int capturing = 0;
  const CUresult r = api_->cuStreamIsCapturing(static_cast<CUstream>(stream), &capturing);
  // The default stream answers with this error while a stream that waits for it is captured.
  return r == kErrorStreamCaptureImplicit || (r == kSuccess && capturing != 0);
}

Status CudaDevice::check_pointer(const char* field, const void* pointer) const {
  if (api_ == nullptr || pageable_) return {};
  ScopedContext scope(*api_, device_, primary_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  unsigned type = 0;
  const CUresult r = api_->cuPointerGetAttribute(&type, kPointerMemoryType,
                                                 reinterpret_cast<CUdeviceptr>(pointer));
  if (r != kErrorInvalidValue) return {};
  char address[32];
  std::snprintf(address, sizeof address, "%p", pointer);
  return invalid_argument(std::string(field) + " = " + address + ": is not memory that " +
                          info_.name + " can reach; allocate it on the device");
}

}  // namespace moejit::internal::cuda
