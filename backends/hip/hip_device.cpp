#include "backends/hip/hip_device.h"

#include <algorithm>

#include "backends/hip/code_object.h"
#include "backends/hip/hip_compile.h"
#include "backends/hip/hip_module.h"

namespace moejit::internal::hip {
namespace {

constexpr const char* kFormat = "hsaco";
constexpr int64_t kLdsBytes = 64 << 10;

// Nominal sizes for compile-only use: MI250X (one of its two dies), MI300X, Radeon RX 7900 XTX
// (whose units are the 48 workgroup processors that HIP counts). The Infinity Cache behind the L2
// is that of the data sheets; HIP has no attribute for it, and weights that lie in it are not cold.
// Registers: of a unit.
struct ArchFacts {
  const char* arch;
  const char* product;
  int num_units;
  int64_t l2_bytes;
  int64_t infinity_cache_bytes;
  int64_t registers;
};
constexpr ArchFacts kArchs[] = {
    {"gfx90a", "compile only (sizes of one die of an MI250X)", 110, int64_t{8} << 20, 0,
     4 * 512 * 64},
    {"gfx942", "compile only (sizes of an MI300X)", 304, int64_t{32} << 20, int64_t{256} << 20,
     4 * 512 * 64},
    {"gfx1100", "compile only (sizes of a Radeon RX 7900 XTX)", 48, int64_t{6} << 20,
     int64_t{96} << 20, 4 * 1536 * 32},
};

const ArchFacts* find_arch(const std::string& arch) {
  for (const ArchFacts& facts : kArchs) {
    if (arch == facts.arch) return &facts;
  }
  return nullptr;
}

std::string known_archs() {
  std::string list;
  for (const ArchFacts& facts : kArchs)
    list += (list.empty() ? "" : ", ") + std::string(facts.arch);
  return list;
}

}  // namespace

Result<std::unique_ptr<const HipDevice>> HipDevice::open(const Runtime& api, int ordinal) {
  auto device = std::make_unique<HipDevice>();
  device->api_ = &api;
  device->ordinal_ = ordinal;
  const std::string name = "hip:" + std::to_string(ordinal);
  const DeviceName found = device_name(api, ordinal);
  const std::string arch = base_arch(found.arch);
  if (find_arch(arch) == nullptr) {
    return Status(StatusCode::kUnsupported, name + " (" + found.product +
                                                "): arch = " + (arch.empty() ? "unknown" : arch) +
                                                ": must be one of " + known_archs());
  }
  const auto attribute = [&](int id) {
    int value = 0;
    api.hipDeviceGetAttribute(&value, id, ordinal);
    return value;
  };
  DeviceInfo& info = device->info_;
  info.name = name;
  info.product = found.product;
  size_t memory = 0;
  api.hipDeviceTotalMem(&memory, ordinal);
  info.memory_bytes = static_cast<int64_t>(memory);
  info.driver = std::to_string(api.version);
  Target& target = info.target;
  target.backend = BackendKind::kHip;
  target.arch = arch;
  target.num_units = std::max(attribute(kAttrMultiprocessorCount), 1);
  target.l1_bytes = 0;
  target.l2_bytes = attribute(kAttrL2Bytes);
  target.l3_bytes = find_arch(arch)->infinity_cache_bytes;
  target.shared_bytes = attribute(kAttrSharedPerBlock);
  target.registers = find_arch(arch)->registers;
  // Silicon facts only, with the features of the arch: they change what a unit does.
  info.identity =
      "{\"arch\":\"" + found.arch +
      "\",\"backend\":\"hip\",\"bus_bits\":" + std::to_string(attribute(kAttrMemoryBusWidth)) +
      ",\"clock_khz\":" + std::to_string(attribute(kAttrClockRate)) + ",\"driver\":\"" +
      info.driver + "\",\"l2\":" + std::to_string(target.l2_bytes) +
      ",\"memory_clock_khz\":" + std::to_string(attribute(kAttrMemoryClockRate)) +
      ",\"memory_gib\":" + std::to_string((info.memory_bytes + (int64_t{1} << 29)) >> 30) +
      ",\"shared\":" + std::to_string(target.shared_bytes) +
      ",\"units\":" + std::to_string(target.num_units) + "}";
  return std::unique_ptr<const HipDevice>(std::move(device));
}

Result<std::unique_ptr<const HipDevice>> HipDevice::compile_only(const std::string& spec) {
  const std::string arch = base_arch(spec);
  const ArchFacts* facts = find_arch(arch);
  if (facts == nullptr) {
    return Status(StatusCode::kNotFound,
                  "hip:" + spec + ": arch = " + arch + ": must be one of " + known_archs());
  }
  auto device = std::make_unique<HipDevice>();
  DeviceInfo& info = device->info_;
  info.name = "hip:" + arch;
  info.product = facts->product;
  info.target = {.backend = BackendKind::kHip,
                 .arch = arch,
                 .num_units = facts->num_units,
                 .l1_bytes = 0,
                 .l2_bytes = facts->l2_bytes,
                 .l3_bytes = facts->infinity_cache_bytes,
                 .shared_bytes = kLdsBytes,
                 .registers = facts->registers};
  info.identity = "{\"arch\":\"" + arch + "\",\"backend\":\"hip\",\"compile_only\":true}";
  return std::unique_ptr<const HipDevice>(std::move(device));
}

Status HipDevice::need_device() const {
  if (api_ != nullptr) return {};
  return {StatusCode::kUnsupported,
          info_.name + " compiles only; loading and running need a device such as hip:0"};
}

Result<std::string> HipDevice::compiler() const {
  return compiler_identity(api_ != nullptr ? Prefer::kHiprtc : Prefer::kClang);
}

Result<Binary> HipDevice::compile(const KernelSource& source) const {
  if (source.arch != info_.target.arch) {
    return Status(StatusCode::kUnsupported, "arch = \"" + source.arch + "\": " + info_.name +
                                                " compiles for " + info_.target.arch + " only");
  }
  return compile_source(source, api_ != nullptr ? Prefer::kHiprtc : Prefer::kClang);
}

Result<std::string> HipDevice::assembly(const KernelSource& source) const {
  return clang_assembly(source);
}

Status check_binary(const Binary& binary, const KernelSource& source, const std::string& arch) {
  if (binary.format != kFormat || base_arch(binary.arch) != arch) {
    return {StatusCode::kDataError, source.name + ": the binary is " + binary.format + " for " +
                                        binary.arch + "; needed is " + kFormat + " for " + arch};
  }
  const Result<CodeObject> object = read_code_object(binary.bytes);
  if (!object.ok()) return {StatusCode::kDataError, source.name + ": " + object.status().message()};
  if (object->arch != arch) {
    return {StatusCode::kDataError, source.name + ": the code object was made for " + object->arch +
                                        ", not for " + arch +
                                        "; `moejit cache verify` finds such entries"};
  }
  for (const Entry& entry : source.entries) {
    const bool there = std::any_of(object->kernels.begin(), object->kernels.end(),
                                   [&](const KernelFacts& k) { return k.name == entry.name; });
    if (!there) {
      return {StatusCode::kDataError,
              source.name + ": entry \"" + entry.name + "\" is not in the code object"};
    }
  }
  return {};
}

Result<std::shared_ptr<const Module>> HipDevice::load(const Binary& binary,
                                                      const KernelSource& source) const {
  MOEJIT_RETURN_IF_ERROR(check_binary(binary, source, info_.target.arch));
  MOEJIT_RETURN_IF_ERROR(need_device());
  return HipModule::load(*api_, ordinal_, info_.target.num_units, binary, source);
}

Result<std::shared_ptr<void>> HipDevice::allocate(size_t bytes) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  ScopedDevice scope(*api_, ordinal_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  void* pointer = nullptr;
  if (const hipError_t r = api_->hipMalloc(&pointer, std::max<size_t>(bytes, 1)); r != kSuccess) {
    return failure(*api_, r, info_.name + ": allocating " + std::to_string(bytes) + " bytes");
  }
  const Runtime* api = api_;
  return std::shared_ptr<void>(pointer, [api](void* p) { api->hipFree(p); });
}

Status HipDevice::copy_in(void* device, const void* host, size_t bytes) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  if (bytes == 0) return {};
  ScopedDevice scope(*api_, ordinal_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  const hipError_t r = api_->hipMemcpy(device, host, bytes, kCopyHostToDevice);
  return r == kSuccess ? Status() : failure(*api_, r, info_.name + ": copying to the device");
}

Status HipDevice::copy_out(void* host, const void* device, size_t bytes) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  if (bytes == 0) return {};
  ScopedDevice scope(*api_, ordinal_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  const hipError_t r = api_->hipMemcpy(host, device, bytes, kCopyDeviceToHost);
  return r == kSuccess ? Status() : failure(*api_, r, info_.name + ": copying from the device");
}

Status HipDevice::synchronize() const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  ScopedDevice scope(*api_, ordinal_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  const hipError_t r = api_->hipDeviceSynchronize();
  return r == kSuccess ? Status() : failure(*api_, r, info_.name + ": waiting for the device");
}

bool HipDevice::is_capturing(Stream stream) const {
  if (api_ == nullptr) return false;
  int capturing = 0;
  return api_->hipStreamIsCapturing(static_cast<hipStream_t>(stream), &capturing) == kSuccess &&
         capturing != 0;
}

}  // namespace moejit::internal::hip
